"""When the parts of a run have to end: by the clock (`Deadline`), or with the data.

Without a deadline, a run only trains (`NoDeadline`) or, if rows are few, takes the same steps as one with
a deadline (`PlanWithoutDeadline`).

    … open │ n-grams, linear probe: first usable models │ training, saved now and then │
    save │ ensemble │ evaluate │ report │

Under a deadline the model is saved before it is evaluated: evaluation is the only part that can be shortened,
so it comes last and takes the time that is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar

from edgetune.learners.filter_guard import GuardedSelector
from edgetune.learners.progress import Progress
from edgetune.planning.clock import Clock, ClockProgress
from edgetune.planning.plan import LINEAR_PROBE, NGRAMS_ALONE, FittedNgrams, Plan
from edgetune.planning.planner import ngrams_rate
from edgetune.selection import FILTERS, SelectionSettings, Selector
from edgetune.utils.types import StepCost

SAVE_EVERY_S = 60.0
REVISE_STEPS, REVISE_RATE = 9, 0.05
FIRST_STEPS_SPREAD = 0.1  # standard deviation of the log ratio of the first steps' speed to a whole run's
SAVE_RATE = 0.02
LEFT_RATE, PROBE_LEFT_RATE = 0.4, 0.6
"""Share of the time left that the first fit of the n-grams may take even if less was planned: if the encoder
is trained, and if only a linear probe follows. N-grams fitted on all rows are worth more than the rows that a
probe would read in that time (Ohsumed-23 in 20 s, docs/log.md, twenty-second session)."""
FEW_PAIR_STEPS, IDLE_RATE = 150, 0.8
"""If the encoder would make fewer steps than this on pairs of texts, the first fit of the n-grams may take
this share of the time left."""


@dataclass
class Deadline:
    """A run's plan and its clock.

    Attributes:
        cost: predicted seconds of an operation on a batch.
        save_model_s: what a safety save costs, as planned, or the longest so far.
        n_most: largest number of examples in the allowed passes and steps.
        score_rate: share of the cost of a score that training does not save, see `Plans.own_score_rate`.
        reopen_s: what opening the model once more costs, as planned.
        marks: (line, elapsed seconds at its end) in order.
        revised: `n_rows` by the speed of the first `n_steps`, at `elapsed_s`; None before.
    """

    plan: Plan
    clock: Clock
    cost: StepCost = lambda operation, n_rows, width: 0.0
    save_model_s: float = 0.0
    n_most: float = math.inf
    score_rate: float = 1.0
    reopen_s: float = 0.0
    marks: list[tuple[str, float]] = field(default_factory=list)
    revised: dict[str, float] | None = None
    _saved_s: float = 0.0
    has_plan: ClassVar[bool] = True

    @property
    def trains(self) -> bool:
        """Whether the encoder is trained; otherwise only a linear probe is fitted."""
        return self.plan.trains

    def ngrams_limit_s(self, pair: bool) -> float:
        """Return how many seconds the first fit of the n-grams may take, on pairs of texts or on texts.

        A fit that needs less ends by itself. What is planned does not know the number of classes.
        """
        planned_s, left_s = self.plan.lines.get("ngrams", 0.0), self.clock.left_s()
        if self.plan.method == NGRAMS_ALONE:
            return max(planned_s, left_s)
        rate = ngrams_rate(pair, self.trains)
        idle = pair and self.trains and self.plan.n_steps < FEW_PAIR_STEPS
        usual_rate = LEFT_RATE if self.trains or pair else PROBE_LEFT_RATE
        left_rate = IDLE_RATE if idle else max(usual_rate, rate)
        return min(rate * self.clock.limit_s(), max(planned_s, left_rate * left_s))

    def expect_refit(self, ngrams: FittedNgrams) -> None:
        """Reserve for a second fit of the n-grams what the first one says, in place of what was planned."""
        if not self.plan.refit_s:
            return
        planned_s = self.clock.lines["ensemble"]
        without_s = self.plan.lines["ensemble"] - self.plan.refit_s
        again_s = ngrams.again_within_s(self.clock.left_s() + planned_s - without_s)
        self.clock.lines = {**self.clock.lines, "ensemble": without_s + again_s}

    def choice_end_s(self, opens_again: bool) -> Callable[[], float]:
        """Return a function that gives the time by which scoring the held-out rows must end, in seconds.

        Scoring gets at least half of the time that is left before the save, because an encoder that is
        not scored cannot be compared with the linear probe, and is lost.

        Args:
            opens_again: whether the model may have to be opened again afterwards, to keep the probe.
        """
        clock, reopen_s = self.clock, self.reopen_s if opens_again else 0.0
        least_s = (clock.elapsed_s() + clock.ensemble_end_s() - clock.save_s()) / 2
        return lambda: max(least_s, clock.ensemble_end_s() - clock.save_s() - reopen_s)

    def progress(self, data: Progress) -> Progress:
        """Return what ends the training loop by the clock, or with `data` at the latest."""
        return ClockProgress(self.clock, self.cost, data)

    def guarded(self, selector: Selector, settings: SelectionSettings) -> Selector:
        """Return the selector; a filter is watched, so that it is switched off when it loses time."""
        if settings.watched and settings.method in FILTERS:
            return GuardedSelector(selector, self.score_rate)
        return selector

    def mark(self, line: str) -> None:
        """Note that a line of the plan has just ended."""
        self.marks.append((line, self.clock.elapsed_s()))

    def revise(self, n_trained: int) -> int | None:
        """Correct the expected number of rows by the first steps' speed, once; return it then, else None.

        These steps are few, of few lengths and from one moment, so their speed is averaged with the plan's.
        """
        speed = self.clock.speed("train")
        too_early = speed.n < REVISE_STEPS or self.clock.progress() < REVISE_RATE
        if self.revised is not None or too_early or not self.plan.n_rows:
            return None
        row_s = self.plan.lines["train"] / self.plan.n_rows * blended_slowdown(speed.overall, self.plan)
        n_rows = round(min(n_trained + max(0.0, self.clock.left_s()) / row_s, self.n_most))
        self.revised = {"n_rows": n_rows, "n_steps": speed.n, "elapsed_s": self.clock.elapsed_s()}
        return n_rows

    def steps_that_fit(self) -> float:
        """Return how many train steps fit into the time left, at the speed measured so far."""
        if not self.plan.n_rows:
            return 0.0
        row_s = self.plan.lines["train"] / self.plan.n_rows * self.clock.speed("train").ratio
        return self.clock.left_s() / max(row_s * self.plan.batch_size, 1e-9)

    def give_to_probe(self, n_rows: int) -> None:
        """Replace training by the linear probe on `n_rows` rows."""
        self.plan = replace(self.plan, method=LINEAR_PROBE, n_steps=0, n_rows=n_rows, n_probe_rows=n_rows)

    def saved(self, took_s: float = 0.0) -> None:
        """Note that a usable model has just been written, in `took_s` seconds."""
        self._saved_s = self.clock.elapsed_s()
        self.save_model_s = max(self.save_model_s, took_s)
        self.clock.measured_save_s = max(self.clock.measured_save_s, took_s)

    def save_is_due(self) -> bool:
        """Whether the model on disk is old, and saving a new one takes little of the time."""
        every_s = max(SAVE_EVERY_S, self.save_model_s / SAVE_RATE)
        since_s = self.clock.elapsed_s() - self._saved_s
        return since_s > every_s and self.clock.left_s() > every_s / 2

    def state(self) -> dict[str, Any] | None:
        """Return the plan and its progress so far; None if there is no deadline."""
        return {
            "plan": self.plan.to_dict(),
            "marks": [list(mark) for mark in self.marks],
            "revised": self.revised,
            "train_started_s": self.clock.train_started_s,
            "measured_save_s": self.clock.measured_save_s,
        }

    def load_state(self, state: Any) -> None:
        """Continue where `state()` was taken, in another process; speeds are measured again."""
        self.marks = [(str(line), float(end_s)) for line, end_s in state["marks"]]
        self.revised = state["revised"]
        self.clock.train_started_s = float(state["train_started_s"])
        self.clock.measured_save_s = float(state["measured_save_s"])
        self._saved_s = self.clock.elapsed_s()

    def lines(self) -> list[dict[str, Any]]:
        """Return planned and real seconds by line; a line that was not reached has no real ones."""
        real: dict[str, float] = {}
        for (_, begin_s), (name, end_s) in pairwise([("", 0.0), *self.marks]):
            real[name] = real.get(name, 0.0) + end_s - begin_s
        return [
            {"line": name, "planned_s": seconds, "real_s": real.get(name)}
            for name, seconds in self.plan.lines.items()
        ]


class PlanWithoutDeadline(Deadline):
    """A plan for few rows that is followed without a deadline; no decision depends on measured time."""

    def progress(self, data: Progress) -> Progress:
        return data

    def guarded(self, selector: Selector, settings: SelectionSettings) -> Selector:
        return selector


class NoDeadline(PlanWithoutDeadline):
    """Stands for the deadline of a run that has none: a clock that never runs out, and an empty plan."""

    has_plan = False

    def __init__(self) -> None:
        clock = Clock(math.inf, dict.fromkeys(("save", "evaluate", "report", "exit"), 0.0), lambda: 0.0)
        super().__init__(Plan(""), clock)

    def state(self) -> None:
        return None

    def load_state(self, state: Any) -> None:
        pass


def blended_slowdown(first_steps: float, plan: Plan) -> float:
    """Return how many times as long as planned the rest will take, by a weighted mean of logarithms.

    The plan and the first steps, which took `first_steps` times as long, are weighted by their variances; the
    plan's follows from its 95 % interval of rows. First steps that are far off the plan make it less certain.
    """
    low, high = (max(1, rows) for rows in plan.rows_interval)
    found = math.log(first_steps)
    spread = max(math.log(plan.n_rows / low), math.log(high / plan.n_rows), abs(found)) / 2
    return math.exp(found * spread**2 / (spread**2 + FIRST_STEPS_SPREAD**2))
