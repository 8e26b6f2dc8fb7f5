"""A sensor that is lost goes on as an estimate and says so; figures never go back."""

from __future__ import annotations

from pathlib import Path

import pytest
from energy_trees import write
from fakes import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from edgetune.energy.estimate import ConstantPower
from edgetune.energy.sensor import (
    EnergyReading,
    FallbackSensor,
    PowerIntegral,
    SensorLost,
    SensorSum,
    read_energy,
    read_int,
    read_text,
)


class Scripted:
    """A counter that says what it was told to; an exception is raised."""

    name = "scripted"

    def __init__(self, *figures: float | str | None) -> None:
        self.figures = list(figures)
        self.closed = 0

    def joules(self) -> float | None:
        figure = self.figures.pop(0)
        if isinstance(figure, str):
            raise SensorLost(figure)
        return figure

    def close(self) -> None:
        self.closed += 1


def _guarded(clock: FakeClock, *figures: float | str | None) -> tuple[FallbackSensor, Scripted]:
    counter = Scripted(*figures)
    return FallbackSensor(counter, ConstantPower(5, "estimated: 5 W", clock), clock), counter


def test_a_counter_is_passed_on_as_measured() -> None:
    clock = FakeClock()
    sensor, _ = _guarded(clock, 3.0, 7.0)
    clock.now_s += 1
    assert (sensor.joules(), sensor.joules()) == (3.0, 7.0)
    assert (sensor.measured, sensor.source) == (True, "scripted")


@pytest.mark.parametrize(
    ("figures", "steps_s", "joules", "source"),
    [
        # Lost early, the estimate covers what the counter did not see.
        ((30.0, "gone"), (3, 2), 40, "scripted for 3 s, then estimated: 5 W (gone)"),
        # Lost late, its own mean power goes on.
        (
            (400.0, "gone"),
            (20, 10),
            600,
            "scripted for 20 s, then estimated: 20 W, its mean power until then (gone)",
        ),
        (("stands still",), (2,), 10, "estimated: 5 W (scripted: stands still)"),
        ((None,), (2,), 10, "estimated: 5 W (scripted has not reported a value yet)"),
    ],
)
def test_what_is_lost_is_estimated_and_says_so(
    figures: tuple[float | str | None, ...], steps_s: tuple[float, ...], joules: float, source: str
) -> None:
    clock = FakeClock()
    sensor, counter = _guarded(clock, *figures)
    for step_s in steps_s:
        clock.now_s += step_s
        found = sensor.joules()
    assert (found, sensor.measured, sensor.source) == (pytest.approx(joules), False, source)
    assert counter.closed == (figures[-1] is not None)


def test_a_figure_that_comes_late_takes_nothing_back() -> None:
    clock = FakeClock()
    sensor, _ = _guarded(clock, None, 4.0, 50.0)
    clock.now_s += 2
    assert [sensor.joules() for _ in range(3)] == [pytest.approx(10), pytest.approx(10), 50]
    assert sensor.measured


def test_closed_it_keeps_its_last_figure() -> None:
    clock = FakeClock()
    sensor, counter = _guarded(clock, 3.0)
    sensor.joules()
    sensor.close()
    clock.now_s += 100
    assert sensor.joules() == 3
    assert (counter.closed, sensor.measured) == (1, True)


_FIGURES = st.lists(st.one_of(st.floats(0, 1e6), st.none(), st.just("gone")), min_size=1, max_size=30)


@given(figures=_FIGURES, steps=st.lists(st.floats(0.001, 100), min_size=30, max_size=30))
def test_it_never_goes_back_and_never_fails(figures: list[float | str | None], steps: list[float]) -> None:
    clock = FakeClock()
    sensor, _ = _guarded(clock, *figures)
    seen = [0.0]
    for step_s, _ in zip(steps, figures, strict=False):
        clock.now_s += step_s
        seen.append(sensor.joules())
    assert seen == sorted(seen)
    lost_at = next((i for i, figure in enumerate(figures) if figure == "gone"), None)
    if lost_at is not None:
        assert not sensor.measured
        assert "estimated" in sensor.source
        assert seen[-1] > 0


def test_a_total_is_measured_only_where_every_part_is() -> None:
    clock = FakeClock()
    sensor, counter = _guarded(clock, 3.0, 3.0, 3.0)
    both = SensorSum([sensor, ConstantPower(10, "estimated: 10 W", clock)])
    clock.now_s += 1
    assert both.joules() == pytest.approx(13)
    assert both.source == "scripted + estimated: 10 W"
    assert not both.measured
    assert SensorSum([sensor]).measured
    resumed = SensorSum([sensor], 40.0, measured_before=False)
    assert (resumed.joules(), resumed.measured) == (pytest.approx(43), False)
    both.close()
    assert counter.closed == 1


def test_power_is_integrated_by_the_trapezoid_rule() -> None:
    power = PowerIntegral()
    assert power.add(10, 100) == 0
    assert power.add(12, 200) == 300
    assert power.add(12, 300) == 300
    assert power.add(13, 300) == 600


def test_files_are_read_or_unknown(tmp_path: Path) -> None:
    write(tmp_path, good=" 12 ", negative=-3, words="12 W", empty="")
    (tmp_path / "folder").mkdir()
    names = ("good", "negative", "words", "empty", "folder", "absent")
    assert [read_int(tmp_path / name) for name in names] == [12, -3, None, None, None, None]
    assert (read_text(tmp_path / "words"), read_text(tmp_path / "absent")) == ("12 W", None)


def test_a_reading_says_how_it_was_estimated() -> None:
    assert EnergyReading(1, 1, "estimated: 5 W", False).how == "estimated: 5 W"
    assert EnergyReading(7.2e6, 3600, "RAPL package-0", True).how == "measured (RAPL package-0)"
    partly = EnergyReading(1, 1, "NVML H100 + estimated: 5 W", False)
    assert partly.how == "estimated in part (NVML H100 + estimated: 5 W)"


def test_a_sensor_lost_at_the_last_reading_is_not_called_measured() -> None:
    clock = FakeClock()
    sensor, _ = _guarded(clock, "gone")
    clock.now_s += 1
    reading = read_energy(sensor, 1.0)
    assert (reading.measured, reading.joules) == (False, pytest.approx(5))
    assert reading.source.startswith("estimated")
