"""Dataset cartography: a first model measures every row, a second one is trained on the third that counts.

What: a reference model is trained on everything for `reference_rate` of the run (default: half). Each
    visit records p(gold) = exp(-loss), from the train step's own forward pass, before its update. Then
    training starts afresh, from the first weights, on the top `subset_rate` of the measured rows:
    `cartography-ambiguous` takes those whose p(gold) varies most (standard deviation over visits),
    `cartography-hard` those of lowest confidence (mean p(gold)). A row visited once has no standard
    deviation; sqrt(p(1-p)), the most that one mean allows, stands in for it. Since that is larger than
    what visits measure, and since p(gold) rises from visit to visit, rows are ranked among those visited
    as often, and the ranks compared. Rows never visited cannot be ranked and are skipped.
Use when: robustness to other data matters more than time, and time allows several passes of reference.
Costs: the reference's share of the run, which trains nothing that is kept; 20 bytes per row until then.
Loses when: time is short: half of it is given up, and a reference of less than two passes measures how
    early a row came as much as how hard it is. `cartography-hard` collects wrong labels.
Source: Swayamdipta et al., Dataset Cartography, EMNLP 2020.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from edgetune.config.settings import MethodSettings
from edgetune.data.batches import Batch
from edgetune.selection.memory import RowTable, Stateful, top
from edgetune.selection.selector_contract import REFERENCE, SUBSET, DataShape, Selector
from edgetune.utils.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class RowVisits:
    """What the reference recorded of n rows, each visited at least once.

    Attributes:
        rows: (n,) row numbers, ascending.
        counts: (n,) visits.
        sums: (n,) of p(gold) over the visits.
        squares: (n,) sums of its squares.
    """

    rows: IntArray
    counts: IntArray
    sums: FloatArray
    squares: FloatArray


def gold_probability(losses: FloatArray) -> FloatArray:
    """Return p(gold) of losses (nats)."""
    return np.exp(-np.maximum(losses, 0.0))  # a loss just below 0 is rounding; p stays at most 1


def confidence(visits: RowVisits) -> FloatArray:
    """Return each row's mean p(gold) over its visits."""
    return visits.sums / visits.counts


def variability(visits: RowVisits) -> FloatArray:
    """Return each row's standard deviation of p(gold) over its visits; of one visit, sqrt(p(1-p))."""
    mean = confidence(visits)
    second = np.where(visits.counts == 1, mean, visits.squares / visits.counts)
    return np.sqrt(np.maximum(second - mean**2, 0.0))


def standing(scores: FloatArray, counts: IntArray) -> FloatArray:
    """Return where each score (n,) stands among those with the same count, in (0, 1); the highest is near 1.

    Of equal scores the earlier one stands higher.
    """
    order = np.lexsort((-scores, counts))
    _, starts, sizes = np.unique(counts[order], return_index=True, return_counts=True)
    places = np.arange(len(scores)) - np.repeat(starts, sizes)
    found = np.empty(len(scores))
    found[order] = 1 - (places + 0.5) / np.repeat(sizes, sizes)
    return found


class VisitRecord(Stateful):
    """Count, sum and sum of squares of p(gold), by row."""

    saved = ("_counts", "_sums", "_squares")

    def __init__(self) -> None:
        self._counts = RowTable(0, np.int32)
        self._sums = RowTable(0, np.float64)
        self._squares = RowTable(0, np.float64)

    def add(self, rows: IntArray, losses: FloatArray) -> None:
        """Record one visit of each row (B,); a loss that is not a number is no visit."""
        numbers = ~np.isnan(losses)
        rows, gold = rows[numbers], gold_probability(np.asarray(losses, dtype=np.float64)[numbers])
        self._counts.add(rows, 1)
        self._sums.add(rows, gold)
        self._squares.add(rows, gold**2)

    def visits(self) -> RowVisits:
        """Return what was recorded of the rows visited so far."""
        counts = self._counts.state()
        rows = np.flatnonzero(counts)
        return RowVisits(rows, counts[rows], self._sums.get(rows), self._squares.get(rows))


class CartographySettings(MethodSettings):
    """Settings of the cartographies and `ftft`."""

    subset_rate: float = Field(
        0.33,
        gt=0,
        le=1,
        description="share of the rows that is trained after measuring.",
    )
    reference_rate: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of the run in which all rows are trained and measured; None: a half, and a "
        "quarter for `ftft`.",
    )


class Cartography(Selector, ABC):
    """Measure everything with a reference, then train a new model on the rows ranked highest.

    reference ──(progress >= reference_rate; first weights again)─→ subset ─→ end
    """

    Settings: ClassVar[type[MethodSettings]] = CartographySettings
    _settings: CartographySettings
    first_stage = REFERENCE
    restarts = True
    saved = (*Selector.saved, "_record", "_chosen", "_begun_at", "_measured")
    default_reference_rate: ClassVar[float] = 0.5

    def __init__(self, settings: CartographySettings, shape: DataShape, rng: np.random.Generator) -> None:
        super().__init__(settings, shape, rng)
        rate = settings.reference_rate
        self._reference_rate = self.default_reference_rate if rate is None else rate
        self._record = VisitRecord()
        self._chosen = RowTable(False, np.bool_)
        self._begun_at = 0.0
        self._measured: dict[str, Any] = {}  # of the reference, for the report; set when the subset is

    @staticmethod
    @abstractmethod
    def scores(visits: RowVisits) -> FloatArray:
        """Return one number per row (n,); the highest are trained."""

    @property
    def span(self) -> tuple[float, float]:
        return (0.0, self._reference_rate) if self.stage == REFERENCE else (self._begun_at, 1.0)

    def on_batch_start(self, progress: float, epoch: int) -> None:
        super().on_batch_start(progress, epoch)
        # At 1 the run is over: no time is left for another model.
        if self.stage == REFERENCE and self._reference_rate <= progress < 1:
            self._choose_subset()

    def choose_score(self, batch: Batch) -> BoolArray:
        everything = super().choose_score(batch)
        return everything if self.stage == REFERENCE else self._chosen.get(batch.rows)

    def observe(self, batch: Batch, losses: FloatArray) -> None:
        """Record visits of the reference; losses that come later are not its own."""
        if self.stage == REFERENCE:
            self._record.add(batch.rows, losses)

    def report(self) -> dict[str, Any]:
        """Add `n_measured`, `mean_visits` of those, and `n_kept` (None while there is no subset)."""
        return {**super().report(), **(self._measured or _summary(self._record.visits(), None))}

    def _choose_subset(self) -> None:
        """Rank what was measured, keep the top of it, and start afresh; wait while nothing was."""
        visits = self._record.visits()
        if not len(visits.rows):
            return
        kept = visits.rows[top(standing(self.scores(visits), visits.counts), self._settings.subset_rate)]
        self._chosen.put(kept, True)
        self._begun_at = self.progress
        self._measured = _summary(visits, len(kept))
        self._record = VisitRecord()  # no longer needed: its memory is given back
        reason = f"{len(kept)} of {len(visits.rows)} measured rows kept at {self.progress:.1%} of the run"
        self._enter(SUBSET, reason, reset_model=True)

    def _why_not(self) -> str | None:
        if self.stage != REFERENCE:
            return None
        if self.progress >= self._reference_rate and not len(self._record.visits().rows):
            return f"no row was measured in the first {self.progress:.1%} of the run"
        return (
            f"the run ended in the reference stage, at {self.progress:.1%} of the run or later; "
            f"the subset stage begins at {self._reference_rate:.1%}"
        )


class CartographyAmbiguous(Cartography):
    """Measure with a reference, then train a new model on the third whose p(gold) varied most."""

    name = "cartography-ambiguous"

    @staticmethod
    def scores(visits: RowVisits) -> FloatArray:
        return variability(visits)


class CartographyHard(Cartography):
    """Measure with a reference, then train a new model on the third with the lowest mean p(gold)."""

    name = "cartography-hard"

    @staticmethod
    def scores(visits: RowVisits) -> FloatArray:
        return -confidence(visits)


class Ftft(CartographyAmbiguous):
    """Ambiguous cartography with a quarter of the run for the reference; use with --patience 1.

    What: `cartography-ambiguous` whose reference gets a quarter of the run instead of a half. The paper's
        reference is a smaller model; here it is the same encoder for fewer steps, so that no second model is
        needed. The main model starts again on the chosen third and is to be stopped aggressively: that is a
        setting of the run. Use with --patience 1.
    Use when: as cartography, where half of the time is too much to measure with.
    Costs: the reference's share of the run, which trains nothing that is kept; 20 bytes per row until then.
    Loses when: a quarter of the run is less than a pass: rows that the reference never visited cannot be
        ranked and are skipped. Otherwise as cartography.
    Source: Du, Gatt, Nguyen, FTFT: Efficient and Robust Fine-Tuning by Transferring Training Dynamics,
        arXiv 2310.06588.
    """

    name = "ftft"
    default_reference_rate = 0.25


def _summary(visits: RowVisits, n_kept: int | None) -> dict[str, Any]:
    n_measured = len(visits.rows)
    mean_visits = float(visits.counts.mean()) if n_measured else None
    return {"n_measured": n_measured, "mean_visits": mean_visits, "n_kept": n_kept}
