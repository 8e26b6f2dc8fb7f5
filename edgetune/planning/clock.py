"""The clock of a run: the time left, what is reserved for the end, and the measured speed.

    start of the process ──── training ────┤ save ─ evaluate ─ report ─ exit ─ margin ├ deadline
                                           end_s

The plan is corrected by measurements, per operation, so a throttled processor, a busy neighbour or a wrong
profile moves the end of training and not the deadline.
A budget of energy is a deadline too: joules left over watts drawn.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from edgetune.learners.progress import Position, Progress
from edgetune.utils.types import StepCost

MARGIN_RATE = 0.008
LEAST_MARGIN_S, MOST_MARGIN_S = 0.7, 10.0
RECENT = 9
SAVE_CAUTION = 2.5  # disks vary, and a run's first save took twice as long as a repeated one
AGAIN_CAUTION = 1.5  # the same, once a save was measured
MOST_GUESSED = 2.0  # a speed that was not measured itself is limited to this factor
FEWEST = 3  # measurements before an operation tells how slow the end will be
STALL = 8.0  # an operation this many times slower than usual is a pause of the machine, not its speed


def margin_s(deadline_s: float) -> float:
    """Return the seconds kept free for the unforeseen: a small share of the deadline, within bounds."""
    return min(max(LEAST_MARGIN_S, MARGIN_RATE * deadline_s), MOST_MARGIN_S)


class SpeedRatio:
    """How much slower (above 1) or faster an operation is than predicted, from the last measurements."""

    def __init__(self, first: float = 1.0) -> None:
        """Start with a guess, which the first measurement that counts replaces."""
        self._guess = min(max(first, 1 / MOST_GUESSED), MOST_GUESSED)
        self._seen: list[tuple[float, float]] = []  # seconds, predicted and measured

    def observe(self, predicted_s: float, measured_s: float) -> None:
        """Record one operation; a stall has little effect, since the median is used."""
        if predicted_s > 0 and 0 < measured_s < math.inf:
            self._seen.append((predicted_s, measured_s))

    def _ratios(self, last: int) -> list[float]:
        """Return sorted ratios without the very first one, which includes one-time costs."""
        seen = self._seen[max(1, len(self._seen) - last) :]
        return sorted(measured / predicted for predicted, measured in seen) or [self._guess]

    @property
    def n(self) -> int:
        """Measurements that counted."""
        return max(0, len(self._seen) - 1)

    @property
    def ratio(self) -> float:
        """The median of the last ratios."""
        return statistics.median_high(self._ratios(RECENT))

    def _sums(self) -> tuple[float, float]:
        """Return the predicted and measured seconds of all operations that were not pauses."""
        most = STALL * statistics.median_high(self._ratios(self.n))
        steady = [one for one in self._seen[1:] if one[1] <= most * one[0]]
        return sum(predicted for predicted, _ in steady), sum(measured for _, measured in steady)

    @property
    def measured_s(self) -> float:
        """Measured seconds of all operations that counted, without pauses."""
        return self._sums()[1]

    @property
    def overall(self) -> float:
        """Measured over predicted seconds so far, without pauses; each batch is weighted by its cost."""
        predicted_s, measured_s = self._sums()
        return measured_s / predicted_s if predicted_s else self.ratio

    @property
    def cautious(self) -> float:
        """A ratio that the next operation will hardly exceed: the worst recent one that was no stall."""
        usual = self.ratio
        return max(ratio for ratio in self._ratios(RECENT) if ratio <= STALL * usual)


@dataclass
class Clock:
    """A run's time budget.

    Attributes:
        deadline_s: when the process must have ended, from its start; infinite for none.
        lines: planned seconds of `save`, `ensemble`, `evaluate`, `report` and `exit`, which are reserved.
        elapsed_s: returns seconds since the process started.
        energy_j: joules that may be used; None: no limit.
        joules: returns joules used so far.
        speeds: by operation (`score`, `train`), measured against predicted.
        train_started_s: set by `begin`.
        measured_save_s: the longest that a save has taken so far.
        scale: multiple of the profiled time by which operations are predicted, at most 1; what is paid once
            is planned without it.
    """

    deadline_s: float
    lines: Mapping[str, float]
    elapsed_s: Callable[[], float]
    energy_j: float | None = None
    joules: Callable[[], float] = lambda: 0.0
    speeds: dict[str, SpeedRatio] = field(default_factory=dict)
    train_started_s: float = 0.0
    measured_save_s: float = 0.0
    scale: float = 1.0

    def begin(self) -> None:
        """Record that training starts now."""
        self.train_started_s = self.elapsed_s()

    def limit_s(self) -> float:
        """When the process must have ended: the deadline, or when the energy runs out at this rate."""
        if self.energy_j is None:
            return self.deadline_s
        now_s, used_j = self.elapsed_s(), self.joules()
        watts = used_j / now_s if now_s > 0 and used_j > 0 else 0.0
        return min(self.deadline_s, now_s + (self.energy_j - used_j) / watts if watts else math.inf)

    def kept_free_s(self, rate: float) -> float:
        """Return a share of the whole time in seconds, to be kept free; 0 if time is not limited."""
        limit_s = self.limit_s()
        return rate * limit_s if math.isfinite(limit_s) else 0.0

    def speed(self, operation: str) -> SpeedRatio:
        """Return an operation's speed; it starts as that of an operation that was already measured."""
        if operation not in self.speeds:
            self.speeds[operation] = SpeedRatio(next((other.ratio for other in self.speeds.values()), 1.0))
        return self.speeds[operation]

    def _slowness(self) -> float:
        """How many times as long as planned the end will take; at least 1."""
        ratios = (self.scale * speed.ratio for speed in self.speeds.values() if speed.n >= FEWEST)
        return max([1.0, *ratios])

    def _after_s(self) -> float:
        """Seconds of what follows the evaluation."""
        return (self.lines["report"] + self.lines["exit"]) * self._slowness()

    def evaluation_end_s(self) -> float:
        """When evaluation must have ended."""
        return self.limit_s() - margin_s(self.deadline_s) - self._after_s()

    def ensemble_end_s(self) -> float:
        """When the ensemble must have been fitted.

        If the machine is slower than planned, fewer rows are evaluated in the planned seconds.
        """
        return self.evaluation_end_s() - self.lines["evaluate"]

    def save_s(self) -> float:
        """Seconds that writing the model may take: as planned, scaled by the slowness, or as measured."""
        return max(self.lines["save"] * self._slowness(), AGAIN_CAUTION * self.measured_save_s)

    def end_s(self) -> float:
        """When training must have ended."""
        return self.ensemble_end_s() - self.lines.get("ensemble", 0.0) - self.save_s()

    def picture_fits(self) -> bool:
        """Return whether the picture can be drawn before the deadline, if it takes as long as the report."""
        return self.elapsed_s() + self._after_s() < self.limit_s()

    def left_s(self) -> float:
        """Seconds of training left; negative when it should have ended."""
        return self.end_s() - self.elapsed_s()

    def progress(self) -> float:
        """The share of the time for training that is used, in [0, 1]."""
        whole_s = self.end_s() - self.train_started_s
        if whole_s <= 0:
            return 1.0
        return min(1.0, max(0.0, (self.elapsed_s() - self.train_started_s) / whole_s))

    def fits(self, operation: str, predicted_s: float) -> bool:
        """Return whether an operation of this predicted length would still end in time."""
        return predicted_s * self.speed(operation).cautious <= self.left_s()


FEWEST_ROWS = 4


class ClockProgress(Progress):
    """The run ends when its time is up, or with its data if that comes first.

    The predicted seconds of an operation, `cost`, are corrected by what is measured.
    """

    def __init__(self, clock: Clock, cost: StepCost, data: Progress) -> None:
        super().__init__(data.n_examples, data.settings)
        self._clock, self._cost = clock, cost
        self._over = False

    def progress(self, at: Position) -> float:
        return max(self._clock.progress(), super().progress(at))

    def decay_progress(self, at: Position) -> float:
        return self.progress(at)

    def finished(self, at: Position) -> bool:
        self._over = self._over or self._clock.left_s() <= 0 or super().finished(at)
        return self._over

    def rows_that_fit(self, operation: str, n_rows: int, width: int) -> int:
        """Return all rows, as many as still fit, or 0; anything less than all ends the run."""
        n_fit = n_rows
        while n_fit and not self._clock.fits(operation, self._cost(operation, n_fit, width)):
            n_fit = n_fit // 2 if n_fit // 2 >= FEWEST_ROWS else 0
        self._over = self._over or n_fit < n_rows
        return n_fit

    def record_duration(self, operation: str, n_rows: int, width: int, seconds: float) -> None:
        self._clock.speed(operation).observe(self._cost(operation, n_rows, width), seconds)
