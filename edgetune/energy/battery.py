"""Batteries and chargers as Linux and Android show them below /sys/class/power_supply.

    supply ─ type Battery, not a mouse's ─→ Cell ─┐
    supply ─ type Mains, USB, Wireless ─→ online  │ several cells, one Battery
                                       └──────────┴─→ power_source: mains, battery or unknown

Files hold micro-units: energy_* µWh or charge_* µAh, power_* µW or current_* µA, voltage_* µV. Any of them
may be missing, unreadable or nonsense; what cannot be known is None.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgetune.energy.base import read_int, read_text

FOLDER = "sys/class/power_supply"
J_PER_UWH = 0.0036
MIN_POWER_W, MAX_POWER_W = 0.05, 1000.0
"""Outside of these a reading is no device's power but a driver that does not know it, or another unit."""

_VOLTAGES = ("voltage_now", "voltage_avg", "voltage_ocv", "voltage_min_design")
PowerSource = Literal["mains", "battery", "unknown"]


@dataclass(frozen=True, slots=True)
class Level:
    """What a cell holds, in its own unit.

    Attributes:
        amount: µWh or µAh.
        j_per_unit: joules of one; None where the voltage that it needs is not known.
    """

    amount: int
    j_per_unit: float | None


@dataclass(frozen=True, slots=True)
class Cell:
    """One battery's folder."""

    folder: Path

    def _first(self, *names: str) -> int | None:
        return next((value for name in names if (value := read_int(self.folder / name)) is not None), None)

    @property
    def status(self) -> str:
        """`Discharging`, `Charging`, `Full`, `Not charging`, `Unknown`, or empty."""
        return read_text(self.folder / "status") or ""

    @property
    def percent(self) -> int | None:
        """How full it says it is."""
        percent = read_int(self.folder / "capacity")
        return percent if percent is not None and 0 <= percent <= 100 else None

    def _j_per_uah(self) -> float | None:
        voltage_uv = self._first(*_VOLTAGES)
        return voltage_uv / 1e6 * J_PER_UWH if voltage_uv is not None and voltage_uv > 0 else None

    def level(self) -> Level | None:
        """Return what it holds."""
        for name, joules in (("energy_now", J_PER_UWH), ("charge_now", None), ("charge_counter", None)):
            amount = read_int(self.folder / name)
            if amount is not None and amount >= 0:
                return Level(amount, joules or self._j_per_uah())
        return None

    def capacity_j(self) -> float | None:
        """Return what it holds when full, as worn as it is (as new, where that is not known)."""
        energy_uwh = self._first("energy_full", "energy_full_design")
        if energy_uwh is not None:
            return energy_uwh * J_PER_UWH
        charge_uah, j_per_uah = self._first("charge_full", "charge_full_design"), self._j_per_uah()
        return None if charge_uah is None or j_per_uah is None else charge_uah * j_per_uah

    def charge_j(self) -> float | None:
        """Return what it holds; from its percentage where it tells nothing finer."""
        level = self.level()
        if level is not None and level.j_per_unit is not None:
            return level.amount * level.j_per_unit
        full_j, percent = self.capacity_j(), self.percent
        return None if full_j is None or percent is None else full_j * percent / 100

    def power_w(self) -> float | None:
        """Return the power in or out of it, without sign: drivers disagree about the sign."""
        power_uw = self._first("power_now", "power_avg")
        if power_uw is None:
            current_ua, voltage_uv = self._first("current_now", "current_avg"), self._first(*_VOLTAGES)
            if current_ua is None or voltage_uv is None:
                return None
            power_uw = round(current_ua * voltage_uv / 1e6)
        power_w = abs(power_uw) / 1e6
        return power_w if MIN_POWER_W <= power_w <= MAX_POWER_W else None


@dataclass(frozen=True, slots=True)
class Battery:
    """All the batteries that feed this machine, as one.

    Attributes:
        cells: at least one.
    """

    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """Names of the cells, such as `BAT0 + BAT1`."""
        return " + ".join(cell.folder.name for cell in self.cells)

    @property
    def percent(self) -> int | None:
        """How full: of the charge where it is known, else the mean of what the cells say."""
        charge_j, capacity_j = self.charge_j(), self.capacity_j()
        if len(self.cells) > 1 and charge_j is not None and capacity_j:
            return min(100, round(100 * charge_j / capacity_j))
        known = [cell.percent for cell in self.cells if cell.percent is not None]
        return round(sum(known) / len(known)) if known else None

    @property
    def discharging(self) -> bool:
        """Whether it gives more than it gets."""
        statuses = {cell.status for cell in self.cells}
        return "Discharging" in statuses and "Charging" not in statuses

    def charge_j(self) -> float | None:
        """Return the joules it holds; None unless every cell tells."""
        return _sum_if_all([cell.charge_j() for cell in self.cells])

    def capacity_j(self) -> float | None:
        """Return the joules it holds when full; None unless every cell tells."""
        return _sum_if_all([cell.capacity_j() for cell in self.cells])

    def power_w(self) -> float | None:
        """Return the watts out of the cells that discharge, or into those that charge; None if not told."""
        wanted = "Discharging" if self.discharging else "Charging"
        return _sum_if_all([cell.power_w() for cell in self.cells if cell.status == wanted])


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
    cells = [Cell(folder) for folder in _supplies(root, "Battery") if read_int(folder / "present") != 0]
    return Battery(tuple(cells)) if cells else None


def power_source(root: Path) -> PowerSource:
    """Return what feeds this machine; `unknown` where nothing tells, as on most desktops and servers.

    A charger that is too weak to stop the battery from discharging is still `mains`.
    """
    plugs = [read_int(folder / "online") for folder in _supplies(root, "Mains", "USB", "Wireless")]
    if any(plug is not None and plug > 0 for plug in plugs):
        return "mains"
    battery = find_battery(root)
    if battery is None:
        return _power_source_of_psutil() if root == Path("/") and sys.platform != "linux" else "unknown"
    statuses = {cell.status for cell in battery.cells}
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
