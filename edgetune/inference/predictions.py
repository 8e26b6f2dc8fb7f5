"""Predictions as rows: from a file or lines, to the terminal, CSV or JSONL; in constant memory."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import Any

from edgetune.data.examples import DataOptions, read_texts
from edgetune.inference.saved_run import Prediction, Run
from edgetune.run_files.run_folder import disk_errors
from edgetune.utils.errors import UsageError
from edgetune.utils.files import atomic_path
from edgetune.utils.limits import MAX_LINE_CHARS
from edgetune.utils.sanitize import brief, csv_row, json_text

SHOWN = 72  # characters of a text that the terminal shows


@dataclass(frozen=True, slots=True)
class Row:
    """A text (or pair), the line it came from, and its prediction."""

    line: int
    text: str
    pair: str | None
    prediction: Prediction

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON and CSV."""
        first = {"text": self.text} if self.pair is None else {"text": self.text, "text_pair": self.pair}
        return {**first, "label": self.prediction.label, "probability": self.prediction.probability}


def predict_lines(run: Run, texts: Iterable[str]) -> Iterator[Row]:
    """Predict texts as they come; empty ones are left out.

    Raises:
        UsageError: a text holds bytes that are no UTF-8.
    """
    yield from _rows(run, ((n, _decoded(n, text), None) for n, text in enumerate(texts, 1) if text.strip()))


def _decoded(number: int, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"Text {number} contains bytes that are not valid UTF-8; encode it as UTF-8."
        ) from error
    return text


def stdin_lines() -> Iterator[str]:
    """Yield the lines of the standard input; bytes that are no UTF-8 become lone surrogates.

    Raises:
        UsageError: a line is longer than any text.
    """
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    number = 0
    while line := sys.stdin.readline(MAX_LINE_CHARS + 1):
        number += 1
        if len(line) > MAX_LINE_CHARS:
            raise UsageError(f"Line {number} of the input is longer than {MAX_LINE_CHARS:,} characters.")
        yield line.rstrip("\n")


def predict_file(run: Run, path: str, options: DataOptions) -> Iterator[Row]:
    """Predict every text of a file; its columns are those of training unless others are given."""
    trained = run.data_options()
    if not options.text and trained.text:
        options = DataOptions(
            text=trained.text,
            label=None,
            header=options.header,
            encoding=options.encoding,
            delimiter=options.delimiter,
            pair=options.pair or trained.pair,
        )
    yield from _rows(run, read_texts(path, options))


def _rows(run: Run, texts: Iterable[tuple[int, str, str | None]]) -> Iterator[Row]:
    ours, theirs = tee(texts)
    predictions = run.predict_all(text if pair is None else (text, pair) for _, text, pair in theirs)
    for prediction, (line, text, pair) in zip(predictions, ours, strict=False):
        yield Row(line, text, pair, prediction)


def print_predictions(rows: Iterable[Row], as_json: bool) -> None:
    """Print label, probability and text, a line each."""
    for row in rows:
        if as_json:
            found = {**row.to_dict(), "probabilities": row.prediction.probabilities}
            print(json_text(found))
        else:
            text = row.text if row.pair is None else f"{row.text} | {row.pair}"
            label = brief(row.prediction.label)
            print(f"{label:<16} {row.prediction.probability:.3f}  {brief(text, SHOWN)}")


def write_predictions(rows: Iterable[Row], out: Path) -> int:
    """Write predictions as CSV or JSONL under a temporary name, then rename.

    In CSV a text that a spreadsheet would take for a formula gets an apostrophe; labels, which other programs
    compare, are written as they are, and JSONL has everything as it is.

    Raises:
        UsageError: the name ends in neither .csv nor .jsonl.
    """
    if out.suffix not in (".csv", ".jsonl"):
        raise UsageError(f"--out {out}: the file name must end in .csv or .jsonl.")
    n_written = 0
    with (
        disk_errors(out),
        atomic_path(out) as scratch,
        scratch.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file)
        for n_written, row in enumerate(rows, 1):
            found = row.to_dict()
            if out.suffix == ".jsonl":
                found["probabilities"] = row.prediction.probabilities
                file.write(json.dumps(found, ensure_ascii=False) + "\n")
                continue
            if n_written == 1:
                writer.writerow(found)
            writer.writerow(csv_row(found))
    return n_written
