"""What a deadline adds to a run: the clock, the first model, safety saves, and an end that is on time.

    … open │ n-grams, linear probe: first usable models │ training, saved now and then │
    save │ ensemble │ evaluate │ report │

The model is saved before it is evaluated: evaluation is the one thing that can be shortened, so it
comes last and takes what time is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from edgetune.backends.backend_contract import Backend
from edgetune.data.batches import Batch, TokenSource, sequential_batches
from edgetune.data.token_store import TokenView
from edgetune.planning.candidate import EVALUATION_BATCH, EVALUATION_BATCHES, PROBE_BATCHES, scored_s
from edgetune.planning.clock import Clock
from edgetune.planning.plan import LINEAR_PROBE, Plan
from edgetune.utils.metrics import Evaluation
from edgetune.utils.multi_label import is_multi_hot, log_sigmoid
from edgetune.utils.multi_label_metrics import evaluate_answers
from edgetune.utils.types import FloatArray, IntArray, StepCost

SAVE_EVERY_S = 60.0
REVISE_STEPS, REVISE_RATE = 9, 0.05
FIRST_STEPS_SPREAD = 0.1  # how far (one sigma, of its logarithm) the first steps' speed is from a whole run's
SAVE_RATE = 0.02
FEWEST_ROWS = 8
GROUP_RATE = 0.5
"""Share of the time left that one group of rows may take: the rest absorbs a stall of the machine."""


@dataclass
class Deadline:
    """A run's plan and its clock.

    Attributes:
        cost: predicted seconds of an operation on a batch.
        save_model_s: what a safety save costs, as planned, or the longest so far.
        n_most: examples that all allowed passes and steps hold.
        score_rate: share of a score that training does not save again, see `Plans.own_score_rate`.
        marks: (line, elapsed seconds at its end) in order.
        revised: `n_rows` by the speed of the first `n_steps`, at `elapsed_s`; None before.
    """

    plan: Plan
    clock: Clock
    cost: StepCost
    save_model_s: float
    n_most: float = math.inf
    score_rate: float = 1.0
    marks: list[tuple[str, float]] = field(default_factory=list)
    revised: dict[str, float] | None = None
    _saved_s: float = 0.0

    def mark(self, line: str) -> None:
        """A line of the plan has just ended."""
        self.marks.append((line, self.clock.elapsed_s()))

    def revise(self, n_trained: int) -> int | None:
        """Correct the number of rows by the first steps' speed, once; return it then, else None.

        They are few, of few lengths and of one moment, so their speed is weighed against the planned one.
        """
        speed = self.clock.speed("train")
        too_early = speed.n < REVISE_STEPS or self.clock.progress() < REVISE_RATE
        if self.revised is not None or too_early or not self.plan.n_rows:
            return None
        row_s = self.plan.lines["train"] / self.plan.n_rows * blended_slowdown(speed.overall, self.plan)
        n_rows = round(min(n_trained + max(0.0, self.clock.left_s()) / row_s, self.n_most))
        self.revised = {"n_rows": n_rows, "n_steps": speed.n, "elapsed_s": self.clock.elapsed_s()}
        return n_rows

    @property
    def trains(self) -> bool:
        """Whether the encoder is trained; else the linear probe is all there is of it."""
        return self.plan.trains

    def steps_that_fit(self) -> float:
        """Return how many train steps the time left is good for, at the speed measured so far."""
        if not self.plan.n_rows:
            return 0.0
        row_s = self.plan.lines["train"] / self.plan.n_rows * self.clock.speed("train").ratio
        return self.clock.left_s() / max(row_s * self.plan.batch_size, 1e-9)

    def give_to_probe(self, n_rows: int) -> None:
        """The linear probe on so many rows takes the place of training."""
        self.plan = replace(self.plan, method=LINEAR_PROBE, n_steps=0, n_rows=n_rows, n_probe_rows=n_rows)

    def saved(self, took_s: float = 0.0) -> None:
        """A usable model has just been written."""
        self._saved_s = self.clock.elapsed_s()
        self.save_model_s = max(self.save_model_s, took_s)
        self.clock.measured_save_s = max(self.clock.measured_save_s, took_s)

    def save_is_due(self) -> bool:
        """Whether the model on disk is old, and a new one costs little of the time."""
        every_s = max(SAVE_EVERY_S, self.save_model_s / SAVE_RATE)
        since_s = self.clock.elapsed_s() - self._saved_s
        return since_s > every_s and self.clock.left_s() > every_s / 2

    def state(self) -> dict[str, Any]:
        """Return the plan, and what has come of it so far."""
        return {
            "plan": self.plan.to_dict(),
            "marks": [list(mark) for mark in self.marks],
            "revised": self.revised,
            "train_started_s": self.clock.train_started_s,
            "measured_save_s": self.clock.measured_save_s,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state()` was taken, in another process: its speeds are measured anew."""
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


def blended_slowdown(first_steps: float, plan: Plan) -> float:
    """Return how many times as long as planned the rest will take, in the mean of logarithms.

    The plan and the first steps, which took `first_steps` times as long, count by their variances; the plan's
    is in its 95 % interval of rows. What is far off the plan makes that less sure.
    """
    low, high = (max(1, rows) for rows in plan.rows_interval)
    found = math.log(first_steps)
    spread = max(math.log(plan.n_rows / low), math.log(high / plan.n_rows), abs(found)) / 2
    return math.exp(found * spread**2 / (spread**2 + FIRST_STEPS_SPREAD**2))


@dataclass(frozen=True)
class Scored:
    """What the encoder says of some rows of a view: positions (n,) and logits (n, C)."""

    view: TokenView
    rows: IntArray
    logits: FloatArray

    def evaluation(self) -> Evaluation:
        """Return every figure of these rows; there must be one at least."""
        labels = self.view.labels[self.rows]
        answers = log_sigmoid(self.logits) if is_multi_hot(labels) else self.logits
        return evaluate_answers(answers, labels, self.view.label_names)


def score_in_time(
    backend: Backend,
    view: TokenView,
    clock: Clock,
    cost: StepCost,
    rng: np.random.Generator,
    stop: Callable[[], bool] = lambda: False,
    end_s: Callable[[], float] | None = None,
) -> Scored | None:
    """Score rows in random order until all are done, the time is up or `stop` says so.

    Rows go in groups, so that each group's batches are of nearly one length; a group is only begun when it
    should end in time.

    Args:
        backend: scores.
        view: rows to score.
        clock: learns how long scoring takes.
        cost: predicted seconds of a batch.
        rng: decides the order.
        stop: ends it with the rows scored so far.
        end_s: returns when it must have ended; by default when evaluation must.

    Returns:
        What was scored; None when there was no time for any row.
    """
    run, order = partial(backend.score, keep=False), rng.permutation(len(view))
    found = run_in_time(run, view, order, clock, cost, stop, end_s or clock.evaluation_end_s)
    return None if found is None else Scored(view, *found)


def run_in_time(
    run: Callable[[Batch], FloatArray],
    view: TokenView,
    order: IntArray,
    clock: Clock,
    cost: StepCost,
    stop: Callable[[], bool],
    end_s: Callable[[], float],
    at_least: int = 0,
) -> tuple[IntArray, FloatArray] | None:
    """Run a forward pass over rows in a given order until all are done or the time is up.

    Args:
        run: takes a batch, returns an array (B, D).
        view: the rows.
        order: (N,) positions in the view.
        clock: learns how long it takes.
        cost: predicted seconds of a batch.
        stop: ends it with the rows done so far.
        end_s: returns when it must have ended.
        at_least: so many rows are done however late it is.

    Returns:
        Positions (n,) and values (n, D) of the rows that were done; None when there was no time for any.
    """
    values: list[FloatArray] = []
    reached: list[IntArray] = []
    done, n_batches, speed = 0, PROBE_BATCHES, clock.speed("score")
    while done < len(order) and not (stop() and done >= at_least):
        fits_s = (end_s() - clock.elapsed_s()) / speed.cautious
        rows = order[done : done + n_batches * EVALUATION_BATCH]
        n_fit = _rows_in(view, rows, GROUP_RATE * fits_s, cost)
        n_fit = n_fit or _rows_in(view, rows[:FEWEST_ROWS], fits_s, cost)
        rows = rows[: max(n_fit, at_least - done)]
        if not len(rows):
            break
        for batch in sequential_batches(view.subset(rows), EVALUATION_BATCH):
            started_s = clock.elapsed_s()
            values.append(run(batch))
            speed.observe(cost("score", len(batch), batch.width), clock.elapsed_s() - started_s)
            reached.append(view.positions[batch.rows])
        view.release()
        done += len(rows)
        n_batches = EVALUATION_BATCHES
    return (np.concatenate(reached), np.concatenate(values)) if values else None


def _rows_in(view: TokenSource, rows: IntArray, left_s: float, cost: StepCost) -> int:
    """Return how many of the rows are scored next: all, half, a quarter …, as fits into predicted seconds."""
    n_rows = len(rows)
    while n_rows >= FEWEST_ROWS:
        if scored_s(view.lengths[rows[:n_rows]], cost) <= left_s:
            return n_rows
        n_rows //= 2
    return 0
