"""Watches a filter while it runs: what scoring costs against what skipping saves, both measured.

A filter that loses is switched off: from then on every row is trained unscored, and the summary says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgetune.data.batches import Batch, TokenSource
from edgetune.run_files.counters import Counters
from edgetune.selection.selector_contract import Selector, StageChange
from edgetune.utils.formatting import counted
from edgetune.utils.types import BoolArray, FloatArray

FEWEST_SCORED = 640
STAGE_OFF = "filter_off"


@dataclass(frozen=True)
class FilterBalance:
    """What a filter has cost and saved so far, in seconds.

    Attributes:
        cost_s: scoring and choosing.
        saved_s: train steps of the rows that were skipped, at the measured price of a row.
    """

    cost_s: float
    saved_s: float


def filter_balance(
    counts: Counters, row_s: float | None, split_s: dict[str, float], score_rate: float = 1.0
) -> FilterBalance | None:
    """Return the balance; None before a train step was measured.

    Args:
        counts: what happened to the rows.
        row_s: what a row costs unfiltered, seconds; None: what it costs in a train step.
        split_s: seconds by phase.
        score_rate: share of a score that is not saved again when the row is trained: above frozen layers
            whose output is kept, the rest is.
    """
    if not counts.n_trained:
        return None
    if row_s is None:
        row_s = split_s["train"] / counts.n_trained
    return FilterBalance(score_rate * split_s["score"] + split_s["select"], counts.n_skipped * row_s)


class GuardedSelector:
    """A selector that can be switched off; implements `Selector`."""

    name: ClassVar[str]

    def __init__(self, inner: Selector, score_rate: float = 1.0) -> None:
        self.inner = inner
        self._score_rate = score_rate
        self.name = inner.name  # type: ignore[misc]  # a wrapper has its selector's name
        self.switched_off = ""
        self._n_seen = 0
        self._changes: list[StageChange] = []

    @property
    def stage(self) -> str:
        return STAGE_OFF if self.switched_off else self.inner.stage

    @property
    def skips_scoring(self) -> bool:
        return bool(self.switched_off) or self.inner.skips_scoring

    @property
    def stages(self) -> list[StageChange]:
        return [*self.inner.stages, *self._changes]

    @property
    def lookahead(self) -> int:
        return 1 if self.switched_off else self.inner.lookahead

    @property
    def decision_size(self) -> int:
        return 1 if self.switched_off else self.inner.decision_size

    @property
    def restarts(self) -> bool:
        return self.inner.restarts

    @property
    def span(self) -> tuple[float, float]:
        return self.inner.span

    def prepare(self, source: TokenSource, should_stop: Callable[[], bool]) -> None:
        self.inner.prepare(source, should_stop)

    def on_batch_start(self, progress: float, epoch: int) -> None:
        self.inner.on_batch_start(progress, epoch)

    def check_balance(self, counts: Counters, row_s: float | None, split_s: dict[str, float]) -> str:
        """Switch the filter off when it has cost more than it saved; return why, "" while it stays on."""
        if self.switched_off or counts.n_scored < FEWEST_SCORED:
            return ""
        found = filter_balance(counts, row_s, split_s, self._score_rate)
        if found is None or found.cost_s <= found.saved_s:
            return ""
        self.switched_off = (
            f"scoring cost {found.cost_s:.1f} s, but skipping {counted(counts.n_skipped, 'row')} saved only "
            f"{found.saved_s:.1f} s"
        )
        self._changes.append(StageChange(STAGE_OFF, self._n_seen, self.switched_off))
        return self.switched_off

    def choose_score(self, batch: Batch) -> BoolArray:
        self._n_seen += len(batch)
        return _all(batch) if self.switched_off else self.inner.choose_score(batch)

    def choose_train(self, batch: Batch, losses: FloatArray) -> BoolArray:
        return _all(batch) if self.switched_off else self.inner.choose_train(batch, losses)

    def loss_weights(self, batch: Batch) -> FloatArray | None:
        return None if self.switched_off else self.inner.loss_weights(batch)

    def observe(self, batch: Batch, losses: FloatArray) -> None:
        if not self.switched_off:
            self.inner.observe(batch, losses)

    def report(self) -> dict[str, Any]:
        found = self.inner.report()
        return {**found, "switched_off": self.switched_off} if self.switched_off else found

    def state(self) -> dict[str, Any]:
        return {
            "inner": self.inner.state(),
            "switched_off": self.switched_off,
            "n_seen": self._n_seen,
            "n_seen_off": [change.n_seen for change in self._changes],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.inner.load_state(state["inner"])
        self.switched_off = state["switched_off"]
        self._n_seen = state["n_seen"]
        self._changes = [StageChange(STAGE_OFF, n, self.switched_off) for n in state["n_seen_off"]]


def _all(batch: Batch) -> BoolArray:
    return np.ones(len(batch), dtype=np.bool_)
