"""What a baseline gets and hands back: the task, its rows, the clock, a trained model.

    task.json ─→ BaselineTask ─→ TrainRows (edgetune's own reader) ─→ Fit, under a BaselineClock ─→ Fitted

Outside programs are shown a model folder through links to files that are neither pickles nor code.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from pydantic import Field, ValidationError

from edgetune.compare.grid import first_problem
from edgetune.config.settings import DataSettings, Settings
from edgetune.data.examples import read_examples
from edgetune.data.labels import label_order
from edgetune.data.splits import data_options
from edgetune.data.table import UNLABELLED, BadRow
from edgetune.models.checks import read_model_json, safe_files
from edgetune.planning.clock import margin_s
from edgetune.utils.errors import BudgetError, DataError, ModelError, UsageError
from edgetune.utils.meter import Meter
from edgetune.utils.types import IntArray

SAFE = {"local_files_only": True, "trust_remote_code": False}
"""How a baseline opens a model that it was given: as edgetune does, no network and nobody's code."""
_ROWS_SEED = 0x9EE5  # so that the rows drawn are not those that another part draws from the same seed


class BaselineTask(Settings):
    """What a baseline is asked to do; read from a JSON file. None: the baseline's own default.

    Attributes:
        data: the training rows and how they are read; its `eval`, `holdout` and `max_length` are not used.
        eval: labelled text to evaluate on, read in the same way.
        out: folder for the model, `predicted.json` and `result.json`.
        max_rows: train on a random sample of so many rows; None: on all.
        deadline_s: from the start of the process to the saved model; None: no limit.
        batch_size: examples per step or forward pass.
        max_length: tokens per row at most.
        model: None for the built-in encoder, a folder, or a hub name (without `hub:`) that is in its cache.
        device: `cpu` hides every GPU from the baseline.
    """

    data: DataSettings
    eval: str
    out: Path
    max_rows: int | None = Field(None, ge=2)
    seed: int = Field(0, ge=0)
    deadline_s: float | None = Field(None, gt=0)
    epochs: int | None = Field(None, ge=1)
    batch_size: int | None = Field(None, ge=1)
    max_length: int = Field(128, ge=4)
    model: str | None = None
    device: Literal["cpu", "cuda"] = "cpu"


@dataclass(frozen=True)
class Texts:
    """Texts in the order of their file; `second` has the other text of each row where the data has pairs."""

    first: list[str]
    second: list[str] | None = None

    def __len__(self) -> int:
        return len(self.first)

    def take(self, rows: IntArray) -> Texts:
        """Return the texts at these positions, in that order."""
        first, second = (None if one is None else [one[i] for i in rows] for one in (self.first, self.second))
        return Texts(first or [], second)

    def joined(self) -> list[str]:
        """Return one text per row; pairs are joined by a space."""
        if self.second is None:
            return self.first
        return [f"{first} {second}".strip() for first, second in zip(self.first, self.second, strict=True)]


@dataclass(frozen=True)
class TrainRows:
    """Training rows in a seeded random order whose first rows hold every label.

    So the first k rows are a random sample of any size k, except that no label is left out of it.

    Attributes:
        labels: (n,) class ids.
        label_names: by class id.
        n_read: usable rows of the file; more than n where `max_rows` left some out.
    """

    texts: Texts
    labels: IntArray
    label_names: tuple[str, ...]
    n_read: int

    def __len__(self) -> int:
        return len(self.labels)

    def sample(self, n_rows: int) -> TrainRows:
        """Return the first rows; all of them if there are not so many."""
        return self.take(np.arange(min(n_rows, len(self))))

    def take(self, rows: IntArray) -> TrainRows:
        """Return the rows at these positions, in that order."""
        return TrainRows(self.texts.take(rows), self.labels[rows], self.label_names, self.n_read)


@dataclass(frozen=True)
class Fitted:
    """A trained and saved model, which predicts class ids (n,) of texts.

    Attributes:
        n_train_used: different training rows that it learned from.
        n_trained: examples trained, counting passes.
        notes: what was done, in sentences.
    """

    predict: Callable[[Texts], IntArray]
    n_train_used: int
    n_trained: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class BaselineClock:
    """The meter that time is charged to, and the task's deadline; `name` is the baseline's."""

    name: str
    meter: Meter
    deadline_s: float | None

    @property
    def limited(self) -> bool:
        """Whether there is a deadline."""
        return self.deadline_s is not None

    def left_s(self, save_s: float = 0.0) -> float:
        """Return seconds to the deadline, less a margin and what saving takes; infinite without one."""
        if self.deadline_s is None:
            return math.inf
        return self.deadline_s - margin_s(self.deadline_s) - save_s - self.meter.elapsed_s()

    def out_of_time_error(self) -> BudgetError:
        """Return the error of a baseline for which there is no time."""
        return BudgetError(
            f"{self.name} could not train anything within {self.deadline_s:g} s: "
            f"{self.meter.elapsed_s():.1f} s had passed before its first step could finish; allow more time."
        )


Fit: TypeAlias = Callable[[BaselineTask, TrainRows, BaselineClock], Fitted]
"""Trains and saves a model; raises a BudgetError where there is no time to train anything, a ModelError where
there is no such model, and a DataError where the texts cannot be used."""


def read_task(path: Path) -> BaselineTask:
    """Read a task.

    Raises:
        UsageError: it cannot be read, or a setting is wrong; names it.
    """
    try:
        return BaselineTask.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"Cannot read the task {path}: {error.strerror}.") from error
    except ValidationError as error:
        raise UsageError(f"The task {path}: {first_problem(error, BaselineTask, DataSettings)}") from error
    except ValueError as error:
        raise UsageError(f"The task {path} is not valid JSON: {error}.") from error


def read_labelled(path: str, data: DataSettings) -> tuple[Texts, list[str]]:
    """Read the usable rows of labelled text with edgetune's own reader, and their labels.

    Raises:
        DataError: there are none, or more of them are unusable than `max_bad_rows` allows.
    """
    every_bad: list[BadRow] = []
    examples = list(read_examples(path, data_options(data), every_bad.append))
    bad = [row for row in every_bad if row.reason not in UNLABELLED]
    if not examples or len(bad) > data.max_bad_rows * (len(examples) + len(bad)):
        first = f"; the first: {bad[0].file}:{bad[0].line}, {bad[0].reason}" if bad else ""
        raise DataError(
            f"{len(examples):,} rows of {path} can be used and {len(bad):,} cannot{first}; "
            "correct these rows."
        )
    if examples[0].several is not None:
        raise DataError(f"Rows of {path} may have several labels; the baselines are for one label a row.")
    second = [example.text_pair or "" for example in examples] if data.pair else None
    return Texts([example.text for example in examples], second), [example.label for example in examples]


def read_train(task: BaselineTask) -> TrainRows:
    """Read the training rows, in their random order.

    Raises:
        DataError: they cannot be used, or all have one label.
    """
    texts, names = read_labelled(task.data.train, task.data)
    label_names = tuple(label_order(set(names)))
    if len(label_names) < 2:
        raise DataError(
            f'Every row of {task.data.train} has the label "{label_names[0]}"; a classifier needs at least 2 '
            "different labels."
        )
    ids = {name: i for i, name in enumerate(label_names)}
    labels = np.array([ids[name] for name in names], dtype=np.int64)
    order = shuffled_order(labels, np.random.default_rng([task.seed, _ROWS_SEED]))[: task.max_rows]
    return TrainRows(texts, labels, label_names, len(labels)).take(order)


def shuffled_order(labels: IntArray, rng: np.random.Generator) -> IntArray:
    """Return all positions (n,) in random order, but one row of each label first."""
    order = rng.permutation(len(labels))
    firsts = np.sort(np.unique(labels[order], return_index=True)[1])
    return np.concatenate([order[firsts], np.delete(order, firsts)])


def save_s(model: Any) -> float:
    """Return seconds to keep for writing a torch model's float32 parameters: at 100 MB/s, and a bit."""
    return 0.3 + 4 * sum(int(one.numel()) for one in model.parameters()) / 100e6


@contextlib.contextmanager
def safe_copy_of(folder: Path) -> Iterator[Path]:
    """Give a temporary folder with a model's safe files.

    Raises:
        ModelError: its `modules.json` names a class that does not come with sentence-transformers.
    """
    modules = folder / "modules.json"
    if modules.is_file():
        named = read_model_json(modules)
        for one in named if isinstance(named, list) else [named]:
            kind = one.get("type") if isinstance(one, dict) else None
            if not isinstance(kind, str) or not kind.startswith("sentence_transformers."):
                raise ModelError(f"{modules} requires custom code ({kind}), which edgetune never runs.")
    with tempfile.TemporaryDirectory(prefix="edgetune-model-") as scratch:
        for path in safe_files(folder):
            target = Path(scratch) / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.symlink(path.resolve(), target)
            except OSError:  # Windows asks for a right
                shutil.copyfile(path, target)
        yield Path(scratch)
