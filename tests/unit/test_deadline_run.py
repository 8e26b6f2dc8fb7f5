"""The end of a run with a deadline: evaluation in the time that is left, revised rows, safety saves."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from edgetune.config.settings import TrainSettings
from edgetune.data.batches import Batch
from edgetune.learners.progress import Progress
from edgetune.planning.clock import Clock
from edgetune.planning.plan import Constraints, DataLengths, FittedNgrams, Limits, Plan
from edgetune.planning.planner import make_plans
from edgetune.runs.deadline import (
    SAVE_EVERY_S,
    Deadline,
    NoDeadline,
    blended_slowdown,
)
from edgetune.runs.scoring import Scored, score_in_time
from edgetune.utils.types import IntArray
from tests.fakes import FakeBackend, FakeClock, FakeCost, FakeSource, fake_costs, fake_device

COST = FakeCost()


def cost(operation: str, n_rows: int, width: int) -> float:
    return COST.seconds(operation, n_rows, width, 0)


class View(FakeSource):
    """Rows of which some can be taken, as of a token view."""

    label_names = ("a", "b")

    def __init__(self, n_rows: int) -> None:
        super().__init__(n_rows)
        self.numbers = self.positions = np.arange(n_rows)

    @property
    def text_hashes(self) -> IntArray:
        return self.numbers

    def subset(self, rows: IntArray) -> View:
        part = View(0)
        part.lengths, part.labels, part.numbers = self.lengths[rows], self.labels[rows], rows
        return part

    def batch(self, rows: IntArray) -> Batch:
        return dataclasses.replace(super().batch(rows), rows=self.numbers[rows])


@dataclass
class Scorer(FakeBackend):
    """Takes the predicted time, times a slowness that begins after some calls."""

    clock: FakeClock = field(default_factory=FakeClock)
    slow: float = 1.0
    kept: list[bool] = field(default_factory=list)

    def _pass(self, batch: Batch) -> None:
        width = -(-int(batch.lengths.max()) // 8) * 8
        self.clock.now_s += cost("score", len(batch), width) * self.slow

    def score(self, batch: Batch, keep: bool = True) -> np.ndarray:
        self._pass(batch)
        self.kept.append(keep)
        return super().score(batch)

    def features(self, batch: Batch) -> np.ndarray:
        self._pass(batch)
        self._record("features", batch)
        return np.stack([2.0 * batch.labels, np.ones(len(batch))], axis=1)


def clock_of(now: FakeClock, deadline_s: float) -> Clock:
    start = now.now_s
    return Clock(
        deadline_s, {"save": 1.0, "evaluate": 2.0, "report": 0.5, "exit": 0.2}, lambda: now.now_s - start
    )


def scored_before_the_end(backend: Scorer, view: View, clock: Clock) -> Scored | None:
    """Score rows in random order until evaluation has to end."""
    order = np.random.default_rng(0).permutation(len(view))
    deadline = Deadline(Plan(""), clock, cost)
    return score_in_time(backend, view, order, deadline, lambda: False, clock.evaluation_end_s)  # type: ignore[arg-type]


def test_all_rows_are_evaluated_when_there_is_time() -> None:
    now, view = FakeClock(), View(700)
    backend = Scorer(np.full(700, 0.5), clock=now)
    found = scored_before_the_end(backend, view, clock_of(now, 1000.0))
    assert found is not None
    assert found.evaluation().n == 700
    assert sorted(found.rows) == list(range(700))
    assert set(backend.kept) == {False}  # evaluation rows must not crowd the cache


@pytest.mark.parametrize("slow", [0.5, 1.0, 3.0])
def test_evaluation_stops_in_time_and_takes_a_random_part(slow: float) -> None:
    now, view = FakeClock(), View(20_000)
    backend = Scorer(np.full(20_000, 0.5), clock=now, slow=slow)
    clock = clock_of(now, 12.0)
    found = scored_before_the_end(backend, view, clock)
    assert found is not None
    assert 64 < len(found.rows) == len(found.logits) < 20_000
    assert clock.elapsed_s() <= clock.evaluation_end_s() + 0.01
    assert clock.elapsed_s() >= 0.7 * clock.evaluation_end_s()
    evaluated = found.evaluation()
    low, high = evaluated.interval
    assert low <= evaluated.accuracy <= high


def test_without_time_nothing_is_evaluated() -> None:
    now = FakeClock()
    clock = clock_of(now, 5.0)
    now.now_s += 4.9
    backend = Scorer(np.full(100, 0.5), clock=now)
    assert scored_before_the_end(backend, View(100), clock) is None
    assert backend.calls == []


def some_plan(deadline_s: float = 60.0) -> Plan:
    rng = np.random.default_rng(0)
    data = DataLengths(rng.integers(3, 30, 20_000), rng.integers(3, 30, 500), 128)
    return make_plans(fake_device(fake_costs()), data, Limits(deadline_s), Constraints(batch_size=32)).best


def test_the_first_steps_correct_the_rows_once() -> None:
    now, plan = FakeClock(), some_plan()
    clock = Clock(60.0, plan.lines, lambda: now.now_s - 100.0)
    clock.begin()
    deadline = Deadline(plan, clock, cost, save_model_s=1.0)
    assert not deadline.revise(64)
    for _ in range(10):
        clock.speed("train").observe(1.0, 2.0)
    assert not deadline.revise(64)  # a twentieth of the time has to have passed
    now.now_s += 10.0
    left_s = clock.left_s()
    assert deadline.revise(288)
    assert deadline.revised is not None
    row_s = plan.lines["train"] / plan.n_rows * blended_slowdown(2.0, plan)
    assert deadline.revised["n_rows"] == pytest.approx(288 + left_s / row_s, abs=1)
    assert not deadline.revise(5000)


@pytest.mark.parametrize(
    ("first_steps", "interval", "expected"),
    [
        (1.1, (800, 1250), 1.1 ** (1 / (1 + 0.2**2 / math.log(1.25) ** 2))),  # an unsure plan
        (1.1, (990, 1010), 1.1 ** (1 / (1 + 0.2**2 / math.log(1.1) ** 2))),  # as far off as two sigmas
        (2.0, (990, 1010), 2.0 ** (1 / (1 + 0.2**2 / math.log(2.0) ** 2))),  # a busy neighbour: believed
        (0.5, (1000, 1000), 0.5 ** (1 / (1 + 0.2**2 / math.log(2.0) ** 2))),
        (1.0, (1000, 1000), 1.0),
    ],
)
def test_first_steps_are_weighed_against_the_plan(
    first_steps: float, interval: tuple[int, int], expected: float
) -> None:
    plan = replace(some_plan(), n_rows=1000, rows_interval=interval)
    assert blended_slowdown(first_steps, plan) == pytest.approx(expected)
    assert min(1.0, first_steps) <= blended_slowdown(first_steps, plan) <= max(1.0, first_steps)


def test_safety_saves_are_rare_and_not_at_the_end() -> None:
    now, plan = FakeClock(), some_plan(600.0)
    clock = Clock(600.0, plan.lines, lambda: now.now_s - 100.0)
    deadline = Deadline(plan, clock, cost, save_model_s=0.5)
    deadline.saved()
    now.now_s += SAVE_EVERY_S - 1
    assert not deadline.save_is_due()
    now.now_s += 2
    assert deadline.save_is_due()
    deadline.saved()
    assert not deadline.save_is_due()
    now.now_s = 100.0 + clock.end_s() - 10
    assert not deadline.save_is_due()
    dear = Deadline(plan, clock, cost, save_model_s=30.0)
    now.now_s = 100.0 + 2 * SAVE_EVERY_S
    assert not dear.save_is_due()


@pytest.mark.parametrize("import_s", [1.0, 20.0])
def test_there_is_time_to_score_what_was_trained(import_s: float) -> None:
    """Also where the runtime takes long to import, as PyTorch does: it is imported once."""
    rng = np.random.default_rng(0)
    data = DataLengths(rng.integers(3, 30, 20_000), rng.integers(3, 30, 500), 128, n_held_out=1000)
    device = fake_device(fake_costs("torch-fp32", import_s=import_s, open_s=3.0, open_depth_s=3.0))
    plan = next(plan for plan in make_plans(device, data, Limits(120.0), Constraints()).ranked if plan.trains)
    now = FakeClock()
    clock = Clock(120.0, plan.lines, lambda: now.now_s - 100.0)
    deadline = Deadline(plan, clock, cost, save_model_s=1.0, reopen_s=3.0)
    now.now_s = 100.0 + clock.end_s()  # training has just ended
    left_s = deadline.choice_end_s(opens_again=True)() - clock.elapsed_s()
    assert left_s > 0
    assert clock.elapsed_s() + left_s + 3.0 + clock.save_s() <= clock.ensemble_end_s() + 1e-6
    now.now_s += 0.9 * (clock.ensemble_end_s() - clock.save_s() - clock.elapsed_s())  # too late for both
    assert deadline.choice_end_s(opens_again=True)() > clock.elapsed_s()


def test_the_second_fit_of_ngrams_gets_what_the_first_took_unless_that_is_too_much() -> None:
    rng = np.random.default_rng(0)
    data = DataLengths(rng.integers(3, 60, 20_000), rng.integers(3, 60, 500), 128, n_held_out=1000)
    plan = make_plans(fake_device(), data, Limits(60.0), Constraints()).best
    clock = Clock(60.0, plan.lines, lambda: 5.0)
    deadline, end_s = Deadline(plan, clock, cost, save_model_s=1.0), clock.end_s()
    assert plan.refit_s > 1
    for more_s in (5, -1):
        deadline.expect_refit(FittedNgrams(1.0, plan.refit_s + more_s))
        assert clock.end_s() == pytest.approx(end_s - more_s)
        assert clock.ensemble_end_s() - clock.end_s() >= plan.refit_s + more_s
    deadline.expect_refit(FittedNgrams(1.0, 40.0))
    assert clock.end_s() == pytest.approx(end_s + plan.refit_s)


def test_lines_tell_planned_and_real() -> None:
    now, plan = FakeClock(), some_plan()
    deadline = Deadline(
        plan, Clock(60.0, plan.lines, lambda: now.now_s - 100.0), cost, 1.0, marks=[("start", 0.5)]
    )
    now.now_s += 2.0
    deadline.mark("export")
    lines = {line["line"]: line for line in deadline.lines()}
    assert lines["start"]["real_s"] == 0.5
    assert lines["export"]["real_s"] == pytest.approx(1.5)
    assert lines["train"]["real_s"] is None
    assert lines["train"]["planned_s"] == plan.lines["train"]


def test_without_a_deadline_there_is_time_for_everything() -> None:
    deadline, data = NoDeadline(), Progress(100, TrainSettings())
    for line in ("ngrams", "train", "save"):
        deadline.mark(line)
    deadline.saved(10.0)
    assert deadline.trains
    assert deadline.progress(data) is data
    assert deadline.clock.left_s() == deadline.ngrams_limit_s(pair=True) == math.inf
    assert deadline.clock.picture_fits()
    assert deadline.lines() == []
    assert deadline.state() is None
