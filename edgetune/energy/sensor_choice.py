"""The ladder of sensors: which one is used on this machine.

--watts                       told by the user: wins over everything, being explicit
processor   RAPL              Linux on Intel and AMD, where the counters may be read
            powermetrics      macOS, as root or by sudo without a password
GPU         NVML              when training on cuda; added to the processor's
device      battery           while it discharges: everything, so it is never added to another
estimate    busy watts of the device profile, else watts per core times CPU use
"""

from __future__ import annotations

import math
import time
from pathlib import Path

from edgetune.energy.battery import Discharge
from edgetune.energy.estimate import GPU_W, ConstantPower, estimate_by_use
from edgetune.energy.nvml import open_nvml
from edgetune.energy.powermetrics import open_powermetrics
from edgetune.energy.rapl import Rapl, usable_zones
from edgetune.energy.sensor import Counter, FallbackSensor, Sensor, SensorLost, SensorSum, TimeSource
from edgetune.utils.errors import UsageError


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
    first, second = (_battery, _processor) if prefer_battery else (_processor, _battery)
    counter = first(root, clock) or second(root, clock)
    return whole if counter is None else FallbackSensor(counter, whole, clock)


def _with_gpu(root: Path, whole: Sensor, by_use: Sensor, clock: TimeSource) -> Sensor:
    """Add GPU and processor up, unless one figure covers both: `whole` does where it is not `by_use`."""
    guess = ConstantPower(GPU_W, f"estimated: {GPU_W:g} W for the GPU, which has no readable sensor", clock)
    processor, gpu = _processor(root, clock), open_nvml(clock)
    battery = None if processor is not None and gpu is not None else _battery(root, clock)
    if battery is not None or (gpu is None and whole is not by_use):
        for counter in (processor, gpu):
            if counter is not None:
                counter.close()
        whole = SensorSum([guess, by_use]) if whole is by_use else whole
        return whole if battery is None else FallbackSensor(battery, whole, clock)
    return SensorSum(
        [
            guess if gpu is None else FallbackSensor(gpu, guess, clock),
            by_use if processor is None else FallbackSensor(processor, by_use, clock),
        ]
    )


def _processor(root: Path, clock: TimeSource) -> Counter | None:
    zones = usable_zones(root)
    return Rapl(zones, clock) if zones else open_powermetrics()


def _battery(root: Path, clock: TimeSource) -> Counter | None:
    try:
        return Discharge(root, clock)
    except SensorLost:
        return None
