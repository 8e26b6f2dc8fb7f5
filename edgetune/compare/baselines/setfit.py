"""SetFit with its defaults, on few examples per label, by contrastive pairs and logistic regression.

What: the package `setfit` trains the embeddings of pairs of examples to be similar (same label) or
    dissimilar (different labels), with batch 16, learning rate 2e-5 and one epoch over all pairs (positive
    pairs are repeated until there are as many as negative ones), then fits LogisticRegression on the new
    embeddings. It gets 64 examples per label, the upper end of the 8 to 64 that it is meant for, or all of
    a smaller label. The texts of a text pair are joined by a space. SetFit has no deadline of its own:
    edgetune times some steps and the fit of the head on another copy and sets `max_steps` from them; a
    callback stops the training if it turns out slower than that.
Use when: there are tens of labelled examples per label, not thousands, and the encoder was made for
    sentence embeddings.
Costs: two forward and backward passes per pair, and the number of pairs grows with the square of the
    number of examples: 64 examples for each of four labels make 49,152 pairs, which is 3,072 steps, or
    hours on a small machine.
Loses when: there are many labelled rows, which it does not use, too little time for the pairs, or very
    many labels, since most of their pairs are then never drawn.
Source: Tunstall et al., Efficient Few-Shot Learning Without Prompts, 2022, arXiv 2209.11055.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgetune.compare.baselines.hf_trainer import (
    MOST_PROBE,
    N_WARM,
    probe_is_done,
    slow_step_s,
    step_clock,
    usual_step_s,
)
from edgetune.compare.baselines.task import (
    SAFE,
    BaselineClock,
    BaselineTask,
    Fitted,
    Texts,
    TrainRows,
    count_parameters,
    safe_copy_of,
    save_duration_s,
)
from edgetune.models.source import resolve_model
from edgetune.utils.types import IntArray

NAME = "setfit"
PER_LABEL = 64
EPOCHS = 1  # SetFit's own default
BATCH_SIZE = 16  # pairs; SetFit's own default
TEXTS_PER_PAIR = 2
CAUTION = 1.5  # the head's fit comes after the last look at the clock


@dataclass(frozen=True)
class SetFitSpeed:
    """What was measured on another copy of the model.

    Attributes:
        start_s: from the call to the end of the first step, less a usual step.
        step_s: of a usual step.
        head_s: from the last step to the end: embedding the sample and fitting the head.
        n_steps: that were timed.
        took_s: all of it.
    """

    start_s: float
    step_s: float
    head_s: float
    n_steps: int
    took_s: float


@dataclass(frozen=True)
class SetFitPlan:
    """How long is trained.

    Attributes:
        n_steps: optimizer steps on pairs, in which the learning rate falls to 0.
        n_all: that SetFit itself would make.
        reserve_s: kept for the fit of the head and for saving.
        speed: what the steps were planned with; None without a deadline.
    """

    n_steps: int
    n_all: int
    reserve_s: float
    speed: SetFitSpeed | None

    @property
    def max_steps(self) -> int:
        """As SetFit has it: -1 for no limit, and then it makes all its pairs."""
        return self.n_steps if self.n_steps < self.n_all else -1

    def over(self, watch: BaselineClock, ends_s: Sequence[float]) -> bool:
        """Return whether one more step would end too late; the head slows down as steps do."""
        if self.speed is None:
            return False
        step_s = slow_step_s(ends_s, self.speed.step_s)
        slower = step_s / self.speed.step_s
        return watch.left_s(self.reserve_s) < step_s + (slower - 1.0) * self.speed.head_s


def fit(task: BaselineTask, rows: TrainRows, watch: BaselineClock) -> Fitted:
    """Train and save into `model/`.

    Raises:
        BudgetError: there is no time for a step.
        ModelError: there is no such model.
    """
    few = rows.take(few_of_each(rows.labels, PER_LABEL))
    with watch.meter.phase("open"):
        import setfit

        setfit.logging.set_verbosity_error()
        model = _model(task)
    plan = _plan(model, task, few, watch)
    with watch.meter.phase("train"):
        clock = step_clock(watch.meter.elapsed_s, lambda ends_s: plan.over(watch, ends_s))
        _trainer(model, task, few, plan.max_steps, clock).train()
    with watch.meter.phase("save"):
        model.save_pretrained(str(task.out / "model"))
    n_done = len(clock.ends_s)

    def predict(texts: Texts) -> IntArray:
        return np.asarray(model.predict(texts.joined(), show_progress_bar=False), dtype=np.int64)

    return Fitted(predict, len(few), TEXTS_PER_PAIR * BATCH_SIZE * n_done, _notes(task, few, plan, n_done))


def _plan(model: Any, task: BaselineTask, few: TrainRows, watch: BaselineClock) -> SetFitPlan:
    """Decide how many steps are made: all, or under a deadline those that fit.

    Raises:
        BudgetError: none does.
    """
    n_all = (task.epochs or EPOCHS) * math.ceil(n_pairs(few.labels) / BATCH_SIZE)
    reserve_s = save_duration_s(count_parameters(model.model_body))
    if not watch.limited:
        return SetFitPlan(n_all, n_all, reserve_s, None)
    with watch.meter.phase("other"):
        speed = _probe(task, few, watch, reserve_s)
    reserve_s += CAUTION * speed.head_s
    n_steps = int((watch.left_s(reserve_s) - speed.start_s) / speed.step_s)
    if n_steps < 1:
        raise watch.out_of_time_error(NAME)
    return SetFitPlan(min(n_steps, n_all), n_all, reserve_s, speed)


def few_of_each(labels: IntArray, n_each: int) -> IntArray:
    """Return the positions of the first `n_each` rows of every label, ascending."""
    order = np.argsort(labels, kind="stable")
    counts = np.unique(labels, return_counts=True)[1]
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(order[rank < n_each])


def n_pairs(labels: IntArray) -> int:
    """Return how many pairs SetFit makes in an epoch: as many positive as negative ones, by repeating.

    A row and itself count as a positive pair, as SetFit has it.
    """
    counts = np.unique(labels, return_counts=True)[1]
    n_positive = int((counts * (counts + 1) // 2).sum())
    n_negative = len(labels) * (len(labels) + 1) // 2 - n_positive
    return 2 * max(n_positive, n_negative)


def _model(task: BaselineTask) -> Any:
    """Load the encoder with a new head.

    SetFit unpickles a head that lies beside the encoder, and sentence-transformers runs classes that a local
    `modules.json` names, so both see only what `safe_copy_of` lets through.
    """
    from setfit import SetFitModel

    source = resolve_model(task.model)
    with safe_copy_of(source.folder) as folder:
        model = SetFitModel.from_pretrained(str(folder), device=task.device, **SAFE)
    model.model_body.max_seq_length = min(task.max_length, source.max_positions)
    return model


def _trainer(model: Any, task: BaselineTask, few: TrainRows, max_steps: int, clock: Any) -> Any:
    """Make SetFit's trainer with its defaults, but for what has nothing to do with learning."""
    from datasets import Dataset
    from setfit import Trainer, TrainingArguments
    from transformers import PrinterCallback, ProgressCallback

    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(task.out),
            num_epochs=task.epochs or EPOCHS,
            max_steps=max_steps,
            seed=task.seed,
            save_strategy="no",
            report_to="none",
            show_progress_bar=False,
        ),
        train_dataset=Dataset.from_dict({"text": few.texts.joined(), "label": few.labels.tolist()}),
        callbacks=[clock],
    )
    trainer.st_trainer.args.dataloader_pin_memory = task.device == "cuda"
    for kind in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(kind)
    return trainer


def _probe(task: BaselineTask, few: TrainRows, watch: BaselineClock, reserve_s: float) -> SetFitSpeed:
    """Time some steps and a fit of the head on another copy of the model.

    Raises:
        BudgetError: the time was over before they were done.
    """
    began_s = watch.meter.elapsed_s()
    model = _model(task)
    loaded_s = watch.meter.elapsed_s()
    clock = step_clock(watch.meter.elapsed_s, probe_is_done(watch, reserve_s))
    _trainer(model, task, few, MOST_PROBE, clock).train()
    ended_s, ends_s = watch.meter.elapsed_s(), clock.ends_s
    if len(ends_s) < N_WARM + 2:
        raise watch.out_of_time_error(NAME)
    step_s = usual_step_s(ends_s)
    return SetFitSpeed(
        start_s=max(0.0, ends_s[0] - loaded_s - step_s),
        step_s=step_s,
        head_s=ended_s - ends_s[-1],
        n_steps=len(ends_s),
        took_s=ended_s - began_s,
    )


def _notes(task: BaselineTask, few: TrainRows, plan: SetFitPlan, n_done: int) -> tuple[str, ...]:
    n_labels, epochs = len(np.unique(few.labels)), task.epochs or EPOCHS
    notes = [
        f"SetFit's defaults on {len(few):,} rows, at most {PER_LABEL} for each of {n_labels} labels: "
        f"pairs in batches of {BATCH_SIZE}, learning rate 2e-5, then logistic regression.",
        f"Trained for {n_done:,} of the {plan.n_all:,} steps of {epochs} pass{'es' * (epochs > 1)} over all "
        f"pairs; the {BATCH_SIZE} pairs of a step count as {TEXTS_PER_PAIR * BATCH_SIZE} examples.",
    ]
    if plan.speed is not None:
        limit = "was not limited" if plan.max_steps == -1 else f"was set to {plan.n_steps:,}"
        notes.append(
            "SetFit has no deadline of its own; edgetune adds one, in SetFit's favour: "
            f"{plan.speed.n_steps} steps and a fit of the head were timed on another copy "
            f"({plan.speed.took_s:.1f} s, counted), and max_steps {limit}."
        )
    if n_done < plan.n_steps:
        notes.append(
            f"Training was slower than the timed steps and was stopped after {n_done:,} of {plan.n_steps:,} "
            "steps."
        )
    return tuple(notes)
