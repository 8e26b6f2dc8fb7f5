"""How much other processes computed while something was measured, so that a busy machine is told."""

from __future__ import annotations

import time
from collections.abc import Sequence

import psutil

from edgetune.machine import usable_cores

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
