"""Which point is measured when: rounds over all of them in shuffled order, until each is sure enough.

A *visit* is one request to a worker: a few calls of one point, whose median is one sample. Visits of one
point lie rounds apart, so a busy moment bends one sample of many points, not all samples of one.

On a shared machine everything takes a tenth longer for a second or two, then not. Operations measured just
before and after, whose usual costs are known from other rounds, tell how slow a moment was, so that the
measurement can be corrected for it.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
from numpy.lib.stride_tricks import sliding_window_view

from edgetune.devices.cost_function import active_layers
from edgetune.devices.device_profile import MeasuredPoint, Operation
from edgetune.utils.machine import usable_cores
from edgetune.utils.types import FloatArray, IntArray

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

    @property
    def place(self) -> dict[str, Any]:
        """Where it lies on any backend."""
        return {"op": self.op, "batch": self.batch, "length": self.length, "depth": self.depth}


@dataclass
class Samples:
    """What was measured at one point: medians of each visit's calls (s), and how many calls were timed."""

    medians: list[float] = field(default_factory=list)
    n_calls: int = 0

    @property
    def done(self) -> bool:
        """Whether more visits would teach little: there were many, or half of the interval is narrow."""
        if len(self.medians) < FEWEST_VISITS:
            return False
        low, high = median_interval(self.medians)
        narrow = (high - low) / 2.0 <= CLOSE_ENOUGH * statistics.median(self.medians)
        return narrow or len(self.medians) >= MOST_VISITS


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
            below += math.comb(n, rank) / 2**n
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
    """Keeps the samples of all points and chooses each round's."""

    def __init__(self, n_layers: int, rng: np.random.Generator, visit_s: float = VISIT_S) -> None:
        """Start without points; calls of a visit should last `visit_s`."""
        self.samples: dict[GridPoint, Samples] = {}
        self._visits: list[tuple[GridPoint, float]] = []
        self._n_layers, self._rng, self._aim_s = n_layers, rng, visit_s
        self._s_per_work = 1e-3 / max(1, n_layers)

    def take(self, chosen: Iterable[GridPoint]) -> None:
        """Take in further points."""
        self.samples.update({point: Samples() for point in chosen})

    def drop(self, key: str) -> None:
        """Forget a backend that turned out not to work."""
        self.samples = {point: found for point, found in self.samples.items() if point.key != key}
        self._visits = [visit for visit in self._visits if visit[0].key != key]

    def add(self, point: GridPoint, seconds: Sequence[float]) -> None:
        """Take in one visit."""
        median = statistics.median(seconds)
        self.samples[point].medians.append(median)
        self.samples[point].n_calls += len(seconds)
        self._visits.append((point, median))
        self.hint(point, median)

    def hint(self, point: GridPoint, seconds: float) -> None:
        """Take a call as a guess of what others cost, without making it a sample."""
        self._s_per_work = seconds / self._work(point)

    def _work(self, point: GridPoint) -> float:
        """Say roughly how much a call does, for points that nothing is known of yet."""
        layers = 0.3 + active_layers(point.op, point.depth, self._n_layers)
        return point.batch * point.length * layers * (3.0 if point.op == "train" else 1.0)

    def call_s(self, point: GridPoint) -> float:
        """Expect the seconds of one call: what was measured there, else by its work."""
        found = self.samples.get(point)
        if found is None or not found.medians:
            return self._s_per_work * self._work(point)
        return statistics.median(found.medians)

    def calls(self, point: GridPoint) -> tuple[int, bool]:
        """Return how many calls a visit makes, and whether one goes before them untimed."""
        expected_s = self.call_s(point)
        return min(MOST_CALLS, max(1, round(self._aim_s / expected_s))), expected_s < SHORT_S

    def visit_s(self, point: GridPoint) -> float:
        """Expect the seconds of a visit."""
        return self.call_s(point) * sum(self.calls(point))

    def next_round(self, left_s: float) -> list[GridPoint]:
        """Choose points that are not sure enough, as many as fit into the time, in shuffled order.

        When time is short, those with the fewest visits go first, and of these the cheapest.
        """
        open_ = [point for point, found in self.samples.items() if not found.done]
        open_.sort(key=lambda point: (len(self.samples[point].medians), self.visit_s(point)))
        ends_s = np.cumsum([self.visit_s(point) for point in open_])
        n_fit = int(np.searchsorted(ends_s, left_s, side="right"))
        return [open_[i] for i in self._rng.permutation(n_fit)]

    def points(self, key: str) -> list[MeasuredPoint]:
        """Return what was measured on one backend."""
        calm = self.calm()
        relative = [statistics.stdev(m) / statistics.mean(m) for m in calm.values() if len(m) > 1]
        usual = statistics.median(relative) if relative else 0.1
        found = []
        for point, medians in calm.items():
            if point.key == key:
                s = statistics.median(medians)
                low_s, high_s = median_interval(medians, usual * s)
                n = self.samples[point].n_calls
                found.append(MeasuredPoint(**point.place, s=s, low_s=low_s, high_s=high_s, n=n))
        return found

    def calm(self) -> dict[GridPoint, list[float]]:
        """Return the samples of each point as they would be, had the machine always been as slow as usual."""
        numbers = {point: number for number, point in enumerate(self.samples)}
        visited = np.array([numbers[point] for point, _ in self._visits], dtype=np.int64)
        factors = slowness(visited, np.array([seconds for _, seconds in self._visits]))
        found: dict[GridPoint, list[float]] = {}
        for (point, seconds), factor in zip(self._visits, factors, strict=True):
            found.setdefault(point, []).append(seconds / float(factor))
        return {point: found[point] for point in self.samples if point in found}

    def has_whole(self, key: str) -> bool:
        """Return whether `score` and `train` of the whole model were measured on a backend."""
        return {"score", "train"} <= {point.op for point in self.points(key) if point.depth == 0}

    @property
    def spread(self) -> float:
        """Median over points of half the interval over the median; 1 without any."""
        points = [point for key in {point.key for point in self.samples} for point in self.points(key)]
        halves = [(point.high_s - point.low_s) / 2.0 / point.s for point in points]
        return statistics.median(halves) if halves else 1.0


OTHERS_TOO_BUSY = 0.12
_CROWDED = 0.6  # of all processors busy; below it others find processors of their own
_IDLE = ("idle", "iowait", "guest", "guest_nice")


class BusyWatch:
    """Compares the machine's CPU time with that of our own processes."""

    def __init__(self, pids: Sequence[int]) -> None:
        """Start watching; `pids` are our children, this process is counted too."""
        self._own = [psutil.Process(), *(psutil.Process(pid) for pid in pids)]
        self._before = (time.perf_counter(), _system_s(), self._own_s())

    def _own_s(self) -> float:
        total = 0.0
        for process in self._own:
            try:
                times = process.cpu_times()
            except psutil.Error:  # it was killed meanwhile
                continue
            total += times.user + times.system
        return total

    def others(self) -> tuple[float, bool]:
        """Return the processors that others used, as a share of ours, and whether that is too much."""
        then, system_s, own_s = self._before
        passed_s = max(1e-3, time.perf_counter() - then)
        busy_s = _system_s() - system_s
        others = max(0.0, busy_s - (self._own_s() - own_s)) / passed_s
        crowded = busy_s / passed_s > _CROWDED * (psutil.cpu_count() or 1)
        share = others / usable_cores()
        return share, crowded and share > OTHERS_TOO_BUSY


def _system_s() -> float:
    """Return CPU seconds of all processes, time stolen by other virtual machines included."""
    times = psutil.cpu_times()._asdict()
    return float(sum(seconds for kind, seconds in times.items() if kind not in _IDLE))


NEAR = 4
TURNS = 5


def slowness(grid_points: IntArray, seconds: FloatArray) -> FloatArray:
    """Return how many times longer than usual each measurement took because of its moment.

    The logarithm of a measurement is what its operation usually takes, plus how slow the moment was, plus
    noise; both are found by medians in turn (median polish, Tukey 1977). A moment is judged by the four
    measurements before it and the four after it, never by its own operation, and only by operations that were
    measured at other times too. Where that brings the measurements of an operation no nearer together, there
    were no such moments.

    Args:
        grid_points: (n,) which operation was measured, numbered from 0, in the order of time.
        seconds: (n,) above 0.

    Returns:
        (n,) factors around 1; 1 where nothing can be said.
    """
    logs, slow = np.log(seconds), np.zeros(len(seconds))
    calm: FloatArray = np.ones(len(seconds))
    again = np.bincount(grid_points)[grid_points] > 1 if len(grid_points) else np.zeros(0, dtype=np.bool_)
    if not again.any():
        return calm
    own = _beside(grid_points, -1) == grid_points[:, None]
    for _ in range(TURNS):
        left = np.where(again, logs - _usual(grid_points, logs - slow)[grid_points], np.nan)
        others = np.where(own, np.nan, _beside(left, np.nan))
        known = ~np.isnan(others).all(axis=1)
        slow[known] = np.nanmedian(others[known], axis=1)
        slow -= np.median(slow)
    spread_before, spread_after = (
        _spread(grid_points[again], values[again]) for values in (logs, logs - slow)
    )
    return np.exp(slow) if spread_after < spread_before else calm


def _beside(values: FloatArray | IntArray, none: float) -> FloatArray | IntArray:
    """Return (n, 2 * NEAR) the values before and after each, `none` beyond the ends."""
    around = sliding_window_view(np.pad(values, NEAR, constant_values=none), 2 * NEAR + 1)
    return np.delete(around, NEAR, axis=1)


def _spread(grid_points: IntArray, logs: FloatArray) -> float:
    """Return how far measurements of one operation lie from its median, in the mean."""
    return float(np.mean(np.abs(logs - _usual(grid_points, logs)[grid_points])))


def _usual(grid_points: IntArray, logs: FloatArray) -> FloatArray:
    """Return the median of each operation's values."""
    order = np.argsort(grid_points, kind="stable")
    ends = np.cumsum(np.bincount(grid_points))
    parts = np.split(logs[order], ends[:-1])
    return np.array([np.median(part) if len(part) else 0.0 for part in parts])
