"""Watches a filter while it runs: what scoring costs against what skipping saves, both measured.

A filter that loses is switched off: from then on every row is trained unscored, and the summary says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgetune.data.batches import Batch, TokenSource
from edgetune.run_files.counters import Counters
from edgetune.selection.selector_contract import Selector, StageChange
from edgetune.utils.formatting import counted
from edgetune.utils.types import BoolArray, FloatArray

FEWEST_SCORED = 640
STAGE_OFF = "filter_off"


def filter_balance(
    counts: Counters, row_s: float | None, split_s: dict[str, float], score_rate: float = 1.0
) -> tuple[float, float] | None:
    """Return what a filter has cost (scoring and choosing) and saved (train steps), in seconds.

    Args:
        counts: what happened to the rows.
        row_s: what a row costs unfiltered, seconds; None: what it costs in a train step.
        split_s: seconds by phase.
        score_rate: share of a score that is not saved again when the row is trained: above frozen layers
            whose output is kept, the rest is.

    Returns:
        None before a train step was measured.
    """
    if not counts.n_trained:
        return None
    if row_s is None:
        row_s = split_s["train"] / counts.n_trained
    return score_rate * split_s["score"] + split_s["select"], counts.n_skipped * row_s


class GuardedSelector(Selector):
    """A selector that can be switched off: then every row is trained unscored."""

    def __init__(self, inner: Selector, score_rate: float = 1.0) -> None:
        self.inner = inner
        self._score_rate = score_rate
        # A wrapper has those of its selector.
        self.name, self.restarts = inner.name, inner.restarts  # type: ignore[misc]
        self.switched_off = ""
        self.n_seen = 0
        self._stages = []

    @property
    def skips_scoring(self) -> bool:
        return bool(self.switched_off) or self.inner.skips_scoring

    @property
    def stages(self) -> list[StageChange]:
        return [*self.inner.stages, *self._stages]

    @property
    def lookahead(self) -> int:
        return 1 if self.switched_off else self.inner.lookahead

    @property
    def decision_size(self) -> int:
        return 1 if self.switched_off else self.inner.decision_size

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
        if found is None or found[0] <= found[1]:
            return ""
        cost_s, saved_s = found
        self.switched_off = (
            f"scoring cost {cost_s:.1f} s, but skipping {counted(counts.n_skipped, 'row')} saved only "
            f"{saved_s:.1f} s"
        )
        self._enter(STAGE_OFF, self.switched_off)
        return self.switched_off

    def choose_score(self, batch: Batch) -> BoolArray:
        everything = super().choose_score(batch)
        return everything if self.switched_off else self.inner.choose_score(batch)

    def choose_train(self, batch: Batch, losses: FloatArray) -> BoolArray:
        everything = super().choose_train(batch, losses)
        return everything if self.switched_off else self.inner.choose_train(batch, losses)

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
            "n_seen": self.n_seen,
            "n_seen_off": [change.n_seen for change in self._stages],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.inner.load_state(state["inner"])
        self.switched_off = state["switched_off"]
        self.n_seen = state["n_seen"]
        self._stages = [StageChange(STAGE_OFF, n, self.switched_off) for n in state["n_seen_off"]]
