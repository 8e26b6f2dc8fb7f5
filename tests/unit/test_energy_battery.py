"""Batteries of recorded trees: laptops, phones, mice, chargers, and files that say nonsense."""

from __future__ import annotations

from pathlib import Path

import pytest
from energy_trees import DELL, PHONE, THINKPAD, supply

from edgetune.energy.battery import Battery, find_battery, power_source


def battery_of(root: Path) -> Battery:
    battery = find_battery(root)
    assert battery is not None
    return battery


@pytest.mark.parametrize(
    ("files", "capacity_wh", "power_w", "percent"),
    [
        (THINKPAD, 50, 12, 80),
        (DELL, 6 * 8, 8, 50),
        (DELL | {"voltage_now": ""}, 6 * 7.6, 7.6, 50),
        (DELL | {"voltage_now": "", "voltage_min_design": ""}, None, None, 50),
        (PHONE, 4 * 4, 2, 61),  # a negative current
        (PHONE | {"current_now": -450}, 4 * 4, None, 61),  # in milliampere
    ],
)
def test_a_battery_in_any_unit(
    tmp_path: Path, files: dict[str, object], capacity_wh: float | None, power_w: float | None, percent: int
) -> None:
    supply(tmp_path, "BAT0", **files)
    battery = battery_of(tmp_path)
    capacity_j = None if capacity_wh is None else pytest.approx(capacity_wh * 3600)
    assert (battery.name, battery.percent, battery.discharging) == ("BAT0", percent, True)
    assert battery.capacity_j() == capacity_j
    assert battery.power_w() == (None if power_w is None else pytest.approx(power_w))


def test_two_batteries_are_one(tmp_path: Path) -> None:
    supply(tmp_path, "BAT0", **THINKPAD)
    other = THINKPAD | {"status": "Not charging", "energy_now": 10000000, "power_now": 0, "capacity": 20}
    second = supply(tmp_path, "BAT1", **other)
    battery = battery_of(tmp_path)
    assert (battery.name, battery.percent, battery.discharging) == ("BAT0 + BAT1", 50, True)
    assert battery.capacity_j() == pytest.approx(100 * 3600)
    assert battery.power_w() == pytest.approx(12)
    assert len(battery.levels()) == 2
    (second / "status").write_text("Charging\n")
    assert not battery.discharging
    (second / "energy_now").write_text("garbage\n")
    assert battery.levels() == {}


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
    battery = battery_of(tmp_path)
    assert (battery.capacity_j(), battery.power_w(), battery.percent, battery.levels()) == (None,) * 3 + ({},)
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
