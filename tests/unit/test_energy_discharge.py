"""The battery as a sensor: power integrated, set right by the charge, lost when plugged in."""

from __future__ import annotations

from pathlib import Path

import pytest
from energy_trees import DELL, PHONE, THINKPAD, add_to, supply
from fakes import FakeClock
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetune.energy.battery import Discharge
from edgetune.energy.sensor import SensorLost


def _without(files: dict[str, object], *names: str) -> dict[str, object]:
    return {name: value for name, value in files.items() if name not in names}


def test_power_is_integrated_before_the_charge_moves(tmp_path: Path) -> None:
    folder, clock = supply(tmp_path, "BAT0", **THINKPAD), FakeClock()
    sensor = Discharge(tmp_path, clock)
    assert sensor.name == "battery BAT0 discharge"
    clock.now_s += 2
    assert sensor.joules() == pytest.approx(24)
    (folder / "power_now").write_text("20000000")
    clock.now_s += 1
    assert sensor.joules() == pytest.approx(24 + 16)


def test_the_charge_sets_right_what_power_missed(tmp_path: Path) -> None:
    """Power is asked at quiet moments only (12 W); 30 W really leave the battery."""
    folder, clock = supply(tmp_path, "BAT0", **THINKPAD), FakeClock()
    sensor = Discharge(tmp_path, clock)
    clock.now_s += 1
    add_to(folder / "energy_now", -10_000)  # 36 J, most of them from before: only marks where to count from
    assert sensor.joules() == pytest.approx(12)
    for _ in range(10):
        clock.now_s += 12
        add_to(folder / "energy_now", -100_000)  # 360 J in 12 s
        sensor.joules()
    assert sensor.joules() == pytest.approx(12 + 3600)


def test_charge_times_a_sagging_voltage_is_no_energy_used(tmp_path: Path) -> None:
    """Under load the voltage falls by a tenth: the stored energy did not."""
    folder, clock = supply(tmp_path, "BAT0", **DELL), FakeClock()
    sensor = Discharge(tmp_path, clock)
    for _ in range(10):
        clock.now_s += 36
        add_to(folder / "charge_now", -10_000)  # 1 A
        (folder / "voltage_now").write_text("7200000")
        joules = sensor.joules()
    assert joules == pytest.approx(360 * 7.2, rel=0.05)


@pytest.mark.parametrize("jump", [2_000_000, -20_000_000, -40_000_000])
def test_a_gauge_that_corrects_itself_uses_no_energy(tmp_path: Path, jump: int) -> None:
    folder, clock = supply(tmp_path, "BAT0", **THINKPAD), FakeClock()
    sensor = Discharge(tmp_path, clock)
    for i in range(60):
        clock.now_s += 3
        add_to(folder / "energy_now", -10_000 if i != 30 else max(jump, -int(40_000_000 - i * 10_000)))
        joules = sensor.joules()
    assert joules == pytest.approx(60 * 36, rel=0.02)


def test_without_power_only_steps_count_and_before_them_there_is_no_figure(tmp_path: Path) -> None:
    folder = supply(tmp_path, "BAT0", **_without(THINKPAD, "power_now", "voltage_now", "voltage_min_design"))
    clock = FakeClock()
    sensor = Discharge(tmp_path, clock)
    clock.now_s += 5
    assert sensor.joules() is None
    add_to(folder / "energy_now", -10_000)
    assert sensor.joules() == pytest.approx(36)
    clock.now_s += 5
    assert sensor.joules() == pytest.approx(36)


def test_a_short_gap_of_power_is_bridged_and_a_long_one_is_a_loss(tmp_path: Path) -> None:
    folder, clock = supply(tmp_path, "BAT0", **THINKPAD), FakeClock()
    sensor = Discharge(tmp_path, clock)
    (folder / "power_now").write_text("garbage")
    for name in ("voltage_now", "voltage_min_design"):
        (folder / name).unlink()
    clock.now_s += 5
    assert sensor.joules() == 0
    (folder / "power_now").write_text("12000000")
    clock.now_s += 1
    assert sensor.joules() == pytest.approx(72)
    (folder / "power_now").unlink()
    clock.now_s += 11
    with pytest.raises(SensorLost, match="power"):
        sensor.joules()


@pytest.mark.parametrize(
    ("folder", "name", "text"),
    [("AC", "online", "1"), ("BAT0", "status", "Charging"), ("BAT0", "present", "0")],
)
def test_it_is_lost_when_the_battery_feeds_the_machine_no_more(
    tmp_path: Path, folder: str, name: str, text: str
) -> None:
    folders = {"BAT0": supply(tmp_path, "BAT0", **THINKPAD)}
    folders["AC"] = supply(tmp_path, "AC", type="Mains", online=0)
    sensor = Discharge(tmp_path, FakeClock())
    (folders[folder] / name).write_text(text)
    with pytest.raises(SensorLost):
        sensor.joules()


@pytest.mark.parametrize(
    "files",
    [
        THINKPAD | {"status": "Charging"},
        THINKPAD | {"status": "Full"},
        THINKPAD | {"scope": "Device"},
        {"type": "Battery", "status": "Discharging", "capacity": 50},
        _without(PHONE, "voltage_now"),
    ],
)
def test_what_cannot_be_a_sensor_does_not_open(tmp_path: Path, files: dict[str, object]) -> None:
    supply(tmp_path, "BAT0", **files)
    with pytest.raises(SensorLost):
        Discharge(tmp_path, FakeClock())


@settings(max_examples=40, deadline=None)
@given(
    powers=st.lists(st.integers(1, 60), min_size=20, max_size=60),
    step_uwh=st.sampled_from([1_000, 10_000, 50_000]),
    offset=st.floats(0, 1),
)
def test_it_stays_within_a_step_of_the_truth(
    tmp_path_factory: pytest.TempPathFactory, powers: list[int], step_uwh: int, offset: float
) -> None:
    """Whatever the load and the gauge's step, read every second with each second's power in view."""
    root, clock = tmp_path_factory.mktemp("battery"), FakeClock()
    folder = supply(root, "BAT0", **THINKPAD | {"power_now": powers[0] * 1_000_000})
    sensor = Discharge(root, clock)
    true_j = 0.0
    for power_w in powers:
        clock.now_s += 1
        true_j += power_w
        left_uwh = 40_000_000 + offset * step_uwh - true_j / 0.0036
        (folder / "energy_now").write_text(str(int(left_uwh // step_uwh * step_uwh)))
        (folder / "power_now").write_text(str(power_w * 1_000_000))
        joules = sensor.joules()
    assert joules is not None
    assert abs(joules - true_j) <= step_uwh * 0.0036 + 60 + 30
