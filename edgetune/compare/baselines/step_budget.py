"""How many training steps fit into a deadline: some are timed on a copy of the model, and the rest planned.

For trainers of other packages, which have no deadline of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from edgetune.compare.baselines.task import BaselineClock

LEAST_TRIAL, MOST_TRIAL = 6, 40  # steps that are timed
TRIAL_RATE = 0.03  # of the time left, for these
N_WARM = 2  # the first steps pay for what later ones find ready
CAUTION = 1.5  # what follows the steps comes after the last look at the clock
N_RECENT = 6  # step ends looked at, to see how slow the next step may be


@dataclass(frozen=True)
class StepPlan:
    """How long is trained; the last four say what was timed on a copy, 0 without a deadline.

    Attributes:
        n_steps: optimizer steps, in which the learning rate falls to 0.
        n_all: steps that would be made without a deadline.
        reserve_s: kept for what comes after the steps.
        n_timed: steps.
        step_s: of a usual step.
        after_s: from the last step to the end.
        took_s: all of it, with getting ready.
    """

    n_steps: int
    n_all: int
    reserve_s: float
    n_timed: int = 0
    step_s: float = 0.0
    after_s: float = 0.0
    took_s: float = 0.0

    def clock(self, watch: BaselineClock) -> Any:
        """Return a callback that stops the training where one more step would end too late."""

        def over(ends_s: Sequence[float]) -> bool:
            if not self.n_timed:
                return False
            step_s = slow_step_s(ends_s, self.step_s)
            slower = step_s / self.step_s  # and so is what comes after the steps
            return watch.left_s(self.reserve_s) < step_s + (slower - 1.0) * self.after_s

        return step_clock(watch, over)

    def notes(self, n_done: int) -> list[str]:
        """Say where the plan was not kept."""
        if n_done >= self.n_steps:
            return []
        return [
            f"Training was slower than the timed steps and was stopped after {n_done:,} of {self.n_steps:,} "
            "steps."
        ]


def step_clock(watch: BaselineClock, stop: Callable[[Sequence[float]], bool]) -> Any:
    """Return a Trainer callback that notes in `ends_s` when each step ended, and then asks `stop` of them."""
    from transformers import TrainerCallback

    class StepClock(TrainerCallback):  # type: ignore[misc]  # transformers is not type-checked
        def __init__(self) -> None:
            self.ends_s: list[float] = []

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.ends_s.append(watch.meter.elapsed_s())
            if stop(self.ends_s):
                control.should_training_stop = True

    return StepClock()


def plan_steps(
    watch: BaselineClock,
    n_all: int,
    save_s: float,
    prepare: Callable[[], Callable[[Any], None]],
    steps_in: Callable[[float, float], float],
) -> StepPlan:
    """Plan all steps, or under a deadline those that fit, by some that are timed on a copy of the model.

    Timed are a few steps at least, then as many as take a small share of the time left.

    Args:
        watch: the clock of the baseline.
        n_all: steps that are made without a deadline.
        save_s: seconds kept for saving.
        prepare: copies the model; what it returns trains the copy for `MOST_TRIAL` steps, given a callback.
        steps_in: how many steps fit, given the seconds left and those of a step.

    Raises:
        BudgetError: there is no time for the trial, or for a step.
    """
    if not watch.limited:
        return StepPlan(n_all, n_all, save_s)
    with watch.meter.phase("other"):
        began_s = watch.meter.elapsed_s()
        train = prepare()
        started_s = watch.meter.elapsed_s()
        until_s = started_s + TRIAL_RATE * max(0.0, watch.left_s(save_s))

        def done(ends_s: Sequence[float]) -> bool:
            return watch.left_s(save_s) <= 0 or (len(ends_s) >= LEAST_TRIAL and ends_s[-1] >= until_s)

        clock = step_clock(watch, done)
        train(clock)
        ended_s, ends_s = watch.meter.elapsed_s(), clock.ends_s
    if len(ends_s) < N_WARM + 2:
        raise watch.out_of_time_error()
    step_s, after_s = usual_step_s(ends_s), ended_s - ends_s[-1]
    start_s = max(0.0, ends_s[0] - started_s - step_s)
    reserve_s = save_s + CAUTION * after_s
    n_steps = int(steps_in(watch.left_s(reserve_s) - start_s, step_s))
    if n_steps < 1:
        raise watch.out_of_time_error()
    return StepPlan(
        min(n_steps, n_all), n_all, reserve_s, len(ends_s), step_s, after_s, took_s=ended_s - began_s
    )


def usual_step_s(ends_s: Sequence[float]) -> float:
    """Return the mean seconds of a step, the first ones left out."""
    return (ends_s[-1] - ends_s[N_WARM - 1]) / (len(ends_s) - N_WARM)


def slow_step_s(ends_s: Sequence[float], least_s: float) -> float:
    """Return the seconds of the slowest of the last few steps, but at least those of the trial."""
    return max([least_s, *(end - start for start, end in pairwise(ends_s[-N_RECENT:]))])
