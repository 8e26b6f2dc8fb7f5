"""The rows that all methods share: drawn once, written once, read by every cell and every outside program."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from edgetune.compare.grid import DataEntry, Grid
from edgetune.data.examples import Example, find_parts, read_examples
from edgetune.data.labels import find_labels
from edgetune.data.near_duplicates import Words
from edgetune.data.splits import data_options, hold_out
from edgetune.data.table import BadRow
from edgetune.data.text_files import reading_errors
from edgetune.utils.errors import DataError, UsageError
from edgetune.utils.files import file_sha256, write_atomic
from edgetune.utils.parsing import read_json_file
from edgetune.utils.sanitize import brief

SEED = 0
MAX_HOLDOUT = 10_000
FILES = ("train.jsonl", "eval.jsonl")


class SharedRows(BaseModel):
    """One data set as two JSONL files in a folder; `rows.json` beside them says all this.

    Attributes:
        labels: names of the classes of all rows, sorted.
        key: hash of both files.
        n_bad: rows of both files that could not be used and were left out.
        wish: what they were drawn for.
    """

    folder: Path = Field(exclude=True)
    name: str
    n_train: int
    n_eval: int
    labels: tuple[str, ...]
    key: str
    pair: bool
    n_bad: int
    wish: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """How a run reads them (`settings.DataSettings`)."""
        text = ["text", "text_pair"] if self.pair else ["text"]
        files = {name: str((self.folder / f"{name}.jsonl").resolve()) for name in ("train", "eval")}
        return {**files, "text": text, "label": "label", "pair": self.pair}

    def eval_labels(self) -> list[str]:
        """Return the true labels of the evaluation rows, in their order."""
        with (self.folder / "eval.jsonl").open(encoding="utf-8") as file:
            return [json.loads(line)["label"] for line in file]


def draw_shared_rows(entry: DataEntry, grid: Grid, folder: Path) -> SharedRows:
    """Draw a set's rows and write them, unless that was done before for the same wish.

    Raises:
        EdgetuneError: the data cannot be used, or nothing is left to train or evaluate on.
    """
    n_train, n_eval = entry.rows or grid.rows, entry.eval_rows or grid.eval_rows
    contents = [_content(path) for path in (entry.train, entry.eval) if path is not None]
    wish = {
        "entry": entry.model_dump(mode="json", exclude={"seeds"}),
        "n": [n_train, n_eval],
        "holdout": grid.holdout,
        "contents": contents,
    }
    meta_file = folder / "rows.json"
    with contextlib.suppress(OSError, ValueError, TypeError):  # none yet, or damaged
        known = SharedRows(folder=folder, **read_json_file(meta_file))
        if known.wish == wish and known.key == _key(folder):
            return known
    meta_file.unlink(missing_ok=True)  # until both files are there again
    bad: list[BadRow] = []
    train = _read(entry.train, entry, bad)
    parts = find_parts(entry.train, data_options(entry)) if entry.eval is None else None
    part = None if parts is None else parts.validation
    if entry.eval is None and part is None:
        ids = np.unique([example.label for example in train], return_inverse=True)[1]
        words = Words([f"{example.text} {example.text_pair or ''}" for example in train])
        split = hold_out(words, ids, grid.holdout, MAX_HOLDOUT, np.random.default_rng([SEED, 0]))
        train, evaluation = ([train[i] for i in rows] for rows in split)
    else:
        evaluation = _read(entry.eval or entry.train, entry, bad, part)
        names = sorted({example.label for example in train})
        places = find_labels({example.label for example in evaluation}, names, entry.merge_labels)
        spelling = {name: names[place] for name, place in places.items()}
        evaluation = [one._replace(label=spelling.get(one.label, one.label)) for one in evaluation]
    train, evaluation = _draw(train, n_train, 1), _draw(evaluation, n_eval, 2)
    labels = {example.label for example in train}
    if len(labels) < 2 or not evaluation:
        raise DataError(
            f"{entry.name}: {len(train)} training rows with {len(labels)} labels and {len(evaluation)} "
            "evaluation rows are left; at least 2 labels and 1 evaluation row are needed. Use more rows."
        )
    if strange := {example.label for example in evaluation} - labels:
        label = brief(sorted(strange)[0])
        raise DataError(
            f"{entry.name}: no training row has the label {label!r}, which evaluation rows have; use more "
            "rows."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, examples in zip(FILES, (train, evaluation), strict=True):
        write_atomic(folder / name, "".join(map(_json_line, examples)))
    rows = SharedRows(
        folder=folder,
        name=entry.name,
        n_train=len(train),
        n_eval=len(evaluation),
        labels=tuple(sorted(labels)),
        key=_key(folder),
        pair=entry.pair,
        n_bad=len(bad),
        wish=wish,
    )
    write_atomic(meta_file, rows.model_dump_json(indent=2) + "\n")
    return rows


def _read(path: str, entry: DataEntry, bad: list[BadRow], part: str | None = None) -> list[Example]:
    options = dataclasses.replace(data_options(entry), part=part)
    found = list(read_examples(path, options, bad.append))
    if found and found[0].several is not None:
        raise UsageError(
            f"compare is for one label a row, and rows of {path} may have several; with --single-label such "
            "rows are left out."
        )
    return found


def _json_line(example: Example) -> str:
    pair = {} if example.text_pair is None else {"text_pair": example.text_pair}
    return json.dumps({"text": example.text, "label": example.label, **pair}, ensure_ascii=False) + "\n"


def _content(path: str) -> str:
    """Return a hash of a file's bytes, so that changed labels are noticed; of other data its name alone."""
    if not Path(path).is_file():
        return path
    with reading_errors(Path(path)):
        return file_sha256(Path(path))


def _draw(examples: list[Example], n_rows: int | None, purpose: int) -> list[Example]:
    """Draw rows without replacement; in their order in the file."""
    if n_rows is None or n_rows >= len(examples):
        return examples
    rng = np.random.default_rng([SEED, purpose])
    return [examples[i] for i in np.sort(rng.choice(len(examples), n_rows, replace=False))]


def _key(folder: Path) -> str:
    """Return a short hash of each file of rows, end to end."""
    return "".join(hashlib.sha256((folder / name).read_bytes()).hexdigest()[:16] for name in FILES)
