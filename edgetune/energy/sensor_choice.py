"""The ladder of sensors: which one is used on this machine.

--watts     told by the user: wins over everything, being explicit
processor   its counters, such as RAPL on Linux, where they may be read
GPU         when training on cuda, such as NVML; added to the processor's
machine     such as a battery that discharges: everything, so it is never added to another
estimate    busy watts of the device profile, else watts per core times CPU use

Of two sensors that cover the same, the first that works is used, in the order of their modules' names.
"""

from __future__ import annotations

import functools
import math
import time
from pathlib import Path

from edgetune.energy.estimate import GPU_W, ConstantPower, estimate_by_use
from edgetune.energy.sensor import Counter, FallbackSensor, Sensor, SensorSum, TimeSource
from edgetune.utils.errors import UsageError
from edgetune.utils.plugins import classes_of


@functools.cache
def counters() -> tuple[type[Counter], ...]:
    """Return the sensors that the modules of this folder define, in the order of their modules."""
    return tuple(classes_of("edgetune.energy", Counter, "covers"))


def _find(covers: str, root: Path, clock: TimeSource) -> Counter | None:
    """Return the first sensor of the processor, the GPU or the whole machine that works here."""
    found = (kind.find(root, clock) for kind in counters() if kind.covers == covers)
    return next((counter for counter in found if counter is not None), None)


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
    by_use: Sensor = estimate_by_use(None, clock)
    whole = by_use
    if busy_w is not None:
        whole = ConstantPower(busy_w[0], f"estimated: {busy_w[0]:.3g} W while busy ({busy_w[1]})", clock)
    if device == "cuda":
        return _with_gpu(root, whole, by_use, clock)
    order = ("machine", "processor") if prefer_battery else ("processor", "machine")
    counter = _find(order[0], root, clock) or _find(order[1], root, clock)
    return whole if counter is None else FallbackSensor(counter, whole, clock)


def _with_gpu(root: Path, whole: Sensor, by_use: Sensor, clock: TimeSource) -> Sensor:
    """Add GPU and processor up, unless one figure covers both: `whole` does where it is not `by_use`."""
    guess = ConstantPower(GPU_W, f"estimated: {GPU_W:g} W for the GPU, which has no readable sensor", clock)
    processor, gpu = _find("processor", root, clock), _find("gpu", root, clock)
    machine = None if processor is not None and gpu is not None else _find("machine", root, clock)
    if machine is not None or (gpu is None and whole is not by_use):
        for counter in (processor, gpu):
            if counter is not None:
                counter.close()
        whole = SensorSum([guess, by_use]) if whole is by_use else whole
        return whole if machine is None else FallbackSensor(machine, whole, clock)
    return SensorSum(
        [
            guess if gpu is None else FallbackSensor(gpu, guess, clock),
            by_use if processor is None else FallbackSensor(processor, by_use, clock),
        ]
    )
