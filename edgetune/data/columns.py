"""Which columns hold the text and the label: by the user's word, else by their usual names."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from edgetune.data.table import BadRow, Table
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
        flags: of the columns that hold 1 where the label is their name, instead of a label column.
    """

    text: tuple[int, ...]
    label: int | None
    flags: tuple[int, ...] = ()


FLAGS = {"1": 1, "1.0": 1, "true": 1, "yes": 1, "x": 1, "0": 0, "0.0": 0, "false": 0, "no": 0, "": 0}
"""What columns that hold 1 for one label each are filled with, in lower case."""
_FLAG_ROWS, _MOST_FLAGS = 100, 500
_MOST_PIECES = 12  # of a name that holds commas


def check_flags(table: Table) -> None:
    """Refuse a table that has a column for each label, of which one holds 1 in each of the first rows.

    Raises:
        UsageError: it has; says how to name them.
    """
    if not 3 <= len(table.columns) <= _MOST_FLAGS:
        return
    every = range(len(table.columns))
    first = islice(table.read(every), _FLAG_ROWS)
    rows = [[str(value).strip().lower() for value in row[1]] for row in first if not isinstance(row, BadRow)]
    flags = [i for i in every if {row[i] for row in rows} in _TWO_FLAGS]
    named = [table.columns[i] for i in flags]
    others = [name for name in table.columns if name not in named and name.lower() not in KNOWN_NAMES]
    if len(flags) < 2 or len(others) > 1 or any(sum(FLAGS[row[i]] for i in flags) != 1 for row in rows):
        return
    listed = ", ".join(f'"{brief(name)}"' for name in named[:_MAX_LISTED])
    raise UsageError(
        f"{table.file} has a column for each label ({listed}), one of which holds 1 in each row; name them "
        f'all with --label "{",".join(named)}".'
    )


_TWO_FLAGS = ({"0", "1"}, {"0.0", "1.0"}, {"false", "true"}, {"no", "yes"}, {"", "1"}, {"", "x"})


def joined_spellings(text: Sequence[str]) -> list[str]:
    """Return names as they were given, and joined: `--text` splits a name that holds a comma."""
    spans = [text[i:j] for i in range(len(text)) for j in range(i + 2, min(len(text), i + _MOST_PIECES) + 1)]
    return [*text, *(joint.join(span) for span in spans for joint in (",", ", "))]


def _rejoined(text: Sequence[str], names: Sequence[str]) -> list[str]:
    """Put names together again that `--text` split at their comma."""
    lowered = {name.strip().lower() for name in names}
    whole = {_pieces(name): name for name in names if "," in name}
    found: list[str] = []
    at = 0
    while at < len(text):
        ends = range(len(text), at, -1) if text[at].lower() not in lowered else ()
        end = next((end for end in ends if tuple(piece.lower() for piece in text[at:end]) in whole), at + 1)
        found.append(whole.get(tuple(piece.lower() for piece in text[at:end]), text[at]))
        at = end
    return found


def _pieces(name: str) -> tuple[str, ...]:
    return tuple(piece.strip().lower() for piece in name.split(",") if piece.strip())


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
    text = _rejoined(text, names)
    flags = _flag_columns(file, names, label, there) if label is not None else ()
    if flags:
        label = names[flags[0]]
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
    return Columns(text_at, label_at, flags)


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


def _flag_columns(file: str, names: Sequence[str], label: str, there: str) -> tuple[int, ...]:
    """Return the positions of several columns that `--label a,b` names; () where it names one."""
    wanted = label.strip().lower()
    pieces = _pieces(label)
    if wanted in (name.strip().lower() for name in names) or len(pieces) < 2:
        return ()
    return tuple(_find(file, names, piece, "--label", there) for piece in pieces)


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
