"""Names and contents of the files of a token cache."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

CACHE_VERSION = 9
BAD_ROWS, META = "bad_rows.jsonl", "meta.json"
PAIR_SEPARATOR = "\x1f"
"""Between the two texts of a pair in texts.bin."""


def text_or_pair(text: str, text_pair: str | None) -> str | tuple[str, str]:
    """Return a row's text, or both of a pair, as models take them."""
    return text if text_pair is None else (text, text_pair)


def shown_text(text: str, text_pair: str | None) -> str:
    """Return a row's text, or both of a pair, for display."""
    return text if text_pair is None else f"{text} | {text_pair}"


def joined_text(text: str | tuple[str, str]) -> str:
    """Return a text, or both of a pair, for learners that read words; a separator in one becomes a blank."""
    parts = (text,) if isinstance(text, str) else text
    return PAIR_SEPARATOR.join(part.replace(PAIR_SEPARATOR, " ") for part in parts)


def split_text(text: str) -> str | tuple[str, str]:
    """Return the text, or both of a pair, that `joined_text` was given."""
    first, separator, second = text.partition(PAIR_SEPARATOR)
    return (first, second) if separator else text


@dataclass(frozen=True)
class TokenizerSpec:
    """Which tokenizer to use, and how.

    Attributes:
        path: a `tokenizer.json`.
        max_length: tokens per row at most; longer rows are cut.
        pad_id: token id that fills a padded row.
    """

    path: Path
    max_length: int
    pad_id: int


@dataclass
class Meta:
    """What a cache holds, counted while it is built; the contents of `meta.json`.

    Attributes:
        source: the path that was read.
        n_read: rows read, usable or not.
        bad_reasons: rows that cannot be used or have no label, by reason, most frequent first.
        n_truncated: rows cut to `max_length` tokens.
        n_text_bytes: of all texts, as UTF-8.
        token_dtype: of tokens.bin.
        length_dtype: of first_lengths.bin.
        counts: usable rows by label, in the order of the class ids.
        n_duplicates: rows whose text occurred before.
        n_conflicts: texts with more than one label.
        label_change: says where labels change from numbers to words or back; "" if they do not.
        n_left_out: usable rows that a random sample leaves out.
        n_loose: rows whose quotes had to be guessed.
        first_loose: file and line of the first of them.
        is_cut: whether reading ended before the end of the file, because time had run out.
        guessed_columns: the label column and the text columns, if they were guessed; else empty.
        label_sets: class ids of each set of labels that rows have, if rows may have several; labels.bin then
            holds the numbers of these sets. None: a row has one label.
    """

    version: int
    source: str
    n_read: int = 0
    n_bad: int = 0
    bad_reasons: dict[str, int] = field(default_factory=dict)
    n_truncated: int = 0
    n_tokens: int = 0
    n_text_bytes: int = 0
    max_length: int = 0
    token_dtype: str = ""
    length_dtype: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    n_duplicates: int = 0
    n_conflicts: int = 0
    label_change: str = ""
    n_left_out: int = 0
    n_loose: int = 0
    first_loose: str = ""
    is_cut: bool = False
    n_unlabelled: int = 0
    guessed_columns: list[str] = field(default_factory=list)
    label_sets: list[list[int]] | None = None

    @property
    def n_rows(self) -> int:
        """Usable rows."""
        return self.n_read - self.n_bad - self.n_unlabelled - self.n_left_out

    def layout(self) -> dict[str, tuple[np.dtype[Any], int]]:
        """Return the type and the number of the values in each file."""
        files = {
            "tokens.bin": (self.token_dtype, self.n_tokens),
            "offsets.bin": ("int64", self.n_rows + 1),
            "labels.bin": ("int32", self.n_rows),
            "first_lengths.bin": (self.length_dtype, self.n_rows),
            "hashes.bin": ("uint64", self.n_rows),
            "texts.bin": ("uint8", self.n_text_bytes),
            "text_offsets.bin": ("int64", self.n_rows + 1),
        }
        return {name: (np.dtype(kind), count) for name, (kind, count) in files.items()}
