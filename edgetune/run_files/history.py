"""The append-only record of a run, `history.jsonl`: one JSON object a line, written as it happens.

    stage  t_s stage n_seen reason                          the selector entered a stage
    step   t_s step epoch stage lr loss n width             one optimizer update (loss: mean over its n rows,
           n_seen n_scored n_trained train_s                width: padded tokens), totals after it
           n_skipped_backward n_skipped_both
    skip   t_s stage n_seen n_scored n_trained              a stream batch that skipped rows and made no step
           n_skipped_backward n_skipped_both
    eval   t_s epoch accuracy macro_f1 loss n       and micro_f1, where a row may have several labels
    note   t_s …                                            anything else worth keeping

A number that is not finite is written as null, so that every line is valid JSON. Totals are derived by
whoever reads; nothing is stored twice.

The file stays small however long a run is: of the lines `step` and `skip` the first 40,000 are all written,
then one in two, after 80,000 one in four, and so on: 20,000 for each doubling of a run, some 5 MB.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from edgetune.run_files.counters import Counters
from edgetune.utils.errors import RunError
from edgetune.utils.limits import MAX_HISTORY_BYTES, MAX_HISTORY_LINE_BYTES, MAX_HISTORY_LINES
from edgetune.utils.metrics import Evaluation
from edgetune.utils.multi_label import micro_f1
from edgetune.utils.parsing import decode_json

FIGURES = ("t_s", "loss", "accuracy", *Counters().totals())
LARGEST = 1e18  # of a figure: no run has more rows or seconds
KINDS = frozenset({"stage", "step", "skip", "eval", "note"})
FREQUENT = ("step", "skip")
PER_DOUBLING = 20_000
"""Frequent lines that are written each time that their number has doubled."""


class HistoryWriter(AbstractContextManager["HistoryWriter"]):
    """Appends lines to a history; each is on its way to disk, whole, when `append` returns."""

    def __init__(self, path: Path, observer: Callable[[dict[str, Any]], None] = lambda fields: None) -> None:
        """Cut off a torn last line, if a killed process left one; `observer` gets the fields of each line."""
        self.path, self._observer = path, observer
        self._n_frequent = 0
        _drop_torn_line(path)
        self._file = path.open("ab", buffering=0)

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append_evaluation(self, t_s: float, epoch: int, found: Evaluation) -> None:
        """Write the figures of an evaluation, made after a pass `t_s` seconds after the start."""
        several = {} if (f1 := micro_f1(found)) is None else {"micro_f1": f1}
        self.append(
            kind="eval",
            t_s=t_s,
            epoch=epoch,
            accuracy=found.accuracy,
            macro_f1=found.macro_f1,
            loss=found.loss,
            n=found.n,
            **several,
        )

    def append(self, /, **fields: Any) -> None:
        """Write one line; `kind` (one of `KINDS`) and `t_s` (seconds since the start) are needed."""
        if fields.get("kind") not in KINDS:
            raise ValueError(f"kind is {fields.get('kind')!r}, not one of {', '.join(sorted(KINDS))}")
        if "t_s" not in fields:
            raise ValueError(f"a {fields['kind']} line needs t_s")
        if fields["kind"] in FREQUENT:
            self._n_frequent += 1
            if self._n_frequent % stride(self._n_frequent):
                return
        line = to_json(fields, inf_nan_mode="null", fallback=lambda value: value.tolist())  # of numpy
        self._file.write(line + b"\n")
        self._observer(fields)

    def state(self) -> dict[str, int]:
        """Wait until every line is on the disk; return where the history ends."""
        os.fsync(self._file.fileno())
        return {"n_bytes": os.fstat(self._file.fileno()).st_size, "n_frequent": self._n_frequent}

    def load_state(self, state: dict[str, int]) -> None:
        """Take back the lines that came after `state()`.

        Raises:
            RunError: the history is shorter, so it is not the one that the state was of.
        """
        if os.fstat(self._file.fileno()).st_size < state["n_bytes"]:
            raise RunError(
                f"{self.path} is shorter than it was at the checkpoint; it was changed or truncated."
            )
        self._file.truncate(state["n_bytes"])
        self._n_frequent = state["n_frequent"]

    def empty(self) -> None:
        """Take back all lines."""
        self.load_state({"n_bytes": 0, "n_frequent": 0})


def stride(number: int) -> int:
    """Return one in how many frequent lines is written at the number-th of them: a power of two."""
    return 1 << max(0, (number // PER_DOUBLING).bit_length() - 1)


def read_history(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a history in order; a torn last line is left out.

    Raises:
        RunError: the file is missing or too large, or a line other than a torn last one is broken.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_HISTORY_BYTES + 1)
    except OSError as error:
        raise RunError(
            f"{path}: the history cannot be read ({error.strerror}); is this a run folder?"
        ) from error
    if len(content) > MAX_HISTORY_BYTES or content.count(b"\n") > MAX_HISTORY_LINES:
        raise RunError(
            f"{path} is too large to plot: a history has at most {MAX_HISTORY_BYTES:,} bytes and "
            f"{MAX_HISTORY_LINES:,} lines"
        )
    *lines, tail = content.split(b"\n")
    if _is_record(tail):
        lines.append(tail)
    return [_parsed(path, number, line) for number, line in enumerate(lines, start=1)]


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    if len(line) > MAX_HISTORY_LINE_BYTES:
        raise RunError(
            f"{path}, line {number}: the line has {len(line):,} bytes; a history line has at most "
            f"{MAX_HISTORY_LINE_BYTES:,}"
        )
    try:
        record: Any = decode_json(line.decode())
    except ValueError as error:
        raise RunError(
            f"{path}, line {number}: not a JSON object ({error}); delete the line, or run again"
        ) from error
    if not isinstance(record, dict) or not _is_line(record):
        raise RunError(
            f"{path}, line {number}: not a history record (an object with kind and t_s and numeric "
            "values); it was edited by hand or written by another version of edgetune"
        )
    return record


def _is_line(record: dict[str, Any]) -> bool:
    """Whether an object is what `append` writes, as far as its readers rely on it."""
    figures = [record.get(name) for name in FIGURES]
    return (
        str(record.get("kind")) in KINDS
        and isinstance(record.get("t_s"), int | float)
        and all(
            value is None or (isinstance(value, int | float) and abs(value) < LARGEST) for value in figures
        )
        and (record["kind"] != "stage" or isinstance(record.get("stage"), str))
    )


def _is_record(tail: bytes) -> bool:
    """Tell whether what follows the last newline is a whole line that merely lost its newline."""
    try:
        return len(tail) <= MAX_HISTORY_LINE_BYTES and isinstance(decode_json(tail.decode()), dict)
    except ValueError:
        return False


def _drop_torn_line(path: Path) -> None:
    """Make a history end in a newline: complete the last line if it is whole, cut it off if not."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        content = file.read()
        head, newline, tail = content.rpartition(b"\n")
        if _is_record(tail):
            file.write(b"\n")
        elif tail:
            file.truncate(len(head) + len(newline))
