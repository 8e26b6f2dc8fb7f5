"""What disturbs a measurement: other processes' CPU time, and moments in which the whole machine is slow.

On a shared machine everything takes a tenth longer for a second or two, then not. Operations measured just
before and after, whose usual costs are known from other rounds, tell how slow a moment was, so that the
measurement can be corrected for it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import psutil
from numpy.lib.stride_tricks import sliding_window_view

from edgetune.utils.machine import usable_cores
from edgetune.utils.types import FloatArray, IntArray

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
