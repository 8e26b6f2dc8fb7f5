"""What a finished run says of its training rows: likely mislabelled, most skipped, most trained.

rows.npz (counts, losses) + the training file ─→ `Finding`s, the worst first ─→ terminal, CSV, map
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgetune.data.examples import read_examples
from edgetune.data.splits import data_options
from edgetune.inference.saved_run import load_run
from edgetune.run_files.example_stats import ExampleStats, load_example_stats
from edgetune.utils.errors import RunError, UsageError
from edgetune.utils.types import FloatArray, IntArray

KINDS = ("mislabelled", "skipped", "trained")


@dataclass(frozen=True, slots=True)
class InspectedRow:
    """One training row, and what happened to it.

    Attributes:
        kind: of `KINDS`.
        rank: from 1, the most telling first.
        line: of the training file.
        label: as in the file.
        text: of the row; a pair is joined by ` | `.
        mean_loss: nats, over the times it was measured; None where it never was.
        confidence: mean probability that the model gave its label; None as above.
        n_measured, n_seen, n_scored, n_trained: how often.
    """

    kind: str
    rank: int
    line: int
    label: str
    text: str
    mean_loss: float | None
    confidence: float | None
    n_measured: int
    n_seen: int
    n_scored: int
    n_trained: int


def inspect_run(folder: Path, n_rows: int = 20) -> tuple[ExampleStats, list[InspectedRow]]:
    """Read a run's record and find its most telling rows.

    Args:
        folder: of the run.
        n_rows: of each kind, at most.

    Raises:
        RunError: there is no record, or the training file is not what it was.
        EdgetuneError: the training file cannot be read.
    """
    run = load_run(folder)
    record = load_example_stats(folder)
    config = run.config
    if config is None:
        raise RunError(f"{folder} has no config.toml, so its training rows cannot be found.")
    chosen = {kind: rank_rows(record, kind)[:n_rows] for kind in KINDS}
    wanted = {int(row) for rows in chosen.values() for row in rows}
    texts: dict[int, tuple[int, str, str]] = {}
    n_read = 0
    for example in read_examples(config.data.train, data_options(config.data), lambda bad: None):
        if n_read in wanted:
            text = example.text if example.text_pair is None else f"{example.text} | {example.text_pair}"
            texts[n_read] = (example.line, example.label, text)
        n_read += 1
    if n_read != len(record):
        raise UsageError(
            f"{config.data.train} now has {n_read:,} usable rows, but it had {len(record):,} when {folder} "
            "was trained; restore the old file, or train again."
        )
    return record, [
        _finding(record, kind, rank, int(row), texts[int(row)])
        for kind, rows in chosen.items()
        for rank, row in enumerate(rows, 1)
    ]


def rank_rows(record: ExampleStats, kind: str) -> IntArray:
    """Return row numbers, the most telling first.

    `mislabelled`: never answered right, the highest mean loss first. `skipped`: seen more often than
    trained, the largest difference first, then the lowest loss. `trained`: more often than others, then the
    highest loss.
    """
    loss: FloatArray = np.nan_to_num(record.mean_loss(), nan=-1.0)
    if kind == "mislabelled":
        suspects = np.flatnonzero(record.known & (record.n_right == 0))
        return suspects[np.argsort(-loss[suspects], kind="stable")]
    if kind == "skipped":
        skipped = record.n_seen - record.n_trained
        rows = np.flatnonzero(skipped > 0)
        return rows[np.lexsort((loss[rows], -skipped[rows]))]
    seen = record.n_trained[record.n_seen > 0]
    if not len(seen):
        return np.zeros(0, dtype=np.int64)
    rows = np.flatnonzero(record.n_trained > max(1, int(np.median(seen))))
    return rows[np.lexsort((-loss[rows], -record.n_trained[rows]))]


def _finding(
    record: ExampleStats, kind: str, rank: int, row: int, words: tuple[int, str, str]
) -> InspectedRow:
    known = bool(record.n_measured[row])
    return InspectedRow(
        kind=kind,
        rank=rank,
        line=words[0],
        label=words[1],
        text=words[2],
        mean_loss=float(record.sum_loss[row] / record.n_measured[row]) if known else None,
        confidence=float(record.sum_p[row] / record.n_measured[row]) if known else None,
        n_measured=int(record.n_measured[row]),
        n_seen=int(record.n_seen[row]),
        n_scored=int(record.n_scored[row]),
        n_trained=int(record.n_trained[row]),
    )


def as_table(findings: Sequence[InspectedRow]) -> list[dict[str, Any]]:
    """Return findings as rows of plain values, in the order of their columns."""
    return [{name: getattr(one, name) for name in InspectedRow.__dataclass_fields__} for one in findings]
