"""The sample of a large file: uniform, in order, with rows of every class, and cut when time is up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetune.data.examples import DataOptions, Example
from edgetune.data.row_sample import FEWEST_ROWS, MOST_ROWS, RowSample, draw_sample, sample_for
from edgetune.data.token_format import TokenizerSpec
from edgetune.data.tokens import open_tokens


def rows(n: int, rare: tuple[int, ...] = ()) -> Iterator[Example]:
    for line in range(1, n + 1):
        yield Example(line, f"text {line}", None, "rare" if line in rare else "ab"[line % 2])


def silent(n_read: int) -> None:
    pass


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 5))
def test_it_has_as_many_rows_as_asked_for_in_order(n: int, n_rows: int, seed: int) -> None:
    drawn = draw_sample(
        (Example(i, "x", None, "a") for i in range(n)), RowSample(10**9, n_rows, seed), silent
    )
    lines = [example.line for example in drawn.examples]
    assert lines == sorted(set(lines))
    assert min(n, n_rows) <= len(lines) <= min(n, n_rows) + 20  # at most a few more of the class
    assert (drawn.n_seen, drawn.is_cut) == (n, False)


def test_every_row_is_as_likely_as_any_other() -> None:
    counts = np.zeros(400)
    for seed in range(300):
        drawn = draw_sample(
            (Example(i, "x", None, str(i)) for i in range(400)), RowSample(10**9, 100, seed), silent
        )
        chosen = [example.line for example in drawn.examples]
        counts[chosen] += 1
    # 400 classes of one row would all be kept: the rows of rare classes are drawn beside the sample
    assert (counts == 300).all()
    counts[:] = 0
    for seed in range(600):
        drawn = draw_sample(
            (Example(i, "x", None, "a") for i in range(400)), RowSample(10**9, 100, seed), silent
        )
        counts[[example.line for example in drawn.examples]] += 1
    share = counts / 600
    assert share[:40].mean() == pytest.approx(share[-40:].mean(), abs=0.02)
    assert share.std() < 0.03


def test_rare_classes_are_kept() -> None:
    drawn = draw_sample(rows(5000, rare=(7, 4999)), RowSample(10**9, 50, 0), silent)
    assert sum(example.label == "rare" for example in drawn.examples) == 2
    again = draw_sample(rows(5000, rare=(7, 4999)), RowSample(10**9, 50, 0), silent)
    assert again == drawn


def test_reading_ends_when_time_is_up() -> None:
    told: list[int] = []
    drawn = draw_sample(rows(50_000), RowSample(10**9, 500, 0, lambda: len(told) >= 4), told.append)
    assert drawn.is_cut
    assert drawn.n_seen == 4000
    assert len(drawn.examples) >= 500


def test_the_deadline_decides_how_many() -> None:
    assert sample_for(None, 0, lambda: 0.0) is None
    short, longer, endless = (sample_for(s, 0, lambda: 20.0) for s in (1.0, 60.0, 1e6))
    assert short is not None
    assert longer is not None
    assert endless is not None
    longs, pairs = (
        [Example(i, "x" * n, second, "a") for i in range(10)] for n, second in ((330, None), (55, "y" * 55))
    )
    assert [sample.n_rows(longs) for sample in (short, longer, endless)] == [FEWEST_ROWS, 38_182, MOST_ROWS]
    assert longer.n_rows(pairs) == 114_545
    assert (short.out_of_time(), longer.out_of_time(), endless.out_of_time()) == (True, True, False)


def test_a_sample_is_cached_apart_and_says_so(tmp_path: Path, tiny_model: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "".join(f"some text {i},{'ab'[i % 2]}\n" for i in range(3000)))
    spec = TokenizerSpec(tiny_model / "tokenizer.json", 16, 0)

    def opened(sample: RowSample | None) -> list[str]:
        store = open_tokens(str(path), DataOptions(), spec, tmp_path / "cache", 0.01, sample=sample)
        assert len(store) == store.meta.n_rows
        return [f"{len(store)}", *(finding.text for finding in store.findings())]

    small = opened(RowSample(10**9, 100, 0))
    assert 100 <= int(small[0]) <= 140
    assert "sample" in small[1]
    assert opened(RowSample(10**9, 100, 0)) == small
    assert opened(None)[0] == "3000"  # the sample is not taken for all
    assert opened(RowSample(10**9, 100, 0))[0] == "3000"  # all are there now
    assert opened(RowSample(10**9, 5000, 0))[0] == "3000"
