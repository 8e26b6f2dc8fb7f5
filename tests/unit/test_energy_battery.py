"""Batteries of recorded trees: laptops, phones, mice, chargers, and files that say nonsense."""

from __future__ import annotations

from pathlib import Path

import pytest
from energy_trees import DELL, PHONE, THINKPAD, supply

from edgetune.energy.battery import find_battery, power_source


def test_a_battery_in_energy_units(tmp_path: Path) -> None:
    supply(tmp_path, "BAT0", **THINKPAD)
    battery = find_battery(tmp_path)
    assert battery is not None
    assert battery.name == "BAT0"
    assert battery.charge_j() == pytest.approx(40 * 3600)
    assert battery.capacity_j() == pytest.approx(50 * 3600)
    assert battery.power_w() == pytest.approx(12)
    assert battery.percent == 80
    assert battery.discharging


def test_a_battery_in_charge_units(tmp_path: Path) -> None:
    supply(tmp_path, "BAT0", **DELL)
    battery = find_battery(tmp_path)
    assert battery is not None
    assert battery.charge_j() == pytest.approx(3 * 8 * 3600)
    assert battery.capacity_j() == pytest.approx(6 * 8 * 3600)
    assert battery.power_w() == pytest.approx(8)


def test_a_phone_with_a_negative_current_and_another_name_for_its_charge(tmp_path: Path) -> None:
    supply(tmp_path, "battery", **PHONE)
    battery = find_battery(tmp_path)
    assert battery is not None
    assert battery.power_w() == pytest.approx(2)
    assert battery.charge_j() == pytest.approx(2.4 * 4 * 3600)


def test_a_current_in_milliampere_is_not_believed(tmp_path: Path) -> None:
    supply(tmp_path, "battery", **PHONE | {"current_now": -450})
    battery = find_battery(tmp_path)
    assert battery is not None
    assert battery.power_w() is None


def test_a_missing_voltage_is_looked_for_and_then_unknown(tmp_path: Path) -> None:
    folder = supply(tmp_path, "BAT0", **DELL)
    battery = find_battery(tmp_path)
    assert battery is not None
    (folder / "voltage_now").unlink()
    assert battery.charge_j() == pytest.approx(3 * 7.6 * 3600)
    (folder / "voltage_min_design").unlink()
    assert battery.charge_j() is None
    assert battery.capacity_j() is None
    assert battery.power_w() is None
    assert battery.discharging


def test_the_percentage_stands_in_for_the_charge(tmp_path: Path) -> None:
    only = {key: THINKPAD[key] for key in ("type", "status", "capacity", "energy_full")}
    supply(tmp_path, "BAT0", **only)
    battery = find_battery(tmp_path)
    assert battery is not None
    assert battery.charge_j() == pytest.approx(0.8 * 50 * 3600)


def test_two_batteries_are_one(tmp_path: Path) -> None:
    supply(tmp_path, "BAT0", **THINKPAD)
    other = THINKPAD | {"status": "Not charging", "energy_now": 10000000, "power_now": 0, "capacity": 20}
    second = supply(tmp_path, "BAT1", **other)
    battery = find_battery(tmp_path)
    assert battery is not None
    assert battery.name == "BAT0 + BAT1"
    assert battery.charge_j() == pytest.approx(50 * 3600)
    assert battery.capacity_j() == pytest.approx(100 * 3600)
    assert battery.percent == 50
    assert battery.power_w() == pytest.approx(12)
    assert battery.discharging
    (second / "status").write_text("Charging\n")
    assert not battery.discharging
    (second / "energy_now").write_text("garbage\n")
    (second / "capacity").unlink()
    assert battery.charge_j() is None


@pytest.mark.parametrize(
    "files",
    [
        {"type": "Battery", "scope": "Device", "status": "Discharging", "capacity": 70},  # a mouse
        {"type": "Mains", "online": 1},
        {"type": "USB", "online": 0},
        {"type": "UPS", "status": "Discharging", "charge_now": 1000},
        {"type": "Battery", "present": 0, "status": "Unknown"},  # an empty bay
        {"type": ""},
    ],
)
def test_what_is_no_battery_of_ours(tmp_path: Path, files: dict[str, object]) -> None:
    supply(tmp_path, "one", **files)
    assert find_battery(tmp_path) is None


def test_garbage_is_unknown_and_raises_nothing(tmp_path: Path) -> None:
    folder = supply(tmp_path, "BAT0", **dict.fromkeys(THINKPAD, "��nonsense") | {"type": "Battery"})
    (folder / "energy_now").write_bytes(b"\xff\xfe\x00")
    (folder / "voltage_now").unlink()
    (folder / "voltage_now").mkdir()
    battery = find_battery(tmp_path)
    assert battery is not None
    values = (battery.charge_j(), battery.capacity_j(), battery.power_w(), battery.percent)
    assert values == (None,) * 4
    assert not battery.discharging
    assert power_source(tmp_path) == "unknown"


@pytest.mark.parametrize(
    ("status", "online", "expected"),
    [
        ("Discharging", 0, "battery"),
        ("Discharging", 1, "mains"),  # a charger too weak: the battery gives only a part
        ("Discharging", None, "battery"),
        ("Charging", 1, "mains"),
        ("Charging", 0, "mains"),
        ("Full", 1, "mains"),
        ("Full", 0, "battery"),
        ("Full", None, "mains"),
        ("Not charging", None, "mains"),
        ("Unknown", 0, "battery"),
        ("Unknown", None, "unknown"),
    ],
)
def test_power_source(tmp_path: Path, status: str, online: int | None, expected: str) -> None:
    supply(tmp_path, "BAT0", **THINKPAD | {"status": status})
    if online is not None:
        supply(tmp_path, "AC", type="Mains", online=online)
    assert power_source(tmp_path) == expected


def test_a_phone_at_a_usb_charger_of_an_old_kernel_is_plugged_in(tmp_path: Path) -> None:
    supply(tmp_path, "battery", **PHONE)
    supply(tmp_path, "usb", type="USB_DCP", online=1)
    assert power_source(tmp_path) == "mains"


def test_a_mouse_does_not_decide_the_power_source(tmp_path: Path) -> None:
    supply(tmp_path, "hidpp_battery_0", type="Battery", scope="Device", status="Discharging", online=1)
    assert power_source(tmp_path) == "unknown"


def test_a_desktop_is_unknown(tmp_path: Path) -> None:
    assert power_source(tmp_path) == "unknown"
    supply(tmp_path, "AC", type="Mains", online=1)
    assert power_source(tmp_path) == "mains"
