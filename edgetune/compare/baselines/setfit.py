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
from functools import partial
from typing import Any

import numpy as np

from edgetune.compare.baselines import Baseline
from edgetune.compare.baselines.step_budget import MOST_TRIAL, StepPlan, plan_steps
from edgetune.compare.baselines.task import (
    SAFE,
    BaselineClock,
    BaselineTask,
    Fitted,
    Texts,
    TrainRows,
    safe_copy_of,
    save_s,
)
from edgetune.models.source import resolve_model
from edgetune.utils.types import IntArray

PER_LABEL = 64
EPOCHS = 1  # SetFit's own default
BATCH_SIZE = 16  # pairs; SetFit's own default
TEXTS_PER_PAIR = 2


def fit(task: BaselineTask, rows: TrainRows, watch: BaselineClock) -> Fitted:
    """Train and save into `model/`."""
    few = rows.take(few_of_each(rows.labels, PER_LABEL))
    with watch.meter.phase("open"):
        import setfit

        setfit.logging.set_verbosity_error()
        model = _model(task)
    plan = plan_steps(
        watch,
        (task.epochs or EPOCHS) * math.ceil(n_pairs(few.labels) / BATCH_SIZE),
        save_s(model.model_body),
        lambda: partial(_train, _model(task), task, few, MOST_TRIAL),
        lambda left_s, step_s: left_s / step_s,
    )
    clock = plan.clock(watch)
    with watch.meter.phase("train"):
        _train(model, task, few, plan.n_steps if plan.n_steps < plan.n_all else -1, clock)
    with watch.meter.phase("save"):
        model.save_pretrained(str(task.out / "model"))
    n_done = len(clock.ends_s)

    def predict(texts: Texts) -> IntArray:
        return np.asarray(model.predict(texts.joined(), show_progress_bar=False), dtype=np.int64)

    return Fitted(predict, len(few), TEXTS_PER_PAIR * BATCH_SIZE * n_done, _notes(task, few, plan, n_done))


def few_of_each(labels: IntArray, n_each: int) -> IntArray:
    """Return the positions of the first `n_each` rows of every label, ascending."""
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:n_each] for label in np.unique(labels)]))


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


def _train(model: Any, task: BaselineTask, few: TrainRows, max_steps: int, clock: Any) -> None:
    """Run SetFit's trainer with its defaults, but for what has nothing to do with learning.

    `max_steps` is -1 where SetFit makes all its pairs.
    """
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
    trainer.train()


def _notes(task: BaselineTask, few: TrainRows, plan: StepPlan, n_done: int) -> tuple[str, ...]:
    n_labels, epochs = len(np.unique(few.labels)), task.epochs or EPOCHS
    notes = [
        f"SetFit's defaults on {len(few):,} rows, at most {PER_LABEL} for each of {n_labels} labels: "
        f"pairs in batches of {BATCH_SIZE}, learning rate 2e-5, then logistic regression.",
        f"Trained for {n_done:,} of the {plan.n_all:,} steps of {epochs} pass{'es' * (epochs > 1)} over all "
        f"pairs; the {BATCH_SIZE} pairs of a step count as {TEXTS_PER_PAIR * BATCH_SIZE} examples.",
    ]
    if plan.n_timed:
        limit = "was not limited" if plan.n_steps == plan.n_all else f"was set to {plan.n_steps:,}"
        notes.append(
            "SetFit has no deadline of its own; edgetune adds one, in SetFit's favour: "
            f"{plan.n_timed} steps and a fit of the head were timed on another copy "
            f"({plan.took_s:.1f} s, counted), and max_steps {limit}."
        )
    return (*notes, *plan.notes(n_done))


BASELINE = Baseline(
    "setfit",
    "SetFit with its defaults on a few examples per label: contrastive pairs, then logistic regression",
    ("setfit", "transformers", "accelerate", "datasets"),
    fit,
)
