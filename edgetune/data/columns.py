"""Which columns hold the text and the label: by the user's word, else by their usual names."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from edgetune.utils.errors import UsageError
from edgetune.utils.sanitize import brief

# The first entry whose names are all there wins. Pairs come first: "sentence" may be half of one.
TEXT_NAMES: tuple[tuple[str, ...], ...] = (
    ("text",),
    ("question", "sentence"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("sentence_a", "sentence_b"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("title", "content"),
    ("title", "description"),
    ("title", "body"),
    ("title", "review"),
    ("subject", "body"),
    ("subject", "message"),
    ("sentence",),
    ("review",),
    ("review_text",),
    ("review_body",),
    ("content",),
    ("comment",),
    ("comment_text",),
    ("body",),
    ("message",),
    ("description",),
    ("tweet",),
    ("utterance",),
    ("question",),
    ("query",),
    ("document",),
    ("article",),
    ("abstract",),
    ("headline",),
    ("title",),
)
LABEL_NAMES: tuple[str, ...] = (
    "label",
    "labels",
    "sentiment",
    "category",
    "class",
    "target",
    "intent",
    "is_duplicate",
    "stars",
    "rating",
    "gold_label",
    "label_text",
    "class_index",
    "class index",
    "polarity",
    "emotion",
    "topic",
    "tag",
    "y",
)
_OTHER_NAMES = ("id", "idx", "index", "qid1", "qid2", "guid", "date", "user", "score", "source", "split")
KNOWN_NAMES = frozenset(name for names in TEXT_NAMES for name in names) | {*LABEL_NAMES, *_OTHER_NAMES}

_MAX_LISTED = 20
_SHORT = 21  # characters of a value


@dataclass(frozen=True)
class Columns:
    """Positions of the columns to use.

    Attributes:
        text: of the text, in the order in which they are joined.
        label: of the label; None where none is needed.
    """

    text: tuple[int, ...]
    label: int | None


def choose_columns(
    file: str,
    names: Sequence[str],
    text: Sequence[str] = (),
    label: str | None = None,
    pair: bool = False,
    need_label: bool = True,
    first_row: Sequence[str] | None = None,
) -> Columns:
    """Find the text and label columns.

    Args:
        file: its name in complaints.
        names: all columns.
        text: the columns the user said, by name or 1-based number; () looks for usual names.
        label: the column the user said; None looks for usual names.
        pair: whether there must be exactly two text columns.
        need_label: whether a label column must be found.
        first_row: what a nameless file's first row holds, to show it.

    Raises:
        UsageError: a column is not there or cannot be guessed; lists the columns that are.
    """
    there = _listing(names, first_row)
    label_at = _find(file, names, label, "--label", there) if label is not None else None
    if label_at is None and need_label:
        label_at = _guess_label(names)
    taken = () if label_at is None else (label_at,)
    text_at = tuple(_find(file, names, name, "--text", there) for name in text)
    if not text_at:
        text_at = _guess_text(names, taken)
    if not text_at:
        raise UsageError(
            f"Cannot tell which column of {file} contains the text; specify it with --text. {there}"
        )
    if label_at is None and need_label:
        raise UsageError(
            f"Cannot tell which column of {file} contains the label; specify it with --label. {there}"
        )
    if need_label and label_at in text_at:
        raise UsageError(
            f'Column "{brief(names[text_at[0]])}" of {file} cannot be both text and label. {there}'
        )
    if pair and len(text_at) != 2:
        used = ", ".join(brief(names[i]) for i in text_at[:_MAX_LISTED])
        raise UsageError(
            f"A text pair needs two columns, not {len(text_at)} ({used}); use --text A,B. {there}"
        )
    return Columns(text_at, label_at)


def _listing(names: Sequence[str], first_row: Sequence[str] | None) -> str:
    """Say which columns there are; nameless ones with what the first row holds."""
    shown = [f'"{brief(name)}"' for name in names[:_MAX_LISTED]]
    if first_row is not None:
        shown = [f"{name} ({brief(value, _SHORT)})" for name, value in zip(shown, first_row, strict=False)]
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    if first_row is not None:
        return (
            f"It has no header; its columns, with the values of the first row, are {', '.join(shown)}{more}."
        )
    return f"Its columns are {', '.join(shown)}{more}."


def _find(file: str, names: Sequence[str], wanted: str, option: str, there: str) -> int:
    """Return a column's position: by its exact name, then whatever its case, then by 1-based number."""
    wanted = wanted.strip()
    if wanted in names:
        return names.index(wanted)
    lowered = [name.lower() for name in names]
    if wanted.lower() in lowered:
        return lowered.index(wanted.lower())
    if wanted.isascii() and wanted.isdigit() and 1 <= int(wanted[:9]) <= len(names):
        return int(wanted[:9]) - 1
    close = difflib.get_close_matches(wanted.lower(), lowered, n=1)
    hint = f' Did you mean {option} "{brief(names[lowered.index(close[0])])}"?' if close else ""
    raise UsageError(f'{file} has no column "{wanted}" (option {option}).{hint} {there}')


def _guess_label(names: Sequence[str]) -> int | None:
    lowered = [name.strip().lower() for name in names]
    return next((lowered.index(name) for name in LABEL_NAMES if name in lowered), None)


def _guess_text(names: Sequence[str], taken: Sequence[int]) -> tuple[int, ...]:
    """Return the columns with a usual name; or the only one that is left."""
    lowered = ["" if i in taken else name.strip().lower() for i, name in enumerate(names)]
    for candidates in TEXT_NAMES:
        if all(name in lowered for name in candidates):
            return tuple(lowered.index(name) for name in candidates)
    return (0,) if len(names) == 1 and not taken else ()
