"""What may be wrong with labelled text that can be read: repeats, contradictions, rare classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from edgetune.data.labels import NUMBER, SEPARATORS, variants
from edgetune.data.table import excerpt_of
from edgetune.utils.errors import DataError
from edgetune.utils.formatting import counted
from edgetune.utils.limits import MAX_LABELS
from edgetune.utils.sanitize import brief
from edgetune.utils.types import IntArray

FEW_EXAMPLES = 10  # classes with fewer are named in a warning
IMBALANCE = 10  # a warning is given if the largest class has more than this many times the smallest's rows
MEND_RATE = 0.01  # the share of rows from which on a fault should be mended
_MAX_NAMED = 5
_N_PARTS = 16
_MANY_NUMBERS = 20
"""This many distinct labels are not categories if most rows have their own, or if they have fractions."""


class DataFinding(NamedTuple):
    """What a user should know about labelled text.

    Attributes:
        text: one sentence or two, with counts.
        mend: whether the data should be mended before training.
    """

    text: str
    mend: bool = False


def by_importance(findings: Iterable[DataFinding]) -> list[DataFinding]:
    """Return findings, first those that should be mended."""
    return sorted(findings, key=lambda finding: not finding.mend)


def check_label_count(source: str, n_labels: int, label: str) -> None:
    """Refuse more labels than a classifier can have."""
    if n_labels > MAX_LABELS:
        raise DataError(
            f"{source} has more than {MAX_LABELS:,} different labels, such as "
            f'"{excerpt_of(label)}"; check that --label names the right column.'
        )


class Repeats(NamedTuple):
    """How many rows repeat an earlier text, and how many texts come with more than one label."""

    n_duplicates: int
    n_conflicts: int


def count_repeats(hashes: IntArray, labels: IntArray) -> Repeats:
    """Count repeats by the hashes (n,) uint64 of texts, in parts so that memory for sorting stays small."""
    parts = hashes.view(np.uint8)[::8] % _N_PARTS
    n_different = n_conflicts = 0
    for part in range(_N_PARTS):
        chosen = np.flatnonzero(parts == part)
        if not len(chosen):
            continue
        ordered, by_text = hashes[chosen], labels[chosen]
        order = np.argsort(ordered)
        ordered, by_text = ordered[order], by_text[order]
        starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
        lowest, highest = np.minimum.reduceat(by_text, starts), np.maximum.reduceat(by_text, starts)
        n_different += len(starts)
        n_conflicts += int(np.count_nonzero(lowest != highest))
    return Repeats(len(hashes) - n_different, n_conflicts)


def mixed_label_kinds(first_lines: Mapping[str, int]) -> str | None:
    """Say that some labels are numbers and others words, as in a file that was combined from two."""
    numbers = [name for name in first_lines if NUMBER.fullmatch(name)]
    words = [name for name in first_lines if not NUMBER.fullmatch(name)]
    if not numbers or not words:
        return None
    kinds = ((numbers[0], "numbers"), (words[0], "words"))
    (one, were), (other, are) = sorted(kinds, key=lambda kind: first_lines[kind[0]])
    return (
        f'The labels change from {were} ("{brief(one)}") to {are} ("{brief(other)}", first on line '
        f"{first_lines[other]:,}). If a class is written in two ways, make its labels consistent."
    )


def uncategorical_labels(source: str, counts: Mapping[str, int]) -> str | None:
    """Say that labels cannot be learned, as most rows have one of their own; None if they can."""
    names, n_rows = list(counts), sum(counts.values())
    numbers = [name for name in names if NUMBER.fullmatch(name)]
    shown = ", ".join(f'"{brief(name)}"' for name in names[:3])
    counted = f"The {n_rows:,} rows of {source} have {len(names):,} different labels ({shown}, …)"
    if len(numbers) == len(names) >= _MANY_NUMBERS and (
        len(names) > n_rows / 2 or sum("." in name for name in numbers) >= _MANY_NUMBERS
    ):
        return (
            f"{counted}; that looks like a number, not a category. Check that --label names the right "
            "column, or replace the numbers by a few ranges."
        )
    if len(names) == n_rows or (len(names) >= _MANY_NUMBERS and len(names) > n_rows / 2):
        return (
            f"{counted}; too few rows of each to train and to evaluate on. Check that --label names the "
            "right column."
        )
    return None


def label_findings(
    counts: Mapping[str, int], repeats: Repeats, n_truncated: int, max_length: int, n_rows: int | None = None
) -> list[DataFinding]:
    """Say what a user should look at before training; [] if nothing.

    Args:
        counts: rows per label.
        repeats: how often texts are repeated.
        n_truncated: rows cut to `max_length`.
        max_length: tokens per row at most.
        n_rows: labelled rows, if rows may have several labels; None: a row has one.
    """
    one_each = n_rows is None
    n_rows = sum(counts.values()) if n_rows is None else n_rows
    found = []

    def add(text: str, mend: bool = False) -> None:
        found.append(DataFinding(text, mend))

    if n_again := repeats.n_duplicates:
        are = "is a duplicate of an earlier row" if n_again == 1 else "are duplicates of earlier rows"
        add(f"{counted(n_again, 'row')} ({n_again / n_rows:.1%}) {are}.")
    if n_texts := repeats.n_conflicts:
        appear = counted(n_texts, "text appears", "texts appear")
        add(f"{appear} with conflicting labels.", n_texts >= MEND_RATE * n_rows)
    for group in variants(counts)[:_MAX_NAMED]:
        shown = ", ".join(f'"{brief(name)}" ({counts[name]:,})' for name in group)
        text = f"These labels differ only in spelling, but are {len(group)} classes: {shown}. To train them "
        add(f"{text}as one, use --merge-labels.", mend=True)
    if one_each and (mark := separator_of(counts)) is not None:
        text = f'Labels with "{mark}" in them look like several each; use --multi-label to train them so.'
        add(text, mend=True)
    if rare := [f'"{brief(name)}" ({count})' for name, count in counts.items() if count < FEW_EXAMPLES]:
        more = f" and {len(rare) - _MAX_NAMED} more" if len(rare) > _MAX_NAMED else ""
        text = f"Labels with fewer than {FEW_EXAMPLES} rows: {', '.join(rare[:_MAX_NAMED])}{more}."
        add(text, mend=True)
    largest, smallest = (find(counts, key=lambda name: counts[name]) for find in (max, min))
    if counts[largest] > IMBALANCE * counts[smallest]:
        rows = counted(counts[largest], "row")
        text = f'The labels are strongly imbalanced: "{brief(largest)}" has {rows}, '
        add(f'{text}"{brief(smallest)}" has {counts[smallest]:,}.')
    if n_truncated:
        were = "was" if n_truncated == 1 else "were"
        share = n_truncated / n_rows
        add(f"{counted(n_truncated, 'row')} ({share:.1%}) {were} truncated to {max_length} tokens.")
    return found


def labels_per_row_findings(n_labels: Mapping[int, int]) -> list[DataFinding]:
    """Say what is unusual about rows, given by number of labels, that may have several; [] if nothing."""
    n_rows, n_without = sum(n_labels.values()), n_labels.get(0, 0)
    if n_labels.get(1) == n_rows:
        text = (
            "No row has several labels, or none; remove --multi-label, or separate the labels of a cell by "
            f"one of {' '.join(SEPARATORS)}."
        )
        return [DataFinding(text, mend=True)]
    have = counted(n_without, "row has", "rows have")
    return [DataFinding(f"{have} no label set ({n_without / n_rows:.1%}).")] if n_without else []


def separator_of(counts: Mapping[str, int]) -> str | None:
    """Return the separator of several labels that are written as one; None if none seem to be.

    If labels are combined, most of their parts occur again, and some of them alone.
    """
    for mark in SEPARATORS:
        several = [name.split(mark) for name in counts if mark in name]
        parts = {part.strip() for name in several for part in name}
        if len(several) > 1 and len(parts) < len(counts) and not parts.isdisjoint(counts):
            return mark
    return None


def reading_findings(
    guessed_columns: Sequence[str], label_change: str, n_loose: int, first_loose: str
) -> list[DataFinding]:
    """Say what was guessed while rows were read; [] if nothing."""
    found = []
    if guessed_columns:
        label, *texts = (f'"{brief(name)}"' for name in guessed_columns)
        text = (
            f"The text was taken from column {' and '.join(texts)}, the label from column {label}: a guess."
        )
        found.append(DataFinding(f"{text} Specify them with --text and --label."))
    if label_change:
        found.append(DataFinding(label_change, mend=True))
    if n_loose:
        text = (
            f"{counted(n_loose, 'row has', 'rows have')} stray quotes and may be read wrongly (the first is "
            f"{first_loose}); double these quotes, or set --escape if backslashes escape quotes in this file."
        )
        found.append(DataFinding(text, mend=True))
    return found


def overlap_findings(train: IntArray, evaluation: IntArray) -> list[DataFinding]:
    """Say how many of the evaluation texts are also training texts, by hashes (n,) of both; [] if none."""
    n_same, n_rows = int(np.isin(evaluation, train).sum()), len(evaluation)
    if not n_same:
        return []
    are = "is also a training text" if n_same == 1 else "are also training texts"
    text = f"{n_same:,} of {counted(n_rows, 'evaluation text')} {are}; "
    return [DataFinding(f"{text}the reported accuracy will be too optimistic.", n_same >= MEND_RATE * n_rows)]
