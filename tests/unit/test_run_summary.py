"""What the summary says of a run that came nowhere near its plan."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgetune.planning.clock import Clock
from edgetune.planning.plan import Plan
from edgetune.report.model_card import model_card
from edgetune.report.result_tables import evaluation_sections, summary_sections
from edgetune.runs.deadline import Deadline, NoDeadline
from edgetune.runs.finalize import _short_of_plan, compare_with_majority
from edgetune.utils.metrics import evaluate_predictions
from edgetune.utils.tables import sections_text


@pytest.mark.parametrize(
    ("n_rows", "n_seen", "n_trained", "n_probe_rows", "stopped", "patience", "words"),
    [
        (1_000, 64, 64, 100, False, None, "the machine was busy"),
        (1_000, 64, 64, 200, False, None, "linear probe"),
        (1_000, 64, 0, 100, False, None, "No rows were trained"),
        (1_000, 500, 500, 100, False, None, None),
        (1_000, 64, 64, 100, True, None, None),
        (1_000, 64, 64, 100, False, 3, None),
        (0, 0, 0, 100, False, None, None),
    ],
)
def test_a_run_far_below_its_plan_says_so(
    n_rows: int,
    n_seen: int,
    n_trained: int,
    n_probe_rows: int,
    stopped: bool,
    patience: int | None,
    words: str | None,
) -> None:
    config: Any = SimpleNamespace(budget=SimpleNamespace(patience=patience))
    deadline = Deadline(
        Plan("torch", n_rows=n_rows, n_probe_rows=100), Clock(60.0, {}, float), lambda *batch: 0.0, 1.0
    )
    loop: Any = SimpleNamespace(stopped=stopped, counts=SimpleNamespace(n_seen=n_seen, n_trained=n_trained))
    said = _short_of_plan(config, deadline, loop, n_probe_rows)
    assert [words in one for one in said] == [True] if words else said == []
    assert _short_of_plan(config, NoDeadline(), loop, n_probe_rows) == []
    deadline.give_to_probe(n_rows)
    assert _short_of_plan(config, deadline, loop, n_probe_rows) == []


@pytest.mark.parametrize(
    ("n_right", "always", "worse", "words"),
    [
        (40, False, True, ['worse than always predicting "a"']),  # 90 of 100 rows are "a"
        (89, False, False, []),  # not beyond chance
        (97, False, False, []),
        (90, True, False, ['Every evaluation row is predicted "a"', '"b" (10)']),
    ],
)
def test_the_majority_class_is_what_a_model_is_compared_with(
    n_right: int, always: bool, worse: bool, words: list[str]
) -> None:
    labels = np.repeat([0, 1], [90, 10])
    predicted = np.zeros(100, int) if always else np.where(np.arange(100) < n_right, labels, 1 - labels)
    found = evaluate_predictions(np.eye(2)[predicted], labels, ("a", "b"))
    said = compare_with_majority(found)
    assert said[0] == worse
    assert len(said[1]) == len(words)
    assert all(part in one for part, one in zip(words, said[1], strict=True))
    assert compare_with_majority(None) == (False, [])


def test_classes_that_are_never_predicted_are_named() -> None:
    labels = np.repeat([0, 1, 2], [80, 17, 3])
    predicted = np.where(labels == 2, 0, labels)
    found = evaluate_predictions(np.eye(4)[predicted], labels, ("ok", "spam", "fraud", "other"))
    worse, (said,) = compare_with_majority(found)
    assert not worse
    assert '"fraud" (3)' in said
    assert "other" not in said  # no evaluation row is one
    summary = found.to_dict() | {"warnings": [said]}
    card, table = model_card(summary), sections_text(summary_sections(summary))
    for text in (card, table, sections_text(evaluation_sections(found))):
        assert "fraud" in text
        assert "1 of 4 classes have no evaluation rows" in text
    assert said in " ".join(table.split())
