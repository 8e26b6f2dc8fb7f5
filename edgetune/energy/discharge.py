"""A battery as a sensor: while it discharges, what leaves it is what the whole device draws, screen included.

    power ─ integrated ─────────────┐ fine, but it drifts when it is asked seldom
    charge ─ steps of tens of joules ┴─→ joules: at each step, set to what has left since the first step

A step up, or one far larger than the power tells, is the gauge correcting itself: then the power's sum stands
and the charge is followed from there. Where power is not told, only the steps count, from the opening on.
"""

from __future__ import annotations

import time
from pathlib import Path

from edgetune.energy.base import Clock, PowerIntegral, SensorLost
from edgetune.energy.battery import MAX_POWER_W, Battery, Level, find_battery, power_source

MAX_STEP = 5.0
"""A charge that falls by more than so many times the power's integral was corrected, not used."""

PATIENCE_S = 10.0
"""Figures may be missing for so long, as when one battery takes over from another."""


class Discharge:
    """Joules out of the battery since opening."""

    def __init__(self, root: Path, clock: Clock = time.perf_counter) -> None:
        """Start counting.

        Raises:
            SensorLost: no battery, not discharging, plugged in, or neither power nor charge is told.
        """
        self._root, self._clock = root, clock
        battery = self._battery()
        self.name = f"battery {battery.name} discharge"
        power_w, levels = battery.power_w(), self._levels(battery)
        if power_w is None and not levels:
            raise SensorLost("it tells neither power nor charge")
        self._power = PowerIntegral()
        self._levels_then = levels
        self._step_s = self._told_s = clock()
        self._has_power = power_w is not None
        self._anchored = not self._has_power  # with a power reading, the first step is a part of a step
        self._at_step_j = self._power_at_step_j = 0.0
        if power_w is not None:
            self._power.add(self._step_s, power_w)

    def _battery(self) -> Battery:
        battery = find_battery(self._root)
        if battery is None:
            raise SensorLost("no battery")
        if not battery.discharging or power_source(self._root) != "battery":
            raise SensorLost("not on battery")
        return battery

    @staticmethod
    def _levels(battery: Battery) -> dict[Path, Level]:
        levels = {cell.folder: cell.level() for cell in battery.cells}
        known = {folder: one for folder, one in levels.items() if one is not None and one.j_per_unit}
        return known if len(known) == len(levels) else {}

    def joules(self) -> float | None:
        """Return joules since opening; None before the first step where only the charge is told.

        Raises:
            SensorLost: the machine was plugged in, or the battery tells no more.
        """
        battery, now_s = self._battery(), self._clock()
        power_w, levels = battery.power_w(), self._levels(battery)
        if power_w is not None and self._has_power:
            self._power.add(now_s, power_w)
        told = power_w is not None if self._has_power else bool(levels)
        if told:
            self._told_s = now_s
        elif now_s - self._told_s > PATIENCE_S:
            raise SensorLost(f"it tells its {'power' if self._has_power else 'charge'} no more")
        self._follow(now_s, levels)
        if not self._has_power and self._at_step_j == 0:
            return None
        return self._at_step_j + self._power.joules - self._power_at_step_j

    def _follow(self, now_s: float, levels: dict[Path, Level]) -> None:
        """Set the sum at a step of the charge."""
        then = self._levels_then
        if levels.keys() != then.keys() or all(now.amount == then[key].amount for key, now in levels.items()):
            return
        left_j = sum((then[key].amount - now.amount) * (now.j_per_unit or 0.0) for key, now in levels.items())
        powered_j = self._power.joules - self._power_at_step_j
        most_j = MAX_STEP * powered_j if self._has_power else MAX_POWER_W * (now_s - self._step_s)
        self._at_step_j += left_j if self._anchored and 0 <= left_j <= most_j else powered_j
        self._power_at_step_j = self._power.joules
        self._levels_then, self._step_s, self._anchored = levels, now_s, True

    def close(self) -> None:
        """Nothing is held open."""
