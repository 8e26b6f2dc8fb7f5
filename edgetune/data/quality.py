"""What may be wrong with labelled text that can be read: repeats, contradictions, rare classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgetune.data.labels import NUMBER, variants
from edgetune.utils.sanitize import brief
from edgetune.utils.types import IntArray

FEW_EXAMPLES = 10  # a class with fewer is warned of
IMBALANCE = 10  # so is a largest class with more than this many times the smallest's rows
_MAX_NAMED = 5
_N_PARTS = 16


@dataclass(frozen=True)
class Repeats:
    """How often texts come again.

    Attributes:
        n_duplicates: rows whose text was there before.
        n_conflicts: different texts that come with more than one label.
    """

    n_duplicates: int
    n_conflicts: int


def count_repeats(hashes: IntArray, labels: IntArray) -> Repeats:
    """Count repeated texts, part by part of the hashes so that the memory for sorting stays small.

    Args:
        hashes: (n,) uint64, contiguous, of the texts.
        labels: (n,) class ids.
    """
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
    """Say that some labels are numbers and others words, as when a file was put together of two.

    Args:
        first_lines: the line where each label came first, in order of appearance.
    """
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


def warning_sentences(
    counts: Mapping[str, int], repeats: Repeats, n_truncated: int, max_length: int
) -> list[str]:
    """Say what a user should look at before training; [] if nothing.

    Args:
        counts: rows per label.
        repeats: how often texts come again.
        n_truncated: rows cut to `max_length`.
        max_length: tokens per row at most.
    """
    n_rows = sum(counts.values())
    found = []
    if repeats.n_duplicates:
        share = repeats.n_duplicates / n_rows
        are = (
            "is a duplicate of an earlier row"
            if repeats.n_duplicates == 1
            else "are duplicates of earlier rows"
        )
        found.append(f"{_rows(repeats.n_duplicates)} ({share:.1%}) {are}.")
    if repeats.n_conflicts:
        n_texts = repeats.n_conflicts
        found.append(
            f"{n_texts:,} {'text appears' if n_texts == 1 else 'texts appear'} with conflicting labels."
        )
    for group in variants(counts)[:_MAX_NAMED]:
        shown = ", ".join(f'"{brief(name)}" ({counts[name]:,})' for name in group)
        found.append(
            f"These labels differ only in spelling, but are {len(group)} classes: {shown}. To train them "
            "as one, use --merge-labels."
        )
    rare = [f'"{brief(name)}" ({count})' for name, count in counts.items() if count < FEW_EXAMPLES]
    if rare:
        more = f" and {len(rare) - _MAX_NAMED} more" if len(rare) > _MAX_NAMED else ""
        found.append(f"Labels with fewer than {FEW_EXAMPLES} rows: {', '.join(rare[:_MAX_NAMED])}{more}.")
    largest = max(counts, key=lambda name: counts[name])
    smallest = min(counts, key=lambda name: counts[name])
    if counts[largest] > IMBALANCE * counts[smallest]:
        found.append(
            f'The labels are strongly imbalanced: "{brief(largest)}" has {_rows(counts[largest])}, '
            f'"{brief(smallest)}" has {counts[smallest]:,}.'
        )
    if n_truncated:
        were = "was" if n_truncated == 1 else "were"
        found.append(
            f"{_rows(n_truncated)} ({n_truncated / n_rows:.1%}) {were} truncated to {max_length} tokens."
        )
    return found


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"
