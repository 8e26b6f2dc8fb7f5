"""Batteries and chargers as Linux and Android show them below /sys/class/power_supply.

    supply ─ type Battery, not a mouse's ─→ BatteryCell ─┐
    supply ─ type Mains, USB, Wireless ─→ online         │ several cells, one Battery
                                       └─────────────────┴─→ power_source: mains, battery or unknown

Files hold micro-units: energy_* µWh or charge_* µAh, power_* µW or current_* µA, voltage_* µV. Any of them
may be missing, unreadable or nonsense; what cannot be known is None.

`Discharge` is a battery as a sensor: while it discharges, what leaves it is what the whole device draws,
screen included.

    power ─ integrated ─────────────┐ fine, but it drifts when it is asked seldom
    charge ─ steps of tens of joules ┴─→ joules: at each step, set to what has left since the first step

A step up, or one far larger than the power tells, is the gauge correcting itself: then the power's sum stands
and the charge is followed from there. Where power is not told, only the steps count, from the opening on.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgetune.energy.sensor import (
    Counter,
    PowerIntegral,
    SensorLost,
    SensorState,
    TimeSource,
    read_int,
    read_text,
)
from edgetune.utils.errors import UsageError

if TYPE_CHECKING:
    from edgetune.config.settings import BudgetSettings

FOLDER = "sys/class/power_supply"
J_PER_UWH = 0.0036
MIN_POWER_W, MAX_POWER_W = 0.05, 1000.0
"""Outside of these a reading is no device's power but a driver that does not know it, or another unit."""

_VOLTAGES = ("voltage_now", "voltage_avg", "voltage_ocv", "voltage_min_design")
PowerSource = Literal["mains", "battery", "unknown"]


@dataclass(frozen=True, slots=True)
class BatteryCell:
    """One battery's folder."""

    folder: Path

    def _first(self, *names: str) -> int | None:
        return next((value for name in names if (value := read_int(self.folder / name)) is not None), None)

    @property
    def status(self) -> str:
        """`Discharging`, `Charging`, `Full`, `Not charging`, `Unknown`, or empty."""
        return read_text(self.folder / "status") or ""

    def _j_per_uah(self) -> float | None:
        voltage_uv = self._first(*_VOLTAGES)
        return voltage_uv / 1e6 * J_PER_UWH if voltage_uv is not None and voltage_uv > 0 else None

    def level(self) -> tuple[int, float] | None:
        """Return what it holds: µWh or µAh, and joules of one; None where one of them is not known."""
        for name, joules in (("energy_now", J_PER_UWH), ("charge_now", None), ("charge_counter", None)):
            amount = read_int(self.folder / name)
            if amount is not None and amount >= 0:
                j_per_unit = joules or self._j_per_uah()
                return None if j_per_unit is None else (amount, j_per_unit)
        return None

    def capacity_j(self) -> float | None:
        """Return what it holds when full, as worn as it is (as new, where that is not known)."""
        energy_uwh = self._first("energy_full", "energy_full_design")
        if energy_uwh is not None:
            return energy_uwh * J_PER_UWH
        charge_uah, j_per_uah = self._first("charge_full", "charge_full_design"), self._j_per_uah()
        return None if charge_uah is None or j_per_uah is None else charge_uah * j_per_uah

    def power_w(self) -> float | None:
        """Return the power in or out of it, without sign: drivers disagree about the sign."""
        power_uw: float | None = self._first("power_now", "power_avg")
        if power_uw is None:
            current_ua, voltage_uv = self._first("current_now", "current_avg"), self._first(*_VOLTAGES)
            if current_ua is None or voltage_uv is None:
                return None
            power_uw = current_ua * voltage_uv / 1e6
        power_w = abs(power_uw) / 1e6
        return power_w if MIN_POWER_W <= power_w <= MAX_POWER_W else None


@dataclass(frozen=True, slots=True)
class Battery:
    """All the batteries (at least one) that feed this machine, as one."""

    cells: tuple[BatteryCell, ...]

    @property
    def name(self) -> str:
        """Names of the cells, such as `BAT0 + BAT1`."""
        return " + ".join(cell.folder.name for cell in self.cells)

    @property
    def percent(self) -> int | None:
        """How full: the mean of what the cells say."""
        said = [read_int(cell.folder / "capacity") for cell in self.cells]
        known = [percent for percent in said if percent is not None and 0 <= percent <= 100]
        return round(sum(known) / len(known)) if known else None

    @property
    def statuses(self) -> set[str]:
        """What the cells do."""
        return {cell.status for cell in self.cells}

    @property
    def discharging(self) -> bool:
        """Whether it gives more than it gets."""
        statuses = self.statuses
        return "Discharging" in statuses and "Charging" not in statuses

    def levels(self) -> dict[Path, tuple[int, float]]:
        """Return what each cell holds; empty unless every cell tells."""
        levels = {cell.folder: level for cell in self.cells if (level := cell.level()) is not None}
        return levels if len(levels) == len(self.cells) else {}

    def capacity_j(self) -> float | None:
        """Return the joules it holds when full; None unless every cell tells."""
        return _sum_if_all([cell.capacity_j() for cell in self.cells])

    def power_w(self) -> float | None:
        """Return the watts out of the cells that discharge; None if not told."""
        return _sum_if_all([cell.power_w() for cell in self.cells if cell.status == "Discharging"])


def _sum_if_all(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _supplies(root: Path, *types: str) -> list[Path]:
    """Return the supplies whose type starts so and that are the machine's own, not a mouse's."""
    return [
        kind.parent
        for kind in sorted((root / FOLDER).glob("*/type"))
        if (read_text(kind) or "").startswith(types) and read_text(kind.parent / "scope") != "Device"
    ]


def find_battery(root: Path) -> Battery | None:
    """Return this machine's batteries; None where there is none."""
    cells = [
        BatteryCell(folder) for folder in _supplies(root, "Battery") if read_int(folder / "present") != 0
    ]
    return Battery(tuple(cells)) if cells else None


def power_source(root: Path) -> PowerSource:
    """Return what feeds this machine; `unknown` where nothing tells, as on most desktops and servers.

    A charger that is too weak to stop the battery from discharging is still `mains`.
    """
    if any((read_int(plug / "online") or 0) > 0 for plug in _supplies(root, "Mains", "USB", "Wireless")):
        return "mains"
    battery = find_battery(root)
    if battery is None:
        return _power_source_of_psutil() if root == Path("/") and sys.platform != "linux" else "unknown"
    statuses = battery.statuses
    if "Charging" in statuses:
        return "mains"
    unplugged = any(read_int(folder / "online") == 0 for folder in _supplies(root, "Mains"))
    if "Discharging" in statuses or unplugged:
        return "battery"
    return "mains" if statuses & {"Full", "Not charging"} else "unknown"


def _power_source_of_psutil() -> PowerSource:
    import psutil

    try:
        state = psutil.sensors_battery()
    except (AttributeError, OSError, RuntimeError):  # a platform without it, or one that refuses
        return "unknown"
    if state is None or state.power_plugged is None:
        return "unknown"
    return "mains" if state.power_plugged else "battery"


MAX_STEP = 5.0
"""A charge that falls by more than so many times the power's integral was corrected, not used."""

PATIENCE_S = 10.0
"""Figures may be missing for so long, as when one battery takes over from another."""


class Discharge(Counter):
    """Joules out of the battery since opening; none before the first step where only the charge is told.

    It is lost when the machine is plugged in, or when the battery tells no more.
    """

    covers = "machine"

    @classmethod
    def find(cls, root: Path, clock: TimeSource) -> Discharge | None:
        try:
            return cls(root, clock)
        except SensorLost:
            return None

    @classmethod
    def state_on(cls, root: Path) -> SensorState:
        battery = find_battery(root)
        if battery is None:
            return SensorState("battery", False, "none found")
        charge = "" if battery.percent is None else f", {battery.percent} %"
        measures = ", discharging" if power_source(root) == "battery" and battery.discharging else ""
        return SensorState("battery", True, f"{battery.name}{charge}{measures}")

    def __init__(self, root: Path, clock: TimeSource) -> None:
        """Start counting.

        Raises:
            SensorLost: no battery, not discharging, plugged in, or neither power nor charge is told.
        """
        self._root, self._clock = root, clock
        battery = self._battery()
        self.name = f"battery {battery.name} discharge"
        power_w, self._levels = battery.power_w(), battery.levels()
        self._power = PowerIntegral()
        self._step_s = self._told_s = clock()
        self._has_power = power_w is not None
        self._anchored = not self._has_power  # with a power reading, the first step is a part of a step
        self._at_step_j = self._power_at_step_j = 0.0
        if power_w is not None:
            self._power.add(self._step_s, power_w)
        elif not self._levels:
            raise SensorLost("it reports neither power nor charge")

    def _battery(self) -> Battery:
        battery = find_battery(self._root)
        if battery is None:
            raise SensorLost("no battery")
        if not battery.discharging or power_source(self._root) != "battery":
            raise SensorLost("not on battery")
        return battery

    def joules(self) -> float | None:
        battery, now_s = self._battery(), self._clock()
        power_w, levels = battery.power_w(), battery.levels()
        if power_w is not None and self._has_power:
            self._power.add(now_s, power_w)
        if power_w is not None if self._has_power else levels:
            self._told_s = now_s
        elif now_s - self._told_s > PATIENCE_S:
            raise SensorLost(f"it no longer reports its {'power' if self._has_power else 'charge'}")
        self._follow(now_s, levels)
        if not self._has_power and self._at_step_j == 0:
            return None
        return self._at_step_j + self._power.joules - self._power_at_step_j

    def _follow(self, now_s: float, levels: dict[Path, tuple[int, float]]) -> None:
        """Set the sum at a step of the charge."""
        if levels.keys() != self._levels.keys():
            return
        left = {cell: self._levels[cell][0] - amount for cell, (amount, _) in levels.items()}
        if not any(left.values()):
            return
        left_j = sum(left[cell] * j_per_unit for cell, (_, j_per_unit) in levels.items())
        powered_j = self._power.joules - self._power_at_step_j
        most_j = MAX_STEP * powered_j if self._has_power else MAX_POWER_W * (now_s - self._step_s)
        self._at_step_j += left_j if self._anchored and 0 <= left_j <= most_j else powered_j
        self._power_at_step_j = self._power.joules
        self._levels, self._step_s, self._anchored = levels, now_s, True


def energy_limit_j(budget: BudgetSettings, root: Path = Path("/")) -> float | None:
    """Return the joules that a run may use: by `--energy`, `--battery`, or the smaller of both.

    Raises:
        UsageError: there is no battery, or it is not what the machine runs on.
    """
    if budget.battery_rate is None:
        return budget.energy_j
    share = f"--battery {100 * budget.battery_rate:.3g}%"
    battery = find_battery(root)
    capacity_j = None if battery is None else battery.capacity_j()
    if battery is None or capacity_j is None:
        raise UsageError(
            f"{share}: this machine has no battery that reports its capacity; use, e.g., --energy 20kJ."
        )
    if not battery.discharging:
        raise UsageError(
            f"{share}: the machine runs on mains power, not on its battery; use --energy or --deadline."
        )
    by_battery_j = budget.battery_rate * capacity_j
    return by_battery_j if budget.energy_j is None else min(by_battery_j, budget.energy_j)
