"""Predictions as rows: from a file or lines, to the terminal, CSV or JSONL; in constant memory."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import tee
from pathlib import Path
from typing import Any

from edgetune.data.examples import DataOptions, TextRow, TextTable, open_texts
from edgetune.data.token_format import shown_text, text_or_pair
from edgetune.inference.saved_run import Prediction, Run
from edgetune.run_files.run_folder import disk_errors
from edgetune.utils.errors import UsageError
from edgetune.utils.files import atomic_path
from edgetune.utils.limits import MAX_LINE_CHARS
from edgetune.utils.parsing import is_encodable
from edgetune.utils.sanitize import brief, csv_cell, json_text, visible

SHOWN = 72  # characters of a text that the terminal shows
UNSURE = "unsure"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the input and its prediction.

    Attributes:
        line: of the input, from 1.
        values: of the input's columns.
        text: what was classified; a pair is joined by ` | `.
        predicted: a label, `UNSURE`, or None for an empty text; a list of labels where there may be several.
        prediction: what the model says.
    """

    line: int
    values: Sequence[Any]
    text: str
    predicted: str | list[str] | None
    prediction: Prediction

    @property
    def probability(self) -> float | None:
        """Of the most probable label; None for an empty text."""
        return None if self.prediction.label is None else self.prediction.probability


class Predictions:
    """Predictions of an input's rows: one for each, in their order, made as they are taken.

    Attributes:
        columns: of the input.
        label_at: position of the column that holds labels, where the input has one.
        label_names: of the model.
        multi_label: whether a text may have several labels, or none.
        n_rows: taken so far.
        n_empty: of these, rows without a text.
        n_unsure: of these, rows whose prediction is `UNSURE`.
    """

    def __init__(self, run: Run, table: TextTable, unsure: float | None = None) -> None:
        """Predict the rows of a table; `UNSURE` where the probability is below `unsure`.

        Raises:
            UsageError: `unsure` is no probability, or the model has a label of that name.
        """
        if unsure is not None:
            _check_unsure(run, unsure)
        self.multi_label = run.multi_label
        self.columns, self.label_at, self.label_names = table.columns, table.label_at, run.label_names
        self.n_rows = self.n_empty = self.n_unsure = 0
        self._run, self._rows, self._unsure = run, table.rows, unsure

    def __iter__(self) -> Iterator[Row]:
        ours, theirs = tee(self._rows)
        found = self._run.predict_all(text_or_pair(row.text, row.text_pair) for row in theirs)
        for prediction, row in zip(found, ours, strict=False):
            self.n_rows += 1
            predicted: str | list[str] | None = prediction.label
            if predicted is None:
                self.n_empty += 1
            elif self._unsure is not None and prediction.probability < self._unsure:
                self.n_unsure += 1
                predicted = UNSURE
            elif prediction.labels is not None:
                predicted = list(prediction.labels)
            text = shown_text(row.text, row.text_pair)
            yield Row(row.line, row.values, text, predicted, prediction)

    def names(self, *added: str) -> list[str]:
        """Return the names of the output's columns: the line, the input's columns, then `added`.

        A name that is there already gets a number: the input keeps its own.
        """
        taken: set[str] = set()
        kept = [free_name(name, taken) for name in self.columns]
        return [free_name("line", taken), *kept, *(free_name(name, taken) for name in added)]

    @property
    def added(self) -> tuple[str, ...]:
        """Columns that say what was predicted; of several labels, each has its own probability."""
        return ("predicted",) if self.multi_label else ("predicted", "probability")

    def notes(self) -> list[str]:
        """Say how many rows have no label, and whether the output's columns have unusual names."""
        found = []
        if self.n_empty:
            are = "is empty and has" if self.n_empty == 1 else "are empty and have"
            found.append(f"{self.n_empty:,} of {self.n_rows:,} texts {are} no prediction.")
        if self._unsure is not None:
            found.append(
                f'The prediction is "{UNSURE}" for {self.n_unsure:,} of {self.n_rows:,} texts, whose '
                f"probability is below {self._unsure:g}."
            )
        n_added = len(self.added)
        pairs = zip(self.added, self.names(*self.added)[-n_added:], strict=True)
        renamed = [f'"{name}" is "{new}"' for name, new in pairs if name != new]
        if renamed:
            found.append(
                f"The input has columns of the same names: of this prediction, {', '.join(renamed)}."
            )
        return found


def _check_unsure(run: Run, unsure: float) -> None:
    if not 0 <= unsure <= 1:
        raise UsageError(f"--unsure {unsure}: give a probability between 0 and 1, such as 0.6.")
    if run.multi_label:
        raise UsageError(
            "--unsure cannot be used where a text may have several labels, or none: none is predicted if "
            "no probability reaches its threshold."
        )
    if UNSURE in run.label_names:
        raise UsageError(f'The model has a label "{UNSURE}", so --unsure cannot be used with it.')


def free_name(name: str, taken: set[str]) -> str:
    """Return a name that is not taken, with a number where it would be; take it."""
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    taken.add(free)
    return free


def predict_lines(run: Run, texts: Iterable[str], unsure: float | None = None) -> Predictions:
    """Predict texts as they come.

    Raises:
        UsageError: a text holds bytes that are no UTF-8; `unsure` as of `Predictions`.
    """
    rows = (TextRow(n, _decoded(n, text).strip(), None, (text,)) for n, text in enumerate(texts, 1))
    return Predictions(run, TextTable(("text",), rows), unsure)


def _decoded(number: int, text: str) -> str:
    if not is_encodable(text):
        raise UsageError(f"Text {number} contains bytes that are not valid UTF-8; encode it as UTF-8.")
    return text


def stdin_lines() -> Iterator[str]:
    """Yield the lines of the standard input; bytes that are no UTF-8 become lone surrogates.

    Raises:
        UsageError: a line is longer than any text.
    """
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    lines = iter(lambda: sys.stdin.readline(MAX_LINE_CHARS + 1), "")
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_LINE_CHARS:
            raise UsageError(f"Line {number} of the input is longer than {MAX_LINE_CHARS:,} characters.")
        yield line.rstrip("\n")


def predict_file(run: Run, path: str, options: DataOptions, unsure: float | None = None) -> Predictions:
    """Predict every row of a file; its columns are those of training unless others are given."""
    trained = run.data_options()
    options = replace(
        options,
        text=options.text or trained.text,
        label=trained.label,
        pair=options.pair or (trained.pair and len(options.text) in (0, 2)),
    )
    return Predictions(run, open_texts(path, options), unsure)


def print_predictions(predictions: Predictions, as_json: bool) -> None:
    """Print label, probability and text, a line each; or a JSON object each."""
    names = predictions.names(*predictions.added, "probabilities")
    for row in predictions:
        if as_json:
            print(json_text(_as_object(names, row)))
        else:
            labels = [row.predicted] if isinstance(row.predicted, str) else row.predicted or []
            label = "(empty)" if row.predicted is None else ", ".join(map(brief, labels)) or "(no label)"
            chances = [row.prediction.probabilities.get(name, row.probability) for name in labels]
            probability = ", ".join(f"{chance:.3f}" for chance in chances) or "-"
            print(f"{label:<16} {probability:<5}  {brief(row.text, SHOWN)}".rstrip())


def write_predictions(predictions: Predictions, out: Path, all_classes: bool = False) -> None:
    """Write predictions as CSV or JSONL under a temporary name, then rename.

    In CSV a text that a spreadsheet would take for a formula gets an apostrophe; labels, which other programs
    compare, are written as they are, and JSONL has everything as it is. `all_classes` gives CSV a column for
    each class; JSONL has the probabilities of all anyway.

    Raises:
        UsageError: the name ends in neither .csv nor .jsonl.
    """
    if out.suffix not in (".csv", ".jsonl"):
        raise UsageError(f"--out {out}: the file name must end in .csv or .jsonl.")
    with (
        disk_errors(out),
        atomic_path(out) as scratch,
        scratch.open("w", encoding="utf-8", newline="") as file,
    ):
        if out.suffix == ".jsonl":
            names = predictions.names(*predictions.added, "probabilities")
            file.writelines(json_text(_as_object(names, row)) + "\n" for row in predictions)
            return
        several = predictions.multi_label
        classes = predictions.label_names if all_classes or several else ()
        names = predictions.names(*predictions.added, *(f"probability_{name}" for name in classes))
        known, label_at = set(predictions.label_names), predictions.label_at
        writer = csv.writer(file)
        writer.writerow(map(csv_cell, names))
        for row in predictions:
            of_classes = (row.prediction.probabilities.get(name) for name in classes)
            cells = [csv_value(value) for value in row.values]
            if label_at is not None and (label := str(row.values[label_at])) in known:
                cells[label_at] = visible(label)
            predicted = row.predicted
            if predicted is not None:
                predicted = visible(predicted) if isinstance(predicted, str) else json_text(predicted)
            best = () if several else (row.probability,)
            writer.writerow([row.line, *cells, predicted, *best, *of_classes])


def _as_object(names: Sequence[str], row: Row) -> dict[str, Any]:
    predicted = (row.predicted, row.probability)[: len(names) - len(row.values) - 2]
    values = (row.line, *row.values, *predicted, row.prediction.probabilities)
    return {name: _plain(value) for name, value in zip(names, values, strict=True)}


def _plain(value: Any) -> Any:
    """Return a value of the input as JSON has it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) else str(value)
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value)


def csv_value(value: Any) -> Any:
    """Return a value of the input as a cell: a list or an object as JSON."""
    plain = _plain(value)
    return csv_cell(json_text(plain) if isinstance(plain, dict | list) else plain)
