"""A uniform sample of the rows of a file that is too large to be tokenized in time.

    examples ─┬─→ reservoir ───────────────────┬─→ in the file's order ─→ tokenizer
              └─→ a few rows of every class ───┘

Reading a row costs a fraction of tokenizing it, so every row is read and few are tokenized. The reservoir is
Algorithm L (Li, "Reservoir-sampling algorithms of time complexity O(n(1 + log(N/n)))", TOMS 1994).
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from edgetune.data.examples import Example

CHARS_PER_S, FIRST_CHARS_PER_S, FIRST_S = 165_000, 300_000, 20.0
"""Characters tokenized per second of a deadline, and per second of its first `FIRST_S` seconds, because the
first rows are worth most. Tokenizing takes an eighth of the time at most (Zen 3, two cores: 2.4 to 4 million
characters per second)."""
FEWEST_ROWS, MOST_ROWS = 20_000, 500_000
"""Bounds on the rows of a sample."""
MEASURED_ROWS = 2_000
"""The mean length of this many first rows converts characters to rows."""
READING_RATE = 0.25
"""Share of a deadline after which no more rows are read."""
ROWS_PER_CLASS = 20
MOST_CLASSES = 1_000
CHECK_EVERY = 1_000


@dataclass(frozen=True)
class RowSample:
    """How much of a file is used.

    Attributes:
        n_chars: characters of the rows, by the mean length of the first ones.
        most: rows at most, but for a few more of rare classes.
        seed: decides which.
        out_of_time: asked now and then while rows are read; those that follow are not read.
    """

    n_chars: int
    most: int
    seed: int
    out_of_time: Callable[[], bool] = field(default=lambda: False, compare=False)

    def n_rows(self, first: Sequence[Example]) -> int:
        """Return how many rows are used, given the first rows of the file; 20,000 at least, if allowed."""
        n_chars = sum(len(row.text) + len(row.text_pair or "") for row in first)
        by_length = round(self.n_chars * len(first) / max(1, n_chars))
        return min(self.most, max(FEWEST_ROWS, by_length))


def sample_for(
    deadline_s: float | None, seed: int, elapsed_s: Callable[[], float], most: int = MOST_ROWS
) -> RowSample | None:
    """Return the sample that a deadline allows; None without one."""
    if deadline_s is None:
        return None
    first_s = min(deadline_s, FIRST_S)
    n_chars = round(FIRST_CHARS_PER_S * first_s + CHARS_PER_S * (deadline_s - first_s))
    return RowSample(n_chars, min(most, MOST_ROWS), seed, lambda: elapsed_s() > READING_RATE * deadline_s)


class Sampled(NamedTuple):
    """What was drawn, in the file's order, of how many usable rows, and whether time ran out before."""

    examples: list[Example]
    n_seen: int
    is_cut: bool


def draw_sample(examples: Iterable[Example], sample: RowSample, progress: Callable[[int], None]) -> Sampled:
    """Draw rows, each with the same probability, and some of every class where classes are few."""
    rng = random.Random(sample.seed)
    drawn: list[tuple[int, Example]] = []
    of_class: dict[str, list[tuple[int, Example]]] = {}
    counts: dict[str, int] = {}
    source = iter(examples)
    first = list(itertools.islice(source, MEASURED_ROWS))
    n_seen, n_rows, is_cut = 0, sample.n_rows(first), False
    share, following = 1.0, 0
    for number, example in enumerate(itertools.chain(first, source)):
        n_seen += 1
        if number < n_rows:
            drawn.append((number, example))
            if number + 1 == n_rows:
                share, following = _skip(rng, share, number, n_rows)
        elif number == following:
            drawn[rng.randrange(n_rows)] = (number, example)
            share, following = _skip(rng, share, number, n_rows)
        label = example.label
        count = counts[label] = counts.get(label, 0) + 1
        if count <= ROWS_PER_CLASS:
            if len(counts) <= MOST_CLASSES:
                of_class.setdefault(label, []).append((number, example))
        elif label in of_class and rng.random() * count < ROWS_PER_CLASS:
            of_class[label][rng.randrange(ROWS_PER_CLASS)] = (number, example)
        if n_seen % CHECK_EVERY == 0:
            progress(n_seen)
            if n_seen >= n_rows and sample.out_of_time():
                is_cut = True
                break
    kept = dict(drawn)
    if n_seen > n_rows and len(counts) <= MOST_CLASSES:
        for rows in of_class.values():
            kept.update(rows)
    return Sampled([kept[number] for number in sorted(kept)], n_seen, is_cut)


def _skip(rng: random.Random, share: float, number: int, n_rows: int) -> tuple[float, int]:
    """Return the new share, and the number of the next row to be drawn."""
    share *= math.exp(math.log(1.0 - rng.random()) / n_rows)
    return share, number + 1 + math.floor(math.log(1.0 - rng.random()) / math.log1p(-share))
