"""What stands in where no sensor does: watts that were told, or a processor's watts times its use.

Estimates by use are this process's share of the processor, children included once they have ended; sensors
count everything that runs. Every estimate says in `source` how it was made.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from edgetune.energy.sensor import TimeSource, read_text

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
        self.source = source
        self._watts, self._clock = watts, clock
        self._start_s = clock()

    def joules(self) -> float:
        """Return watts times seconds since the start."""
        return self._watts * (self._clock() - self._start_s)

    def close(self) -> None:
        """Nothing is held open."""


def process_cpu_s() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


class CpuUsePower:
    """Between a processor's idle and full watts, by the share of it that this process uses."""

    measured = False

    def __init__(
        self,
        full_w: float,
        n_cpus: int,
        source: str,
        clock: TimeSource = time.perf_counter,
        cpu_s: Callable[[], float] = process_cpu_s,
    ) -> None:
        """Start.

        Args:
            full_w: watts with all of the processors at work.
            n_cpus: how many those are, as the system counts them (hyper-threads included).
            source: how that is known, beginning with `estimated: `.
            clock: monotonic seconds.
            cpu_s: CPU seconds used, of all processors together.
        """
        self.source = source
        self._full_w, self._n_cpus, self._clock, self._cpu_s = full_w, n_cpus, clock, cpu_s
        self._start_s, self._start_cpu_s = clock(), cpu_s()

    def joules(self) -> float:
        """Return the joules since the start: idle watts always, the rest by use."""
        passed_s = self._clock() - self._start_s
        busy_s = min((self._cpu_s() - self._start_cpu_s) / self._n_cpus, passed_s)
        return self._full_w * (IDLE_RATE * passed_s + (1 - IDLE_RATE) * busy_s)

    def close(self) -> None:
        """Nothing is held open."""


def estimate_by_use(tdp: float | None = None, clock: TimeSource = time.perf_counter) -> CpuUsePower:
    """Return the estimate from a thermal design power (W, all sockets), else from a stated rule."""
    idle = f"idle {IDLE_RATE:.0%}"
    if tdp is not None:
        source = f"estimated: {tdp:g} W TDP (codecarbon) x CPU use, {idle}"
        return CpuUsePower(tdp, os.cpu_count() or 1, source, clock)
    n_cpus, n_cores = _usable()
    core_w = ARM_CORE_W if platform.machine().lower().startswith(("arm", "aarch")) else CORE_W
    source = (
        f"estimated: {core_w:g} W per core x {n_cores} core{'s' * (n_cores != 1)} x CPU use, {idle}; "
        "no sensor, no TDP known"
    )
    return CpuUsePower(core_w * n_cores, n_cpus, source, clock)


def _usable() -> tuple[int, int]:
    """Return how many processors this process may use, and how many cores these are."""
    import psutil

    from edgetune.utils.machine import usable_cores

    n_cpus, n_all = usable_cores(), os.cpu_count() or 1
    n_physical = psutil.cpu_count(logical=False) or n_all
    return n_cpus, max(1, round(n_cpus * n_physical / n_all))


def tdp_w(root: Path = Path("/")) -> float | None:
    """Look the processor up in codecarbon's table; return the thermal design power (W) of all sockets.

    Takes seconds, since codecarbon imports pandas: for `edgetune profile`, not for a run. Only the table in
    the package is read: no network, no telemetry, nothing written. None without codecarbon, for a processor
    that it does not know for sure, and in a virtual machine, whose processors are a part of somebody's chip.
    """
    from edgetune.utils.machine import cpu_name

    cpuinfo = read_text(root / "proc/cpuinfo") or ""
    if any("hypervisor" in flags.split() for flags in _values(cpuinfo, "flags")):
        return None
    try:
        table: Any = import_module("codecarbon.core.cpu").TDP
        # Not by its constructor: for an unknown processor that answers 4 W per thread as if it were a TDP.
        watts = table._get_cpu_power_from_registry(table.__new__(table), cpu_name(root))
    except Exception:  # somebody else's package, and private: whatever it raises, there is no TDP
        return None
    if watts is None or not 0 < float(watts) < 10_000:
        return None
    return float(watts) * max(1, len(_values(cpuinfo, "physical id")))


def _values(cpuinfo: str, name: str) -> set[str]:
    """Return the different values of one key of /proc/cpuinfo."""
    pairs = (line.partition(":") for line in cpuinfo.splitlines())
    return {value.strip() for key, _, value in pairs if key.strip() == name}


@dataclass(frozen=True, slots=True)
class Equation6:
    """The paper's estimate, eq. 6: with its data centre factor 1.58, so more than a device draws.

    Attributes:
        kwh: energy.
        co2e_lb: pounds of CO2 equivalent (US grid mean).
    """

    kwh: float
    co2e_lb: float


def equation_6(
    elapsed_s: float, cpu_w: float, memory_mb: float, gpu_w: float = 0.0, n_gpu: int = 0
) -> Equation6:
    """Return eq. 6 with the memory's watts from its size.

    Args:
        elapsed_s: of the run.
        cpu_w: mean power of the processor.
        memory_mb: in use (10^6 bytes), at 3 W for 8 GB.
        gpu_w: mean power of one GPU.
        n_gpu: how many.
    """
    from edgetune.utils.metrics import paper_co2e_lb, paper_energy_kwh

    kwh = paper_energy_kwh(elapsed_s, cpu_w, memory_mb * MEMORY_W_PER_MB, gpu_w, n_gpu)
    return Equation6(kwh, paper_co2e_lb(kwh))
