"""What stands in where no sensor does: watts that were told, or a processor's watts times its use.

Estimates by use are this process's share of the processor, children included once they have ended; sensors
count everything that runs. Every estimate says in `source` how it was made.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from edgetune.energy.sensor import TimeSource, read_text
from edgetune.utils.machine import cpu_name, usable_cores

CORE_W, ARM_CORE_W = 10.0, 2.0
"""Watts of a busy core where nothing better is known; phones, boards and servers with ARM cores take less."""
IDLE_RATE = 0.1
"""Share of the full power that a processor takes when it does nothing."""
GPU_W = 250.0
"""Watts of a GPU that nothing measures."""
MEMORY_W_PER_MB = 3.0 / 8000.0
"""The usual 3 W for 8 GB."""


class ConstantPower:
    """The same watts all the time."""

    measured = False

    def __init__(self, watts: float, source: str, clock: TimeSource = time.perf_counter) -> None:
        """Start; `source` begins with `estimated: `."""
        self.source, self._watts, self._clock, self._start_s = source, watts, clock, clock()

    def joules(self) -> float:
        return self._watts * (self._clock() - self._start_s)

    def close(self) -> None:
        pass  # nothing is held open


def process_cpu_s() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


class CpuUsePower(ConstantPower):
    """Between a processor's idle and full watts, by the share of it that this process uses."""

    def __init__(
        self,
        full_w: float,
        n_cpus: int,
        source: str,
        clock: TimeSource = time.perf_counter,
        cpu_s: Callable[[], float] = process_cpu_s,
    ) -> None:
        """Start; `full_w` is drawn with all of `n_cpus` (hyper-threads included) at work."""
        super().__init__(full_w, source, clock)
        self._n_cpus, self._cpu_s, self._start_cpu_s = n_cpus, cpu_s, cpu_s()

    def joules(self) -> float:
        passed_s = self._clock() - self._start_s
        busy_s = min((self._cpu_s() - self._start_cpu_s) / self._n_cpus, passed_s)
        return self._watts * (IDLE_RATE * passed_s + (1 - IDLE_RATE) * busy_s)


def estimate_by_use(tdp: float | None = None, clock: TimeSource = time.perf_counter) -> CpuUsePower:
    """Return the estimate from a thermal design power (W, all sockets), else from a stated rule."""
    import psutil

    idle, n_all = f"idle {IDLE_RATE:.0%}", os.cpu_count() or 1
    if tdp is not None:
        return CpuUsePower(tdp, n_all, f"estimated: {tdp:g} W TDP (codecarbon) x CPU use, {idle}", clock)
    n_cpus = usable_cores()
    n_cores = max(1, round(n_cpus * (psutil.cpu_count(logical=False) or n_all) / n_all))
    core_w = ARM_CORE_W if platform.machine().lower().startswith(("arm", "aarch")) else CORE_W
    cores = f"{n_cores} core{'s' * (n_cores != 1)}"
    source = f"estimated: {core_w:g} W per core x {cores} x CPU use, {idle}; no sensor, no TDP known"
    return CpuUsePower(core_w * n_cores, n_cpus, source, clock)


def tdp_w(root: Path = Path("/")) -> float | None:
    """Look the processor up in codecarbon's table; return the thermal design power (W) of all sockets.

    Takes seconds, since codecarbon imports pandas: for `edgetune profile`, not for a run. Only the table in
    the package is read: no network, no telemetry, nothing written. None without codecarbon, for a processor
    that it does not know for sure, and in a virtual machine, whose processors are a part of somebody's chip.
    """
    lines = [line.partition(":") for line in (read_text(root / "proc/cpuinfo") or "").splitlines()]
    values = {(key.strip(), value.strip()) for key, _, value in lines}
    if any(key == "flags" and "hypervisor" in value.split() for key, value in values):
        return None
    try:
        table: Any = import_module("codecarbon.core.cpu").TDP
        # Not by its constructor: for an unknown processor that answers 4 W per thread as if it were a TDP.
        watts = table._get_cpu_power_from_registry(table.__new__(table), cpu_name(root))
    except Exception:  # somebody else's package, and private: whatever it raises, there is no TDP
        return None
    if watts is None or not 0 < float(watts) < 10_000:
        return None
    return float(watts) * max(1, sum(key == "physical id" for key, _ in values))
