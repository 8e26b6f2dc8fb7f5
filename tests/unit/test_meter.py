from __future__ import annotations

import time

import pytest
from fakes import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from edgetune.utils.meter import PHASES, Meter, process_age_s

Moves = st.lists(st.tuples(st.sampled_from(["in", "out", "wait"]), st.sampled_from(PHASES), st.floats(0, 10)))


def test_inner_phases_take_time_from_outer_ones() -> None:
    clock = FakeClock()
    meter = Meter(clock=clock)
    clock.now_s += 1
    with meter.phase("evaluate"):
        clock.now_s += 2
        with meter.phase("score"):
            clock.now_s += 4
        clock.now_s += 8
    clock.now_s += 16
    split = meter.split_s()
    assert (split["load"], split["evaluate"], split["score"]) == (17, 10, 4)
    assert meter.elapsed_s() == 31


@given(Moves, st.floats(0, 100))
def test_phases_always_add_up(moves: list[tuple[str, str, float]], already_s: float) -> None:
    clock = FakeClock()
    meter = Meter(already_s, clock)
    open_phases = []
    for move, name, seconds in moves:
        if move == "in":
            open_phases.append(meter.phase(name))
            open_phases[-1].__enter__()
        elif move == "out" and open_phases:
            open_phases.pop().__exit__(None, None, None)
        else:
            clock.now_s += seconds
        assert sum(meter.split_s().values()) == pytest.approx(meter.elapsed_s(), abs=1e-6)
    assert min(meter.split_s().values()) >= 0


def test_an_error_ends_its_phase() -> None:
    clock = FakeClock()
    meter = Meter(clock=clock)

    def fail() -> None:
        with meter.phase("train"):
            clock.now_s += 1
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    clock.now_s += 5
    assert (meter.split_s()["train"], meter.split_s()["load"]) == (1, 5)


def test_time_before_the_start_counts_as_load() -> None:
    meter = Meter(3.5, FakeClock())
    assert meter.elapsed_s() == meter.split_s()["load"] == 3.5


class _Process:
    """Started so many seconds ago."""

    def __init__(self, age_s: float) -> None:
        self._age_s = age_s

    def create_time(self) -> float:
        return time.time() - self._age_s


@pytest.mark.parametrize(("age_s", "expected_s"), [(3.0, 3.0), (400.0, 1.25)])
def test_age_of_a_process_that_was_a_shell_before_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, age_s: float, expected_s: float
) -> None:
    import psutil

    monkeypatch.setattr(psutil, "Process", lambda: _Process(age_s))
    imported_at_s = time.perf_counter() - 1.0  # a second ago; 0.25 s of CPU had been used by then
    assert process_age_s(imported_at_s, 0.25) == pytest.approx(expected_s, abs=0.2)
