"""Machines laid out as file trees: what the kernel shows below /sys on laptops, phones and servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write(folder: Path, **files: Any) -> Path:
    """Write one small file per keyword, as sysfs shows it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")
    return folder


def supply(root: Path, name: str, **files: Any) -> Path:
    """Lay out one power supply; return its folder."""
    return write(root / "sys/class/power_supply" / name, **files)


# A ThinkPad X1 Carbon: figures in energy; the battery reports to 10 mWh.
THINKPAD = {
    "type": "Battery",
    "status": "Discharging",
    "present": 1,
    "capacity": 80,
    "energy_full_design": 57020000,
    "energy_full": 50000000,
    "energy_now": 40000000,
    "power_now": 12000000,
    "voltage_now": 15900000,
    "voltage_min_design": 15480000,
}
# A Dell XPS 13: figures in charge.
DELL = {
    "type": "Battery",
    "status": "Discharging",
    "capacity": 50,
    "charge_full_design": 6842000,
    "charge_full": 6000000,
    "charge_now": 3000000,
    "current_now": 1000000,
    "voltage_now": 8000000,
    "voltage_min_design": 7600000,
}
# A Pixel phone: no charge_now, and a current that is negative while it discharges.
PHONE = {
    "type": "Battery",
    "status": "Discharging",
    "capacity": 61,
    "charge_full": 4000000,
    "charge_counter": 2400000,
    "current_now": -500000,
    "voltage_now": 4000000,
}


def rapl_zone(root: Path, folder: str, name: str | None, energy_uj: int, **files: Any) -> Path:
    """Lay out one RAPL zone; return its counter's path."""
    named = {} if name is None else {"name": name}
    range_uj = {"max_energy_range_uj": 262143328850}
    zone = write(root / "sys/class/powercap" / folder, energy_uj=energy_uj, **{**named, **range_uj, **files})
    return zone / "energy_uj"


def laptop_rapl(root: Path) -> dict[str, Path]:
    """Lay out an i7-8550U's zones: package with core, uncore and dram, psys, and the mmio twin."""
    zones = {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "uncore",
        "intel-rapl:0:2": "dram",
        "intel-rapl:1": "psys",
        "intel-rapl-mmio:0": "package-0",
    }
    counters = {folder: rapl_zone(root, folder, name, 5_000_000) for folder, name in zones.items()}
    write(root / "sys/class/powercap/intel-rapl", enabled=1)
    return counters


def add_to(counter: Path, amount: int) -> None:
    """Move a counter (or a charge)."""
    counter.write_text(f"{int(counter.read_text()) + amount}\n")
