"""The ladder of sensors: which one is used on this machine.

--watts                       told by the user: wins over everything, being explicit
processor   RAPL              Linux on Intel and AMD, where the counters may be read
            powermetrics      macOS, as root or by sudo without a password
GPU         NVML              when training on cuda; added to the processor's
device      battery           while it discharges: everything, so it is never added to another
estimate    busy watts of the device profile, else TDP or watts per core times CPU use
"""

from __future__ import annotations

import math
import time
from pathlib import Path

from edgetune.energy.battery import Discharge
from edgetune.energy.estimate import GPU_W, ConstantPower, estimate_by_use, tdp_w
from edgetune.energy.nvml import open_nvml
from edgetune.energy.powermetrics import open_powermetrics
from edgetune.energy.rapl import Rapl, usable_zones
from edgetune.energy.sensor import Counter, FallbackSensor, Sensor, SensorLost, SensorSum, TimeSource
from edgetune.utils.errors import UsageError

ROOT = Path("/")


def open_sensor(
    watts: float | None = None,
    root: Path = ROOT,
    device: str = "cpu",
    busy_w: tuple[float, str] | None = None,
    *,
    look_up_tdp: bool = False,
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
        look_up_tdp: estimate from the processor's TDP; takes seconds.
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
    told = None if busy_w is None else f"estimated: {busy_w[0]:.3g} W while busy ({busy_w[1]})"
    by_use = estimate_by_use(tdp_w(root) if look_up_tdp else None, clock)
    whole: Sensor = by_use if busy_w is None or told is None else ConstantPower(busy_w[0], told, clock)
    if device == "cuda":
        return _with_gpu(root, whole, by_use, has_busy_w=busy_w is not None, clock=clock)
    first, second = (_battery, _processor) if prefer_battery else (_processor, _battery)
    counter = first(root, clock) or second(root, clock)
    return whole if counter is None else FallbackSensor(counter, whole, clock)


def _with_gpu(root: Path, whole: Sensor, by_use: Sensor, has_busy_w: bool, clock: TimeSource) -> Sensor:
    """Add GPU and processor up, unless one figure covers both."""
    guess = ConstantPower(GPU_W, f"estimated: {GPU_W:g} W for the GPU, which has no readable sensor", clock)
    processor, gpu = _processor(root, clock), open_nvml(clock)
    if processor is None or gpu is None:
        battery = _battery(root, clock)
        if battery is not None:
            _close(processor, gpu)
            return FallbackSensor(battery, whole if has_busy_w else SensorSum([guess, by_use]), clock)
    if gpu is None and has_busy_w:
        _close(processor)
        return whole
    return SensorSum(
        [
            guess if gpu is None else FallbackSensor(gpu, guess, clock),
            by_use if processor is None else FallbackSensor(processor, by_use, clock),
        ]
    )


def _close(*counters: Counter | None) -> None:
    for counter in counters:
        if counter is not None:
            counter.close()


def _processor(root: Path, clock: TimeSource) -> Counter | None:
    zones = usable_zones(root)
    return Rapl(zones, clock) if zones else open_powermetrics()


def _battery(root: Path, clock: TimeSource) -> Counter | None:
    try:
        return Discharge(root, clock)
    except SensorLost:
        return None
