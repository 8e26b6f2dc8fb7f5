"""Energy: joules since a sensor was opened, and whether they were measured or estimated, and how.

    sysfs, NVML, powermetrics ─→ counters ─┐
    given watts, TDP, CPU use ──→ estimates┴─→ open_sensor ─→ Sensor ─→ EnergyReading

Which one is used on this machine:

    --watts     told by the user: wins over everything, being explicit
    processor   its counters, such as RAPL on Linux, where they may be read
    GPU         when training on cuda, such as NVML; added to the processor's
    machine     such as a battery that discharges: everything, so it is never added to another
    estimate    busy watts of the device profile, else watts per core times CPU use

Of two sensors that cover the same, the first that works is used, in the order of their modules' names.
Budgets of energy are enforced elsewhere (`planning`, `runs`). May import `utils` and `config`.
"""

from __future__ import annotations

import functools
import math
import time
from pathlib import Path

from edgetune.energy.battery import power_source
from edgetune.energy.estimate import GPU_W, ConstantPower, estimate_by_use
from edgetune.energy.sensor import (
    Counter,
    EnergyReading,
    FallbackSensor,
    Sensor,
    SensorSum,
    TimeSource,
    read_energy,
)
from edgetune.utils.errors import UsageError
from edgetune.utils.plugins import classes_of

__all__ = ["EnergyReading", "Sensor", "SensorSum", "counters", "open_sensor", "power_source", "read_energy"]


@functools.cache
def counters() -> tuple[type[Counter], ...]:
    """Return the sensors that the modules of this folder define, in the order of their modules."""
    return tuple(classes_of(__name__, Counter, "covers"))


def open_sensor(
    watts: float | None = None,
    root: Path = Path("/"),
    device: str = "cpu",
    busy_w: tuple[float, str] | None = None,
    *,
    prefer_battery: bool = False,
    clock: TimeSource = time.perf_counter,
) -> Sensor:
    """Open the best sensor there is; for want of any, an estimate. Read it about once a second.

    Args:
        watts: the user's `--watts`; wins over everything, sensors included.
        root: where `sys` and `proc` are.
        device: `cuda` adds the GPU.
        busy_w: watts of the whole device while training and where they come from, of a device profile; the
            estimate where no sensor works.
        prefer_battery: read the battery even where the processor has counters, since it is what is limited.
        clock: monotonic seconds.

    Raises:
        UsageError: `watts` is not a power.
    """
    if watts is not None:
        if not (math.isfinite(watts) and watts > 0):
            raise UsageError(
                f"--watts {watts:g} is not a valid power; give the watts that this device draws (above 0)."
            )
        return ConstantPower(watts, f"estimated: --watts {watts:g}", clock)

    def find(covers: str) -> Counter | None:
        found = (kind.find(root, clock) for kind in counters() if kind.covers == covers)
        return next((counter for counter in found if counter is not None), None)

    def guarded(counter: Counter | None, estimate: Sensor) -> Sensor:
        return estimate if counter is None else FallbackSensor(counter, estimate, clock)

    by_use: Sensor = estimate_by_use(None, clock)
    whole: Sensor | None = None
    if busy_w is not None:
        whole = ConstantPower(busy_w[0], f"estimated: {busy_w[0]:.3g} W while busy ({busy_w[1]})", clock)
    if device != "cuda":
        order = ("machine", "processor") if prefer_battery else ("processor", "machine")
        return guarded(find(order[0]) or find(order[1]), whole or by_use)
    of_gpu = ConstantPower(GPU_W, f"estimated: {GPU_W:g} W for the GPU, which has no readable sensor", clock)
    processor, gpu = find("processor"), find("gpu")
    machine = None if processor is not None and gpu is not None else find("machine")
    if machine is None and (gpu is not None or whole is None):
        return SensorSum([guarded(gpu, of_gpu), guarded(processor, by_use)])
    # One figure covers both: the machine's, or the profile's watts.
    for counter in (processor, gpu):
        if counter is not None:
            counter.close()
    return guarded(machine, whole or SensorSum([of_gpu, by_use]))
