"""The loop under a simulated clock: throttling, stalls, a wrong profile, sleep, little energy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetune.config.settings import TrainSettings
from edgetune.data.batches import Batch
from edgetune.learners.loop import Loop
from edgetune.learners.progress import Progress
from edgetune.planning.clock import RECENT, Clock, ClockProgress, SpeedRatio, margin_s
from edgetune.selection import DataShape, SelectionSettings, make_selector
from edgetune.utils.meter import Meter
from tests.fakes import FakeBackend, FakeClock, FakeCost, FakeHistory, FakeSource

COST = FakeCost(token_s=2e-4, call_s=0.01)
RESERVED = {"save": 1.0, "evaluate": 2.0, "report": 0.5, "exit": 0.2}
Slowness = Callable[[float], float]


def cost(operation: str, n_rows: int, width: int) -> float:
    return COST.seconds(operation, n_rows, width, 0)


@dataclass
class SlowBackend(FakeBackend):
    """Takes the predicted time, times how slow the machine is at that moment."""

    clock: FakeClock = field(default_factory=FakeClock)
    slowness: Slowness = lambda elapsed_s: 1.0
    start_s: float = 100.0

    def _pass(self, operation: str, batch: Batch) -> None:
        width = -(-int(batch.lengths.max()) // 8) * 8
        seconds = cost(operation, len(batch), width)
        self.clock.now_s += seconds * self.slowness(self.clock.now_s - self.start_s)

    def score(self, batch: Batch, keep: bool = True) -> np.ndarray:
        self._pass("score", batch)
        return super().score(batch)

    def train_step(self, batch: Batch, lr: float, weights: np.ndarray | None = None) -> np.ndarray:
        self._pass("train", batch)
        return super().train_step(batch, lr)


@dataclass
class Simulated:
    """What a simulated run left."""

    clock: Clock
    history: FakeHistory
    loop: Loop
    end_s: float


def simulate(
    deadline_s: float,
    slowness: Slowness = lambda elapsed_s: 1.0,
    *,
    n_rows: int = 20_000,
    filtered: bool = False,
    energy_j: float | None = None,
    watts: float = 10.0,
    epochs: int = 10,
) -> Simulated:
    """Run the loop until its clock ends it."""
    now = FakeClock()
    meter = Meter(clock=now)
    now.now_s += 2.0  # what came before training
    backend = SlowBackend(np.full(n_rows, 0.5), clock=now, slowness=slowness)
    clock = Clock(deadline_s, RESERVED, meter.elapsed_s, energy_j, lambda: watts * meter.elapsed_s())
    history, source = FakeHistory(), FakeSource(n_rows)
    train = TrainSettings(lr=1e-4, epochs=epochs)
    chosen = SelectionSettings(method="fixed-threshold" if filtered else "train-all", threshold=0.4)
    loop = Loop(
        backend=backend,
        selector=make_selector(chosen, DataShape(n_rows, 2, 50), np.random.default_rng(0)),
        source=source,
        settings=train,
        meter=meter,
        history=history,
        rng=np.random.default_rng(0),
        run_progress=ClockProgress(clock, cost, Progress(n_rows, train)),
    )
    clock.begin()
    for epoch in range(1, epochs + 1):
        loop.run_epoch(epoch)
        if loop.finished:
            break
    return Simulated(clock, history, loop, meter.elapsed_s())


def reserved_s(run: Simulated) -> float:
    """What the end still needs, as planned."""
    return sum(RESERVED.values()) + margin_s(run.clock.deadline_s)


@pytest.mark.parametrize("filtered", [False, True])
def test_training_ends_on_time_and_uses_it(filtered: bool) -> None:
    run = simulate(60.0, filtered=filtered)
    assert run.end_s + reserved_s(run) <= 60.0
    assert run.end_s + reserved_s(run) >= 0.97 * 60.0
    assert run.loop.finished
    assert not run.loop.stopped


def test_the_rate_falls_to_zero_by_the_share_of_time() -> None:
    run = simulate(60.0)
    rates = [line["lr"] for line in run.history.of("step")]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(1e-4, rel=0.02)
    assert rates[-1] < 0.03 * 1e-4
    times = np.array([line["t_s"] for line in run.history.of("step")])
    half = rates[int(np.searchsorted(times, (2.0 + run.end_s) / 2))]
    assert half == pytest.approx(0.5e-4, rel=0.05)


@pytest.mark.parametrize(
    "slowness",
    [
        lambda elapsed_s: 3.0,  # the profile was of a faster machine
        lambda elapsed_s: 0.3,  # or of a slower one
        lambda elapsed_s: 1.0 if elapsed_s < 25 else 2.2,  # throttled, or a busy neighbour
        lambda elapsed_s: 2.2 if elapsed_s < 25 else 1.0,
        lambda elapsed_s: 1.0 + 0.03 * elapsed_s,  # hotter and hotter
        lambda elapsed_s: 1.3 + 0.7 * math.sin(elapsed_s),
    ],
    ids=["three times slower", "faster", "throttled", "relieved", "hotter", "swaying"],
)
def test_a_machine_that_is_not_as_planned_ends_on_time(slowness: Slowness) -> None:
    run = simulate(60.0, slowness)
    assert run.end_s + reserved_s(run) <= 60.0
    # The end is expected to take as much longer as training did.
    used = run.end_s + max(1.0, run.clock.speed("train").ratio) * 3.7 + margin_s(run.clock.deadline_s)
    assert used >= 0.93 * 60.0


def test_a_stall_costs_its_own_time_and_no_more() -> None:
    def stalled(elapsed_s: float) -> float:
        return 60.0 if 20.0 < elapsed_s < 20.4 else 1.0

    run = simulate(90.0, stalled)
    assert run.end_s + reserved_s(run) <= 90.0
    assert run.end_s + reserved_s(run) >= 0.96 * 90.0
    assert run.clock.speed("train").ratio == pytest.approx(1.0, rel=0.05)


def test_a_machine_that_slept_past_the_deadline_stops_at_once() -> None:
    asleep = False

    def slept(elapsed_s: float) -> float:
        nonlocal asleep
        was, asleep = asleep, asleep or elapsed_s > 20
        return 1.0 if was or not asleep else 1e4

    run = simulate(60.0, slept)
    slow = [line for line in run.history.of("step") if line["train_s"] > 100]
    assert len(slow) == 1
    assert run.history.of("step")[-1] is slow[0]
    assert run.loop.finished


def test_data_that_ends_first_ends_the_run() -> None:
    run = simulate(600.0, n_rows=640, epochs=2)
    assert run.loop.counts.n_trained == 1280
    assert run.end_s < 100


def test_energy_ends_the_run_too() -> None:
    run = simulate(600.0, energy_j=400.0, watts=10.0)
    assert 10.0 * (run.end_s + reserved_s(run)) <= 400.0
    assert 10.0 * (run.end_s + reserved_s(run)) >= 0.9 * 400.0


def test_the_last_step_takes_the_rows_that_fit() -> None:
    run = simulate(31.0)
    sizes = [line["n"] for line in run.history.of("step")]
    assert set(sizes[:-1]) == {32}
    assert sizes[-1] == 16
    assert run.loop.counts.n_left == 16


@settings(max_examples=40, deadline=None)
@given(
    st.floats(12, 200),
    st.lists(st.floats(0.2, 5.0), min_size=1, max_size=6),
    st.floats(1, 40),
)
def test_whatever_the_machine_does_gradually_training_ends_before_its_end(
    deadline_s: float, levels: list[float], every_s: float
) -> None:
    def slowness(elapsed_s: float) -> float:
        return levels[int(elapsed_s / every_s) % len(levels)]

    run = simulate(deadline_s, slowness, n_rows=3000)
    # Operations may be begun at one speed and end at another, 25 times slower at most: then one more.
    longest_s = max((line["train_s"] for line in run.history.of("step")), default=0.0)
    assert run.end_s <= max(2.0, run.clock.evaluation_end_s() - 3.0) + 2 * longest_s


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=40))
def test_speed_stays_within_what_was_seen(ratios: list[float]) -> None:
    speed = SpeedRatio(1.0)
    for ratio in ratios:
        speed.observe(2.0, 2.0 * ratio)
    counted = ratios[1:][-RECENT:] or [1.0]  # the first one pays for what later ones find ready
    assert speed.n == len(ratios) - 1
    assert min(counted) <= speed.ratio * (1 + 1e-9)
    assert speed.ratio <= max(counted) * (1 + 1e-9)
    assert speed.cautious >= speed.ratio * (1 - 1e-9)


@given(st.floats(0, 1e4), st.floats(1, 1e4))
def test_progress_is_a_share(elapsed_s: float, deadline_s: float) -> None:
    clock = Clock(deadline_s, RESERVED, lambda: elapsed_s)
    assert 0 <= clock.progress() <= 1
    assert clock.end_s() < clock.evaluation_end_s() < deadline_s


def test_nonsense_measurements_are_ignored() -> None:
    speed = SpeedRatio(2.0)
    for predicted_s, measured_s in ((0.0, 1.0), (1.0, math.nan), (1.0, 0.0), (1.0, -1.0)):
        speed.observe(predicted_s, measured_s)
    assert (speed.ratio, speed.n) == (2.0, 0)


def test_a_slow_first_call_does_not_end_the_run() -> None:
    """The first forward pass may take a hundred times as long as later ones; a step is tried all the same."""
    clock = Clock(60.0, RESERVED, lambda: 10.0)
    clock.speed("score").observe(0.05, 5.0)
    clock.speed("score").observe(0.05, 0.06)
    assert clock.speed("train").ratio <= 2.0
    run_progress = ClockProgress(clock, cost, Progress(1000, TrainSettings()))
    assert run_progress.rows_that_fit("train", 32, 32) == 32


@pytest.mark.parametrize("at", range(1, 30))
def test_a_pause_is_no_part_of_the_speed_of_a_whole_run(at: int) -> None:
    speed = SpeedRatio()
    seconds = [9.0] + [1.2] * 30  # the first pays for what later ones find ready
    seconds[at] = 3600.0
    for one in seconds:
        speed.observe(1.0, one)
    assert speed.overall == pytest.approx(1.2)
    assert speed.measured_s == pytest.approx(29 * 1.2)
    assert speed.n == 30
