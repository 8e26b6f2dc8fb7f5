"""Which point is measured when: rounds over all of them in shuffled order, until each is sure enough.

A *visit* is one request to a worker: a few calls of one point, whose median is one sample. Visits of one
point lie rounds apart, so a busy moment bends one sample of many points, not all samples of one; and as many
points are bent alike, the moment is known and taken out (slowness.py).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgetune.devices.cost_function import active_layers
from edgetune.devices.device_profile import MeasuredPoint, Operation
from edgetune.profiling.interference import slowness

CLOSE_ENOUGH = 0.04
FEWEST_VISITS = 3
MOST_VISITS = 25
SHORT_S = 0.25  # a call shorter than this is preceded by one that is not timed
VISIT_S = 0.12  # a visit makes so many calls that they last about this long
MOST_CALLS = 5
# Student's t at 97.5 % for 1, 2, … degrees of freedom.
_T = (12.7, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31)
_PRIOR = 4
_MEDIAN = 1.2533  # standard error of a median over that of a mean, for normal samples


@dataclass(frozen=True, slots=True, order=True)
class GridPoint:
    """One operation to measure on one backend."""

    key: str
    op: Operation
    batch: int
    length: int
    depth: int

    @classmethod
    def of(cls, key: str, point: MeasuredPoint) -> GridPoint:
        """Return where a backend's point was measured."""
        return cls(key, point.op, point.batch, point.length, point.depth)

    @property
    def tokens(self) -> int:
        """Tokens of the batch."""
        return self.batch * self.length


@dataclass
class Samples:
    """What was measured at one spot.

    Attributes:
        medians: of each visit's calls (s).
        n_calls: timed calls of all visits.
    """

    medians: list[float] = field(default_factory=list)
    n_calls: int = 0

    def add(self, seconds: Sequence[float]) -> None:
        """Take in the calls of one visit."""
        self.medians.append(statistics.median(seconds))
        self.n_calls += len(seconds)

    @property
    def half(self) -> float:
        """Half of the 95 % interval of the median, over the median; infinite with fewer than two visits."""
        if len(self.medians) < 2:
            return math.inf
        low, high = median_interval(self.medians)
        return (high - low) / 2.0 / statistics.median(self.medians)

    @property
    def done(self) -> bool:
        """Whether more visits would teach little."""
        n_visits = len(self.medians)
        return n_visits >= MOST_VISITS or (n_visits >= FEWEST_VISITS and self.half <= CLOSE_ENOUGH)


def median_interval(samples: Sequence[float], usual_sd: float | None = None) -> tuple[float, float]:
    """Return a 95 % interval of the median; it holds the median.

    From six samples on by order statistics, which assume nothing; below, from their standard deviation.

    Args:
        samples: one or more.
        usual_sd: standard deviation of others like these, which counts as `_PRIOR` samples beside few.
    """
    ordered, n = sorted(samples), len(samples)
    middle = statistics.median(ordered)
    if n >= 6:
        below = 0.0
        for rank in range(n // 2):  # leave out as many on each side as 2.5 % allows
            below += math.comb(n, rank) / 2.0**n
            if below > 0.025:
                return ordered[max(0, rank - 1)], ordered[n - max(1, rank)]
    freedom = n - 1 + (0 if usual_sd is None else _PRIOR)
    if freedom == 0:
        return middle, middle
    squares = (n - 1) * statistics.variance(ordered) if n > 1 else 0.0
    squares += 0.0 if usual_sd is None else _PRIOR * usual_sd**2
    half = _T[min(freedom, len(_T)) - 1] * _MEDIAN * math.sqrt(squares / freedom / n)
    return max(middle - half, middle / 10.0), middle + half


def grid_points(
    keys: Iterable[str], lengths: Sequence[int], batches: Sequence[int], depths: Sequence[int]
) -> list[GridPoint]:
    """Return every operation of a grid; there is no prefix at depth 0."""
    ops: tuple[Operation, ...] = ("prefix", "score", "train")
    return [
        GridPoint(key, op, batch, length, depth)
        for key in keys
        for depth in depths
        for op in ops
        for length in lengths
        for batch in batches
        if depth > 0 or op != "prefix"
    ]


class Sampler:
    """Keeps the samples of all spots and chooses each round's."""

    def __init__(self, n_layers: int, rng: np.random.Generator, visit_s: float = VISIT_S) -> None:
        """Start without spots.

        Args:
            n_layers: of the model.
            rng: shuffles rounds.
            visit_s: how long the calls of a visit should last.
        """
        self.samples: dict[GridPoint, Samples] = {}
        self._visits: list[tuple[GridPoint, float]] = []
        self._n_layers = n_layers
        self._rng = rng
        self._aim_s = visit_s
        self._s_per_work = 1e-3 / max(1, n_layers)

    def take(self, chosen: Iterable[GridPoint]) -> None:
        """Take in further spots."""
        self.samples.update({grid_point: Samples() for grid_point in chosen})

    def drop(self, key: str) -> None:
        """Forget a backend that turned out not to work."""
        self.samples = {
            grid_point: found for grid_point, found in self.samples.items() if grid_point.key != key
        }
        self._visits = [
            (grid_point, seconds) for grid_point, seconds in self._visits if grid_point.key != key
        ]

    def add(self, grid_point: GridPoint, seconds: Sequence[float]) -> None:
        """Take in one visit."""
        found = self.samples[grid_point]
        found.add(seconds)
        self._visits.append((grid_point, found.medians[-1]))
        self.hint(grid_point, found.medians[-1])

    def hint(self, grid_point: GridPoint, seconds: float) -> None:
        """Take a call as a guess of what others cost, without making it a sample."""
        self._s_per_work = seconds / self._work(grid_point)

    def _work(self, grid_point: GridPoint) -> float:
        """Say roughly how much a call does, for spots that nothing is known of yet."""
        layers = 0.3 + active_layers(grid_point.op, grid_point.depth, self._n_layers)
        return grid_point.tokens * layers * (3.0 if grid_point.op == "train" else 1.0)

    def call_s(self, grid_point: GridPoint) -> float:
        """Expect the seconds of one call: what was measured there, else by its work."""
        found = self.samples.get(grid_point)
        if found is None or not found.medians:
            return self._s_per_work * self._work(grid_point)
        return statistics.median(found.medians)

    def calls(self, grid_point: GridPoint) -> tuple[int, bool]:
        """Return how many calls a visit makes, and whether one goes before them untimed."""
        expected = self.call_s(grid_point)
        n_calls = min(MOST_CALLS, max(1, round(self._aim_s / expected)))
        return n_calls, expected < SHORT_S

    def visit_s(self, grid_point: GridPoint) -> float:
        """Expect the seconds of a visit."""
        n_calls, warm = self.calls(grid_point)
        return self.call_s(grid_point) * (n_calls + warm)

    def next_round(self, left_s: float) -> list[GridPoint]:
        """Choose spots that are not sure enough, as many as fit into the time, in shuffled order.

        When time is short, those with the fewest visits go first, and of these the cheapest.
        """
        open_ = [grid_point for grid_point, found in self.samples.items() if not found.done]
        open_.sort(key=lambda grid_point: (len(self.samples[grid_point].medians), self.visit_s(grid_point)))
        chosen: list[GridPoint] = []
        for grid_point in open_:
            left_s -= self.visit_s(grid_point)
            if left_s < 0.0:
                break
            chosen.append(grid_point)
        return [chosen[i] for i in self._rng.permutation(len(chosen))]

    def points(self, key: str) -> list[MeasuredPoint]:
        """Return what was measured on one backend."""
        calm = self.calm()
        usual = _usual_spread(calm.values())
        return [
            _point(grid_point, medians, self.samples[grid_point].n_calls, usual)
            for grid_point, medians in calm.items()
            if grid_point.key == key
        ]

    def calm(self) -> dict[GridPoint, list[float]]:
        """Return the samples of each spot as they would be, had the machine always been as slow as usual."""
        numbers = {grid_point: number for number, grid_point in enumerate(self.samples)}
        spots_seen = np.array([numbers[grid_point] for grid_point, _ in self._visits], dtype=np.int64)
        factors = slowness(spots_seen, np.array([seconds for _, seconds in self._visits]))
        found: dict[GridPoint, list[float]] = {}
        for (grid_point, seconds), factor in zip(self._visits, factors, strict=True):
            found.setdefault(grid_point, []).append(seconds / float(factor))
        return {grid_point: found[grid_point] for grid_point in self.samples if grid_point in found}

    def has_whole(self, key: str) -> bool:
        """Return whether `score` and `train` of the whole model were measured on a backend."""
        ops = {point.op for point in self.points(key) if point.depth == 0}
        return {"score", "train"} <= ops

    @property
    def spread(self) -> float:
        """Median over points of half the interval over the median; 1 without any."""
        halves = [
            (point.high_s - point.low_s) / 2.0 / point.s
            for key in {grid_point.key for grid_point in self.samples}
            for point in self.points(key)
        ]
        return statistics.median(halves) if halves else 1.0


def _usual_spread(visited: Iterable[Sequence[float]]) -> float:
    """Return how far visits of one spot usually lie apart: standard deviation over mean."""
    found = [medians for medians in visited if len(medians) > 1]
    return statistics.median(statistics.stdev(m) / statistics.mean(m) for m in found) if found else 0.1


def _point(grid_point: GridPoint, medians: Sequence[float], n_calls: int, usual: float) -> MeasuredPoint:
    middle = statistics.median(medians)
    low, high = median_interval(medians, usual * middle)
    return MeasuredPoint(
        op=grid_point.op,
        batch=grid_point.batch,
        length=grid_point.length,
        depth=grid_point.depth,
        s=middle,
        low_s=min(low, middle),
        high_s=max(high, middle),
        n=n_calls,
    )
