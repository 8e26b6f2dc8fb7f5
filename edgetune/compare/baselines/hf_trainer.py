"""Hugging Face Trainer with its defaults, in the script that most people would write.

What: AutoModelForSequenceClassification and Trainer with the defaults of TrainingArguments (AdamW, peak
    learning rate 5e-5 falling linearly to 0, batch 8, dropout on, every parameter trained), and
    DataCollatorWithPadding. One pass unless the task says otherwise; under a deadline, as many as fit, up
    to the three that are Trainer's own default. Trainer has no deadline of its own: edgetune times a few
    steps on a copy of the model and sets `max_steps` from them, so that the learning rate reaches 0 in
    time; a callback stops the training if it turns out slower than that.
Use when: all rows can be trained in the time available, on a GPU or with little data; it is the reference
    that everybody knows.
Costs: a forward and a backward pass through every layer per example. Checkpoints and progress bars are
    switched off, and only the rows that will be trained are tokenized; both are in its favour.
Loses when: time is short. Batches mix short and long rows and nothing is frozen, so fewer examples are
    trained; batches of 8 keep only a few cores busy.
Source: Wolf et al., Transformers, EMNLP 2020 (demonstrations); transformers' text classification guide.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from edgetune.compare.baselines.encoder_logreg import padded_batches
from edgetune.compare.baselines.task import (
    SAFE,
    BaselineClock,
    BaselineTask,
    Fitted,
    Texts,
    TrainRows,
    count_parameters,
    save_duration_s,
)
from edgetune.models.source import resolve_model
from edgetune.utils.types import IntArray

NAME = "hf-trainer"
BATCH_SIZE = 8  # TrainingArguments' own default
EPOCHS, DEADLINE_EPOCHS = 1, 3
LEAST_PROBE, MOST_PROBE = 6, 40  # steps that are timed
PROBE_RATE = 0.03  # of the time left, for these
N_WARM = 2  # the first steps pay for what later ones find ready
N_RECENT = 6  # step ends looked at, to see how slow the next step may be
EVAL_BATCH = 32


@dataclass(frozen=True)
class TrainerSpeed:
    """What was measured on a copy of the model.

    Attributes:
        start_s: from the call to the end of the first step, less a usual step.
        step_s: of a usual step.
        row_s: tokenizing a row.
        n_steps: that were timed.
        took_s: all of it.
    """

    start_s: float
    step_s: float
    row_s: float
    n_steps: int
    took_s: float


@dataclass(frozen=True)
class TrainerPlan:
    """How long is trained.

    Attributes:
        n_steps: optimizer steps, in which the learning rate falls to 0.
        epochs: passes at most.
        batch_size: examples per step.
        reserve_s: kept for saving.
        speed: what the steps were planned with; None without a deadline.
    """

    n_steps: int
    epochs: int
    batch_size: int
    reserve_s: float
    speed: TrainerSpeed | None

    def over(self, watch: BaselineClock, ends_s: Sequence[float]) -> bool:
        """Return whether one more step would end too late."""
        return self.speed is not None and watch.left_s(self.reserve_s) < slow_step_s(
            ends_s, self.speed.step_s
        )


@dataclass(frozen=True)
class OpenedModel:
    """A tokenizer and a model with a new head."""

    tokenizer: Any
    model: Any
    max_length: int

    def dataset(self, rows: TrainRows) -> list[dict[str, Any]]:
        """Tokenize rows; they are padded when a batch is made."""
        encoded = self.tokenizer(
            rows.texts.first, rows.texts.second, truncation=True, max_length=self.max_length
        )
        columns = {**encoded, "labels": rows.labels.tolist()}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def fit(task: BaselineTask, rows: TrainRows, watch: BaselineClock) -> Fitted:
    """Train and save into `model/`.

    Raises:
        BudgetError: there is no time for a step.
        ModelError: there is no such model.
    """
    with watch.meter.phase("open"):
        opened = _open(task, rows)
    plan = _plan(opened, task, rows, watch)
    used = rows.sample(plan.n_steps * plan.batch_size)
    with watch.meter.phase("tokenize"):
        dataset = opened.dataset(used)
    with watch.meter.phase("train"):
        clock = step_clock(watch.meter.elapsed_s, lambda ends_s: plan.over(watch, ends_s))
        _trainer(opened.model, opened.tokenizer, task, dataset, plan.n_steps, clock).train()
    with watch.meter.phase("save"):
        opened.model.save_pretrained(task.out / "model")
        opened.tokenizer.save_pretrained(task.out / "model")
    n_done = len(clock.ends_s)
    n_trained = examples_trained(n_done, len(used), plan.batch_size)
    return Fitted(
        lambda texts: _predicted(opened, texts),
        min(len(used), n_trained),
        n_trained,
        _notes(task, plan, n_done),
    )


def _plan(opened: OpenedModel, task: BaselineTask, rows: TrainRows, watch: BaselineClock) -> TrainerPlan:
    """Decide how many steps are made: all, or under a deadline those that fit.

    Raises:
        BudgetError: none does.
    """
    batch_size = task.batch_size or BATCH_SIZE
    epochs = task.epochs or (DEADLINE_EPOCHS if watch.limited else EPOCHS)
    n_most, reserve_s = (
        epochs * math.ceil(len(rows) / batch_size),
        save_duration_s(count_parameters(opened.model)),
    )
    if not watch.limited:
        return TrainerPlan(n_most, epochs, batch_size, reserve_s, None)
    with watch.meter.phase("other"):
        speed = _probe(opened, task, rows, watch, reserve_s)
    left_s = watch.left_s(reserve_s) - speed.start_s
    n_steps = min(n_most, steps_in_time(left_s, speed, batch_size, len(rows)))
    if n_steps < 1:
        raise watch.out_of_time_error(NAME)
    return TrainerPlan(n_steps, epochs, batch_size, reserve_s, speed)


def _open(task: BaselineTask, rows: TrainRows) -> OpenedModel:
    """Load the tokenizer and the model; the new head is drawn from the seed."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, set_seed

    assert Trainer is not None  # its module is imported now, so that no step is charged for it
    source = resolve_model(task.model)
    names = dict(enumerate(rows.label_names))
    set_seed(task.seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        source.folder,
        num_labels=len(names),
        id2label=names,
        label2id={name: i for i, name in names.items()},
        use_safetensors=True,
        **SAFE,
    )
    tokenizer = AutoTokenizer.from_pretrained(source.folder, **SAFE)
    return OpenedModel(tokenizer, model, min(task.max_length, source.max_positions))


def _trainer(model: Any, tokenizer: Any, task: BaselineTask, dataset: Any, n_steps: int, clock: Any) -> Any:
    """Make a Trainer with its defaults, but for what has nothing to do with learning."""
    from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments

    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(task.out),
            max_steps=n_steps,
            per_device_train_batch_size=task.batch_size or BATCH_SIZE,
            seed=task.seed,
            use_cpu=task.device == "cpu",
            dataloader_pin_memory=task.device == "cuda",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=dataset,
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        callbacks=[clock],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def step_clock(elapsed_s: Callable[[], float], stop: Callable[[Sequence[float]], bool]) -> Any:
    """Return a Trainer callback that notes when every step ended, in `ends_s`, and may stop the training.

    Args:
        elapsed_s: the clock.
        stop: asked after every step, with when each of them ended.
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


def probe_is_done(watch: BaselineClock, reserve_s: float) -> Callable[[Sequence[float]], bool]:
    """Return whether enough steps were timed: a few at least, then for a small share of the time left."""
    until_s = watch.meter.elapsed_s() + PROBE_RATE * max(0.0, watch.left_s(reserve_s))

    def over(ends_s: Sequence[float]) -> bool:
        return watch.left_s(reserve_s) <= 0 or (len(ends_s) >= LEAST_PROBE and ends_s[-1] >= until_s)

    return over


def _probe(
    opened: OpenedModel, task: BaselineTask, rows: TrainRows, watch: BaselineClock, reserve_s: float
) -> TrainerSpeed:
    """Time some steps on a copy of the model.

    Raises:
        BudgetError: the time was over before they were done.
    """
    began_s = watch.meter.elapsed_s()
    some = rows.sample(MOST_PROBE * (task.batch_size or BATCH_SIZE))
    dataset = opened.dataset(some)
    tokenized_s = watch.meter.elapsed_s()
    clock = step_clock(watch.meter.elapsed_s, probe_is_done(watch, reserve_s))
    _trainer(copy.deepcopy(opened.model), opened.tokenizer, task, dataset, MOST_PROBE, clock).train()
    if len(clock.ends_s) < N_WARM + 2:
        raise watch.out_of_time_error(NAME)
    step_s = usual_step_s(clock.ends_s)
    return TrainerSpeed(
        start_s=max(0.0, clock.ends_s[0] - tokenized_s - step_s),
        step_s=step_s,
        row_s=(tokenized_s - began_s) / len(some),
        n_steps=len(clock.ends_s),
        took_s=watch.meter.elapsed_s() - began_s,
    )


def usual_step_s(ends_s: Sequence[float]) -> float:
    """Return the mean seconds of a step, the first ones left out."""
    return (ends_s[-1] - ends_s[N_WARM - 1]) / (len(ends_s) - N_WARM)


def slow_step_s(ends_s: Sequence[float], least_s: float) -> float:
    """Return the seconds of the slowest of the last few steps, but at least those of the probe."""
    return max([least_s, *(end - start for start, end in pairwise(ends_s[-N_RECENT:]))])


def steps_in_time(left_s: float, speed: TrainerSpeed, batch_size: int, n_rows: int) -> int:
    """Return how many steps fit; a row is tokenized once, before it is trained for the first time."""
    n_steps = left_s / (speed.step_s + batch_size * speed.row_s)
    if n_steps * batch_size > n_rows:
        n_steps = (left_s - n_rows * speed.row_s) / speed.step_s
    return max(0, int(n_steps))


def examples_trained(n_steps: int, n_rows: int, batch_size: int) -> int:
    """Count examples over passes whose last batch may be smaller."""
    passes, rest = divmod(n_steps, math.ceil(n_rows / batch_size))
    return passes * n_rows + rest * batch_size


def _predicted(opened: OpenedModel, texts: Texts) -> IntArray:
    """Return class ids (n,)."""
    import torch

    model = opened.model.eval()
    found = np.empty(len(texts), dtype=np.int64)
    with torch.inference_mode():
        for rows, inputs in padded_batches(opened.tokenizer, model, texts, opened.max_length, EVAL_BATCH):
            found[rows] = model(**inputs).logits.argmax(-1).cpu().numpy()
    return found


def _notes(task: BaselineTask, plan: TrainerPlan, n_done: int) -> tuple[str, ...]:
    passes = f"{plan.epochs} pass{'es' * (plan.epochs > 1)}"
    notes = [
        "Trainer's defaults: AdamW, peak learning rate 5e-5 falling linearly to 0, batches of "
        f"{plan.batch_size} padded to their longest row (at most {task.max_length} tokens), every parameter "
        "trained; checkpoints and progress bars are switched off."
    ]
    if plan.speed is None:
        why = "as asked" if task.epochs else "edgetune's choice; Trainer's own default is 3"
        return (*notes, f"{passes} over the rows ({why}).")
    why = "as asked" if task.epochs else "Trainer's own default"
    notes.append(
        "Trainer has no deadline of its own; edgetune adds one, in Trainer's favour: "
        f"{plan.speed.n_steps} steps were timed on a copy of the model ({plan.speed.took_s:.1f} s, counted), "
        f"max_steps was set to {plan.n_steps:,} so that the learning rate reaches 0 in time, with {passes} "
        f"at most ({why})."
    )
    if n_done < plan.n_steps:
        notes.append(
            f"Training was slower than the timed steps and was stopped after {n_done:,} of {plan.n_steps:,} "
            "steps."
        )
    return tuple(notes)
