"""Counting repeats and contradictions, against a plain dictionary."""

from __future__ import annotations

import numpy as np
import pytest

from edgetune.data.quality import Repeats, count_repeats, label_findings


@pytest.mark.parametrize("n_rows", [1, 2, 500])
def test_repeats_are_counted_as_a_dictionary_would(n_rows: int) -> None:
    rng = np.random.default_rng(n_rows)
    hashes = rng.integers(0, 2**64, size=200, dtype=np.uint64)[rng.integers(0, 200, size=n_rows)]
    labels = rng.integers(0, 5, size=n_rows).astype(np.int32)
    seen: dict[int, set[int]] = {}
    for text, label in zip(hashes.tolist(), labels.tolist(), strict=True):
        seen.setdefault(text, set()).add(label)
    n_conflicts = sum(1 for found in seen.values() if len(found) > 1)
    assert count_repeats(hashes, labels) == Repeats(n_rows - len(seen), n_conflicts)


def test_many_rare_labels_are_not_all_named() -> None:
    found = [
        finding.text for finding in label_findings({f"l{i}": 3 for i in range(8)}, Repeats(0, 2), 0, 128)
    ]
    assert found == [
        "2 texts appear with conflicting labels.",
        'Labels with fewer than 10 rows: "l0" (3), "l1" (3), "l2" (3), "l3" (3), "l4" (3) and 3 more.',
    ]
