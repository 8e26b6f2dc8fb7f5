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
N_RECENT = 6  # step ends looked at, to see how slow the next step may be


@dataclass(frozen=True)
class TrialSteps:
    """What was measured on a copy of the model.

    Attributes:
        start_s: from the call to the end of the first step, less a usual step.
        step_s: of a usual step.
        after_s: from the last step to the end.
        n_steps: that were timed.
        took_s: all of it, with getting ready.
    """

    start_s: float
    step_s: float
    after_s: float
    n_steps: int
    took_s: float


@dataclass(frozen=True)
class StepPlan:
    """How long is trained.

    Attributes:
        n_steps: optimizer steps, in which the learning rate falls to 0.
        n_all: steps that would be made without a deadline.
        reserve_s: kept for what comes after the steps.
        after_s: of these, what slows down as the steps do.
        trial: what the steps were planned with; None without a deadline.
    """

    n_steps: int
    n_all: int
    reserve_s: float
    after_s: float = 0.0
    trial: TrialSteps | None = None

    def clock(self, watch: BaselineClock) -> Any:
        """Return a callback that stops the training where one more step would end too late."""

        def over(ends_s: Sequence[float]) -> bool:
            if self.trial is None:
                return False
            step_s = slow_step_s(ends_s, self.trial.step_s)
            slower = step_s / self.trial.step_s
            return watch.left_s(self.reserve_s) < step_s + (slower - 1.0) * self.after_s

        return step_clock(watch.meter.elapsed_s, over)

    def notes(self, n_done: int) -> list[str]:
        """Say where the plan was not kept."""
        if n_done >= self.n_steps:
            return []
        return [
            f"Training was slower than the timed steps and was stopped after {n_done:,} of {self.n_steps:,} "
            "steps."
        ]


def step_clock(elapsed_s: Callable[[], float], stop: Callable[[Sequence[float]], bool]) -> Any:
    """Return a Trainer callback that notes when every step ended, in `ends_s`, and may stop the training.

    `stop` is asked after every step, with when each of them ended.
    """
    from transformers import TrainerCallback

    class StepClock(TrainerCallback):  # type: ignore[misc]  # transformers is not type-checked
        def __init__(self) -> None:
            self.ends_s: list[float] = []

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.ends_s.append(elapsed_s())
            if stop(self.ends_s):
                control.should_training_stop = True

    return StepClock()


def time_steps(
    name: str, watch: BaselineClock, reserve_s: float, began_s: float, train: Callable[[Any], None]
) -> TrialSteps:
    """Train a copy of the model for a few steps at least, then for a small share of the time left.

    Raises:
        BudgetError: the time was over before they were done.
    """
    started_s = watch.meter.elapsed_s()
    until_s = started_s + TRIAL_RATE * max(0.0, watch.left_s(reserve_s))

    def done(ends_s: Sequence[float]) -> bool:
        return watch.left_s(reserve_s) <= 0 or (len(ends_s) >= LEAST_TRIAL and ends_s[-1] >= until_s)

    clock = step_clock(watch.meter.elapsed_s, done)
    train(clock)
    ended_s, ends_s = watch.meter.elapsed_s(), clock.ends_s
    if len(ends_s) < N_WARM + 2:
        raise watch.out_of_time_error(name)
    step_s = usual_step_s(ends_s)
    start_s = max(0.0, ends_s[0] - started_s - step_s)
    return TrialSteps(start_s, step_s, ended_s - ends_s[-1], len(ends_s), ended_s - began_s)


def usual_step_s(ends_s: Sequence[float]) -> float:
    """Return the mean seconds of a step, the first ones left out."""
    return (ends_s[-1] - ends_s[N_WARM - 1]) / (len(ends_s) - N_WARM)


def slow_step_s(ends_s: Sequence[float], least_s: float) -> float:
    """Return the seconds of the slowest of the last few steps, but at least those of the trial."""
    return max([least_s, *(end - start for start, end in pairwise(ends_s[-N_RECENT:]))])
