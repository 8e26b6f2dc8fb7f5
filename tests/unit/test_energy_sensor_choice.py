"""Which sensor is used where, and what a run reads when it is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from energy_trees import THINKPAD, add_to, laptop_rapl, supply
from fakes import FakeClock

from edgetune.energy import open_sensor
from edgetune.energy.nvml import Nvml
from edgetune.energy.powermetrics import Powermetrics
from edgetune.energy.sensor import SensorLost
from edgetune.utils.errors import UsageError

BUSY = (45.0, "profile laptop, RAPL package-0")


class FakeGpu:
    """A GPU that draws 300 W until it is lost."""

    name = "NVML NVIDIA H100"

    def __init__(self, clock: FakeClock) -> None:
        self.clock, self.start_s, self.lost, self.closed = clock, clock(), False, False

    def joules(self) -> float:
        if self.lost:
            raise SensorLost("NVML: GPU is lost")
        return 300 * (self.clock() - self.start_s)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch, clock: FakeClock) -> list[FakeGpu]:
    """No powermetrics; a GPU is there once a test puts it into the list."""
    found: list[FakeGpu] = []
    monkeypatch.setattr(Powermetrics, "find", lambda root, clock: None)
    monkeypatch.setattr(Nvml, "find", lambda root, clock: found[0] if found else None)
    return found


def test_watts_told_win_over_everything(tmp_path: Path, clock: FakeClock) -> None:
    laptop_rapl(tmp_path)
    sensor = open_sensor(watts=25, root=tmp_path, busy_w=BUSY, clock=clock)
    clock.now_s += 10
    assert (sensor.joules(), sensor.measured, sensor.source) == (250, False, "estimated: --watts 25")


@pytest.mark.parametrize("watts", [0, -3, float("nan"), float("inf")])
def test_watts_must_be_a_power(tmp_path: Path, watts: float) -> None:
    with pytest.raises(UsageError, match="--watts"):
        open_sensor(watts=watts, root=tmp_path)


@pytest.mark.parametrize(
    ("has", "prefer_battery", "source"),
    [
        (("rapl", "battery"), False, "RAPL package-0 + dram"),
        (("rapl", "battery"), True, "battery BAT0 discharge"),
        (("powermetrics", "battery"), False, "powermetrics processor power"),
        (("battery", "gpu"), False, "battery BAT0 discharge"),  # the GPU is idle on the CPU
    ],
)
def test_the_ladder(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    clock: FakeClock,
    gpu: list[FakeGpu],
    has: tuple[str, ...],
    prefer_battery: bool,
    source: str,
) -> None:
    counters = laptop_rapl(tmp_path) if "rapl" in has else {}
    if "battery" in has:
        supply(tmp_path, "BAT0", **THINKPAD)
    if "gpu" in has:
        gpu.append(FakeGpu(clock))
    if "powermetrics" in has:
        mac = FakeGpu(clock)
        mac.name = "powermetrics processor power"
        monkeypatch.setattr(Powermetrics, "find", lambda root, clock: mac)
    sensor = open_sensor(root=tmp_path, prefer_battery=prefer_battery, clock=clock)
    if counters:
        add_to(counters["intel-rapl:0"], 12_000_000)
    clock.now_s += 1
    assert sensor.joules() == pytest.approx(300 if "powermetrics" in has else 12)
    assert (sensor.source, sensor.measured) == (source, True)


def test_plugged_in_midway_the_estimate_goes_on(tmp_path: Path, clock: FakeClock) -> None:
    folder = supply(tmp_path, "BAT0", **THINKPAD)
    sensor = open_sensor(root=tmp_path, busy_w=BUSY, clock=clock)
    clock.now_s += 2
    before_j = sensor.joules()
    (folder / "status").write_text("Charging\n")
    clock.now_s += 2
    assert sensor.joules() == pytest.approx(before_j + 90)
    assert not sensor.measured
    assert sensor.source == (
        "battery BAT0 discharge for 2 s, then estimated: 45 W while busy (profile laptop, RAPL package-0) "
        "(not on battery)"
    )


def test_on_mains_the_profile_is_the_estimate_and_without_it_use(tmp_path: Path, clock: FakeClock) -> None:
    supply(tmp_path, "BAT0", **THINKPAD | {"status": "Full"})
    sensor = open_sensor(root=tmp_path, busy_w=BUSY, clock=clock)
    clock.now_s += 2
    assert (sensor.joules(), sensor.measured) == (90, False)
    assert sensor.source == "estimated: 45 W while busy (profile laptop, RAPL package-0)"
    sensor = open_sensor(root=tmp_path, clock=clock)
    clock.now_s += 2
    assert sensor.joules() > 0
    assert sensor.source.endswith("no sensor, no TDP known")


def test_on_cuda_processor_and_gpu_are_added(tmp_path: Path, clock: FakeClock, gpu: list[FakeGpu]) -> None:
    counters = laptop_rapl(tmp_path)
    gpu.append(FakeGpu(clock))
    sensor = open_sensor(root=tmp_path, device="cuda", clock=clock)
    clock.now_s += 1
    add_to(counters["intel-rapl:0"], 50_000_000)
    assert sensor.joules() == pytest.approx(350)
    assert (sensor.source, sensor.measured) == ("NVML NVIDIA H100 + RAPL package-0 + dram", True)
    gpu[0].lost = True
    clock.now_s += 1
    add_to(counters["intel-rapl:0"], 50_000_000)
    assert sensor.joules() == pytest.approx(300 + 250 + 100)
    assert not sensor.measured
    assert "GPU is lost" in sensor.source
    sensor.close()
    assert gpu[0].closed


def test_on_cuda_a_processor_without_sensor_makes_it_an_estimate_in_part(
    tmp_path: Path, clock: FakeClock, gpu: list[FakeGpu]
) -> None:
    gpu.append(FakeGpu(clock))
    sensor = open_sensor(root=tmp_path, device="cuda", busy_w=BUSY, clock=clock)
    clock.now_s += 1
    assert sensor.joules() > 300
    assert not sensor.measured
    assert sensor.source.startswith("NVML NVIDIA H100 + estimated: ")
    assert "45 W" not in sensor.source  # the profile's watts hold the GPU already


def test_on_cuda_the_battery_holds_everything_and_is_added_to_nothing(
    tmp_path: Path, clock: FakeClock, gpu: list[FakeGpu]
) -> None:
    gpu.append(FakeGpu(clock))
    supply(tmp_path, "BAT0", **THINKPAD)
    sensor = open_sensor(root=tmp_path, device="cuda", clock=clock)
    clock.now_s += 1
    assert sensor.joules() == pytest.approx(12)
    assert sensor.source == "battery BAT0 discharge"
    assert gpu[0].closed


def test_on_cuda_with_no_sensor_the_gpu_is_not_zero(tmp_path: Path, clock: FakeClock) -> None:
    sensor = open_sensor(root=tmp_path, device="cuda", clock=clock)
    clock.now_s += 1
    assert sensor.joules() > 250
    assert sensor.source.startswith(
        "estimated: 250 W for the GPU, which has no readable sensor + estimated: "
    )
    sensor = open_sensor(root=tmp_path, device="cuda", busy_w=BUSY, clock=clock)
    assert sensor.source.startswith("estimated: 45 W while busy")


def test_this_machine_has_a_figure() -> None:
    sensor = open_sensor()
    sum(range(200_000))
    first_j, second_j = sensor.joules(), sensor.joules()
    assert 0 <= first_j <= second_j
    assert sensor.source
    sensor.close()
