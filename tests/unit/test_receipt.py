"""What the receipt says of a run that came nowhere near its plan."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edgetune.runs.finalize import _short_of_plan


@pytest.mark.parametrize(
    ("n_rows", "n_seen", "n_trained", "stopped", "patience", "words"),
    [
        (1_000, 64, 64, False, None, "Only 64 of about 1,000 planned rows"),
        (1_000, 64, 0, False, None, "No rows were trained"),
        (1_000, 500, 500, False, None, None),
        (1_000, 64, 64, True, None, None),
        (1_000, 64, 64, False, 3, None),
        (0, 0, 0, False, None, None),
    ],
)
def test_a_run_far_below_its_plan_says_so(
    n_rows: int, n_seen: int, n_trained: int, stopped: bool, patience: int | None, words: str | None
) -> None:
    prepared: Any = SimpleNamespace(config=SimpleNamespace(budget=SimpleNamespace(patience=patience)))
    timed: Any = SimpleNamespace(plan=SimpleNamespace(n_rows=n_rows))
    loop: Any = SimpleNamespace(stopped=stopped, counts=SimpleNamespace(n_seen=n_seen, n_trained=n_trained))
    said = _short_of_plan(prepared, timed, loop)
    assert [words in one for one in said] == [True] if words else said == []
    assert _short_of_plan(prepared, None, loop) == []
