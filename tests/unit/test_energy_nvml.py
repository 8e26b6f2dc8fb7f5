"""NVML by a module that stands in for pynvml."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import FakeClock

from edgetune.energy.nvml import Nvml
from edgetune.energy.sensor import SensorLost


class FakeNvml(SimpleNamespace):
    """Two GPUs, 0 and 1, with a counter and a power; what is None is not supported."""

    class NVMLError(Exception):
        pass

    def __init__(self, energy_mj: int | None = 1000, power_mw: int | None = 70_000) -> None:
        super().__init__(energy_mj=energy_mj, power_mw=power_mw, started=0, asked=None, driver=True)

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.driver:
            raise self.NVMLError("Driver Not Loaded")
        self.started += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.started -= 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        if index > 1:
            raise self.NVMLError("Invalid Argument")
        self.asked = index
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:  # noqa: N802
        self.asked = uuid
        return 0

    def nvmlDeviceGetName(self, handle: int) -> str | bytes:  # noqa: N802
        return b"NVIDIA H100" if handle else "NVIDIA H100"

    def _told(self, value: int | None) -> int:
        if value is None:
            raise self.NVMLError("Not Supported")
        return value

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:  # noqa: N802
        return self._told(self.energy_mj)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:  # noqa: N802
        return self._told(self.power_mw)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def _install(monkeypatch: pytest.MonkeyPatch, fake: Any, visible: str | None = None) -> Any:
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    return fake


def opened(clock: FakeClock) -> Nvml:
    sensor = Nvml.find(Path("/"), clock)
    assert sensor is not None
    return sensor


def test_the_counter_is_read_from_its_value_at_opening(
    monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    fake = _install(monkeypatch, FakeNvml(energy_mj=5_000_000))
    sensor = opened(clock)
    assert sensor.name == "NVML NVIDIA H100"
    assert sensor.joules() == 0
    fake.energy_mj += 12_345
    assert sensor.joules() == pytest.approx(12.345)
    sensor.close()
    sensor.close()
    assert fake.started == 0


def test_without_a_counter_power_is_integrated(monkeypatch: pytest.MonkeyPatch, clock: FakeClock) -> None:
    fake = _install(monkeypatch, FakeNvml(energy_mj=None, power_mw=100_000))
    sensor = opened(clock)
    clock.now_s += 1
    fake.power_mw = 200_000
    assert sensor.joules() == pytest.approx(150)


@pytest.mark.parametrize("energy_mj", [None, 10])
def test_a_driver_that_answers_no_more_is_a_loss(
    monkeypatch: pytest.MonkeyPatch, clock: FakeClock, energy_mj: int | None
) -> None:
    fake = _install(monkeypatch, FakeNvml(energy_mj=energy_mj))
    sensor = opened(clock)
    fake.energy_mj = None if energy_mj is None else 3
    fake.power_mw = None
    with pytest.raises(SensorLost, match="Not Supported" if energy_mj is None else "reset"):
        sensor.joules()


def test_no_package_no_driver_no_sensor(monkeypatch: pytest.MonkeyPatch, clock: FakeClock) -> None:
    _install(monkeypatch, None)  # importing it raises ImportError
    assert Nvml.find(Path("/"), clock) is None
    fake = _install(monkeypatch, FakeNvml())
    fake.driver = False
    assert Nvml.find(Path("/"), clock) is None
    fake = _install(monkeypatch, FakeNvml(energy_mj=None, power_mw=None))
    assert Nvml.find(Path("/"), clock) is None
    assert fake.started == 0
    fake = _install(monkeypatch, FakeNvml(), visible="7")
    assert Nvml.find(Path("/"), clock) is None
    assert fake.started == 0


@pytest.mark.parametrize(
    ("visible", "asked"),
    [(None, 0), ("", 0), ("1,0", 1), (" 1", 1), ("GPU-3f2a,GPU-77", "GPU-3f2a"), ("-1", 0)],
)
def test_the_first_visible_gpu_is_read(
    monkeypatch: pytest.MonkeyPatch, clock: FakeClock, visible: str | None, asked: int | str
) -> None:
    fake = _install(monkeypatch, FakeNvml(), visible)
    assert Nvml.find(Path("/"), clock) is not None
    assert fake.asked == asked
