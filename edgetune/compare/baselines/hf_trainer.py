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
from collections.abc import Callable
from functools import partial
from typing import Any

from edgetune.compare.baselines import Baseline
from edgetune.compare.baselines.encoder_logreg import in_batches
from edgetune.compare.baselines.step_budget import MOST_TRIAL, StepPlan, plan_steps
from edgetune.compare.baselines.task import (
    SAFE,
    BaselineClock,
    BaselineTask,
    Fitted,
    Texts,
    TrainRows,
    save_s,
)
from edgetune.models.source import resolve_model
from edgetune.utils.types import IntArray

BATCH_SIZE = 8  # TrainingArguments' own default
EPOCHS, DEADLINE_EPOCHS = 1, 3
EVAL_BATCH = 32


class _Training:
    """A task with its tokenizer and its model, which has a new head drawn from the seed."""

    def __init__(self, task: BaselineTask, rows: TrainRows, watch: BaselineClock) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, set_seed

        assert Trainer is not None  # its module is imported now, so that no step is charged for it
        self.task, self.rows, self.watch = task, rows, watch
        self.batch_size = task.batch_size or BATCH_SIZE
        self.row_s = 0.0  # to tokenize a row
        self.epochs = task.epochs or (DEADLINE_EPOCHS if watch.limited else EPOCHS)
        source = resolve_model(task.model)
        names = dict(enumerate(rows.label_names))
        set_seed(task.seed)
        self.model = AutoModelForSequenceClassification.from_pretrained(
            source.folder,
            num_labels=len(names),
            id2label=names,
            label2id={name: i for i, name in names.items()},
            use_safetensors=True,
            **SAFE,
        )
        self.tokenizer = AutoTokenizer.from_pretrained(source.folder, **SAFE)
        self.max_length = min(task.max_length, source.max_positions)

    def dataset(self, rows: TrainRows) -> list[dict[str, Any]]:
        """Tokenize rows; they are padded when a batch is made."""
        texts = rows.texts
        encoded = self.tokenizer(texts.first, texts.second, truncation=True, max_length=self.max_length)
        columns = {**encoded, "labels": rows.labels.tolist()}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def train(self, model: Any, dataset: Any, n_steps: int, clock: Any) -> None:
        """Run a Trainer with its defaults, but for what has nothing to do with learning."""
        from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments

        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=str(self.task.out),
                max_steps=n_steps,
                per_device_train_batch_size=self.batch_size,
                seed=self.task.seed,
                use_cpu=self.task.device == "cpu",
                dataloader_pin_memory=self.task.device == "cuda",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=dataset,
            data_collator=DataCollatorWithPadding(self.tokenizer),
            processing_class=self.tokenizer,
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()

    def prepare_trial(self) -> Callable[[Any], None]:
        """Tokenize some rows, which is timed, and copy the model; return what trains the copy on them."""
        some = self.rows.sample(MOST_TRIAL * self.batch_size)
        started_s = self.watch.meter.elapsed_s()
        dataset = self.dataset(some)
        self.row_s = (self.watch.meter.elapsed_s() - started_s) / len(some)
        return partial(self.train, copy.deepcopy(self.model), dataset, MOST_TRIAL)

    def steps_in(self, left_s: float, step_s: float) -> int:
        """Return how many steps fit."""
        return steps_in_time(left_s, step_s, self.row_s, self.batch_size, len(self.rows))

    def predict(self, texts: Texts) -> IntArray:
        """Return class ids (n,)."""

        def best(output: Any, _: Any) -> Any:
            return output.logits.argmax(-1)

        return in_batches(self.tokenizer, self.model.eval(), texts, self.max_length, EVAL_BATCH, best)

    def notes(self, plan: StepPlan, n_done: int) -> tuple[str, ...]:
        passes = f"{self.epochs} pass{'es' * (self.epochs > 1)}"
        defaults = (
            "Trainer's defaults: AdamW, peak learning rate 5e-5 falling linearly to 0, batches of "
            f"{self.batch_size} padded to their longest row (at most {self.task.max_length} tokens), every "
            "parameter trained; checkpoints and progress bars are switched off."
        )
        default = "Trainer's own default" if plan.n_timed else "edgetune's choice; Trainer's own default is 3"
        why = "as asked" if self.task.epochs else default
        if not plan.n_timed:
            return (defaults, f"{passes} over the rows ({why}).")
        deadline = (
            "Trainer has no deadline of its own; edgetune adds one, in Trainer's favour: "
            f"{plan.n_timed} steps were timed on a copy of the model ({plan.took_s:.1f} s, "
            f"counted), max_steps was set to {plan.n_steps:,} so that the learning rate reaches 0 in time, "
            f"with {passes} at most ({why})."
        )
        return (defaults, deadline, *plan.notes(n_done))


def fit(task: BaselineTask, rows: TrainRows, watch: BaselineClock) -> Fitted:
    """Train and save into `model/`."""
    with watch.meter.phase("open"):
        one = _Training(task, rows, watch)
    n_all = one.epochs * math.ceil(len(rows) / one.batch_size)
    plan = plan_steps(watch, n_all, save_s(one.model), one.prepare_trial, one.steps_in)
    used = rows.sample(plan.n_steps * one.batch_size)
    with watch.meter.phase("tokenize"):
        dataset = one.dataset(used)
    clock = plan.clock(watch)
    with watch.meter.phase("train"):
        one.train(one.model, dataset, plan.n_steps, clock)
    with watch.meter.phase("save"):
        one.model.save_pretrained(task.out / "model")
        one.tokenizer.save_pretrained(task.out / "model")
    n_done = len(clock.ends_s)
    n_trained = examples_trained(n_done, len(used), one.batch_size)
    return Fitted(one.predict, min(len(used), n_trained), n_trained, one.notes(plan, n_done))


def steps_in_time(left_s: float, step_s: float, row_s: float, batch_size: int, n_rows: int) -> int:
    """Return how many steps fit; a row is tokenized (`row_s`) before it is trained for the first time."""
    n_steps = left_s / (step_s + batch_size * row_s)
    if n_steps * batch_size > n_rows:
        n_steps = (left_s - n_rows * row_s) / step_s
    return max(0, int(n_steps))


def examples_trained(n_steps: int, n_rows: int, batch_size: int) -> int:
    """Count examples over passes whose last batch may be smaller."""
    passes, rest = divmod(n_steps, math.ceil(n_rows / batch_size))
    return passes * n_rows + rest * batch_size


BASELINE = Baseline(
    "hf-trainer",
    "the whole encoder finetuned by Hugging Face Trainer with its defaults",
    ("torch", "transformers", "accelerate"),
    fit,
)
