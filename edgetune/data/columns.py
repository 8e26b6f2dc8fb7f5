"""Finds the text and label columns: as the user says, by their usual names, or by their content.

    user's word ─→ usual name ─→ last word of the name ("Customer message") ─→ content

A column that was not found by a usual name is reported, and if two columns would do, the user has to choose.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from edgetune.data.labels import NUMBER, normal_label
from edgetune.data.table import DataOptions, Table, plain_name
from edgetune.utils.errors import UsageError
from edgetune.utils.sanitize import brief

# The first entry whose names are all present wins. Pairs come first, because "sentence" may be half of one.
_PAIRS = """
question sentence | question1 question2 | premise hypothesis | sentence1 sentence2 | sentence_a sentence_b
text1 text2 | text_a text_b | title content | title description | title body | title review
subject body | subject message
"""
_TEXTS = """
sentence review review_text review_body content comment comment_text body message description tweet utterance
question query document article abstract headline feedback title v2
"""
_LABELS = """
label labels sentiment category class target intent is_duplicate stars rating gold_label label_text
class_index polarity emotion topic tag type is_spam spam cats choices accept y v1
"""
_OTHERS = """
id idx index qid1 qid2 guid date user score source split fold
"""
TEXT_NAMES: tuple[tuple[str, ...], ...] = (
    ("text",),
    *(tuple(pair.split()) for line in _PAIRS.strip().splitlines() for pair in line.split("|")),
    *((name,) for name in _TEXTS.split()),
)
LABEL_NAMES = tuple(_LABELS.split())
_OTHER_NAMES = _OTHERS.split()
KNOWN_NAMES = frozenset(name for names in TEXT_NAMES for name in names) | {*LABEL_NAMES, *_OTHER_NAMES}
ALSO_VALUES = frozenset({"spam", "feedback", "question", "comment", "review", "topic"})
"""Names that are just as often values of a label; on their own, they do not make the first row a header."""
_CLEAR_LABEL_NAMES = frozenset(LABEL_NAMES) - ALSO_VALUES
_TEXT_WORDS = frozenset(names[0] for names in TEXT_NAMES if len(names) == 1) - {"v2"}
_LABEL_WORDS = frozenset(LABEL_NAMES) - {"y", "v1", "tag", "target", "spam", "accept"}

VERDICTS: Mapping[str, tuple[frozenset[str], str]] = {
    "answer": (frozenset({"accept", "reject", "ignore"}), "accept"),
    "was_cancelled": (frozenset({"true", "false"}), "false"),
}
"""Columns in which Prodigy and Label Studio say if an annotation is accepted: all values, and for yes."""

FLAGS = {"1": 1, "1.0": 1, "true": 1, "yes": 1, "x": 1, "0": 0, "0.0": 0, "false": 0, "no": 0, "": 0}
"""What columns that hold 1 for one label each are filled with, in lower case."""
_TWO_FLAGS = ({"0", "1"}, {"0.0", "1.0"}, {"false", "true"}, {"no", "yes"}, {"", "1"}, {"", "x"})
FEWEST_FLAGS = 3
"""Columns of 0 and 1 that are taken for labels though not one of them holds 1 in each row."""
_FLAG_ROWS, _MOST_FLAGS = 100, 500

_MAX_LISTED = 20
_SHORT = 21  # characters of a value
_MOST_PIECES = 12  # of a name that holds commas
FEWEST_ROWS, FEWEST_PER_VALUE, MOST_LABEL_CHARS = 10, 3, 40
"""Limits for a column of labels: rows, rows per distinct value on average, and characters of a value."""
FEWEST_WORDS = 3
"""Words of a text, on average, in a column of texts."""


@dataclass(frozen=True)
class Columns:
    """Positions of the columns to use.

    Attributes:
        text: of the text, in the order in which they are joined.
        label: of the label; None if none is needed.
        flags: of the columns that hold 1 where the label is their name, instead of a label column.
        guessed: whether a column was neither given by the user nor found by a usual name.
    """

    text: tuple[int, ...]
    label: int | None
    flags: tuple[int, ...] = ()
    guessed: bool = False


def label_flags(table: Table) -> tuple[list[str], bool]:
    """Find columns for one label each, which hold 1 or 0 in the first rows.

    Returns:
        Their names, and whether several or none of them hold 1 in a row; no names where there are no such
        columns, or one with the usual name of a label.
    """
    none: tuple[list[str], bool] = ([], False)
    if not 3 <= len(table.columns) <= _MOST_FLAGS:
        return none
    if any(plain_name(name) in _CLEAR_LABEL_NAMES for name in table.columns):
        return none
    every = range(len(table.columns))
    rows = [[str(value).strip().lower() for value in row] for row in table.values(every, _FLAG_ROWS)]
    found = [{row[i] for row in rows} for i in every]
    used = [pair for pair in _TWO_FLAGS if pair in found]
    flags = [i for i in every if any(found[i] <= pair for pair in used)]  # none of the first may have a label
    named = [table.columns[i] for i in flags]
    others = [name for name in table.columns if name not in named and plain_name(name) not in KNOWN_NAMES]
    several = any(sum(FLAGS[row[i]] for i in flags) != 1 for row in rows)
    if len(flags) < (FEWEST_FLAGS if several else 2) or len(others) > 1:
        return none
    if several and _by_last_word(table.columns, _LABEL_WORDS, ()) is not None:
        return none
    return named, several


def _check_flags(table: Table) -> None:
    """Refuse a table that has a column for each label."""
    named, several = label_flags(table)
    if not named:
        return
    listed = ", ".join(f'"{brief(name)}"' for name in named[:_MAX_LISTED])
    how = "several or none of which hold" if several else "one of which holds"
    raise UsageError(
        f"{table.file} has a column for each label ({listed}), {how} 1 in a row; name them all with "
        f'--label "{",".join(named)}"{" --multi-label" * several}.'
    )


def wanted_names(options: DataOptions) -> list[str]:
    """Return the names that the user gave, and joins of them: `--text` splits a name that holds a comma."""
    text, label = options.text, options.label
    spans = [text[i:j] for i in range(len(text)) for j in range(i + 2, min(len(text), i + _MOST_PIECES) + 1)]
    joined = [joint.join(span) for span in spans for joint in (",", ", ")]
    return [*text, *joined, *([] if label is None else [label, *label.split(",")])]


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


def find_columns(table: Table, options: DataOptions, need_label: bool = True) -> Columns:
    """Find the text and label columns of a table: as the user says, by their names, or by their content.

    Args:
        table: the rows.
        options: which columns the user gave.
        need_label: whether a label is needed; else its column is only kept apart from the text.

    Raises:
        UsageError: a column does not exist or cannot be guessed; the message lists the existing columns.
    """
    file, names = table.file, table.columns
    label = options.label if need_label or options.label in names else None
    if label is None and need_label:
        _check_flags(table)
    flags = () if label is None else _flag_columns(table, label)
    if flags:
        label = names[flags[0]]
    label_at = None if label is None else _find(table, label, "--label")
    if label_at is None and need_label:
        label_at = usual_label(names)
    text_at = tuple(_find(table, name, "--text") for name in _rejoined(options.text, names))
    if not text_at:
        text_at = _usual_text(names, flags or _as_tuple(label_at))
    guessed = not text_at or (label_at is None and need_label)
    if guessed:
        text_at, label_at = _guess(table, text_at, label_at, need_label)
    if not text_at:
        problem = f"Cannot tell which column of {file} contains the text; specify it with --text."
    elif label_at is None and need_label:
        problem = f"Cannot tell which column of {file} contains the label; specify it with --label."
    elif need_label and label_at in text_at:
        problem = f'Column "{brief(names[text_at[0]])}" of {file} cannot be both text and label.'
    elif options.pair and len(text_at) != 2:
        used = ", ".join(brief(names[i]) for i in text_at[:_MAX_LISTED])
        problem = f"A text pair needs two columns, not {len(text_at)} ({used}); use --text A,B."
    else:
        return Columns(text_at, label_at, flags, guessed)
    raise UsageError(f"{problem} {_listing(table)}")


def _listing(table: Table) -> str:
    """List the columns; columns without names are listed with their values in the first row."""
    names = table.columns
    shown = [f'"{brief(name)}"' for name in names[:_MAX_LISTED]]
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    if table.has_names:
        return f"Its columns are {', '.join(shown)}{more}."
    values = zip(shown, table.first_row, strict=False)
    with_values = ", ".join(f"{name} ({brief(value, _SHORT)})" for name, value in values)
    return (
        f"It has no header; its columns, with the values of the first row, are {with_values}{more}. "
        "If the first row contains column names, use --header."
    )


def _find(table: Table, wanted: str, option: str) -> int:
    """Return a column's position: by its exact name, then ignoring case, then by 1-based number."""
    file, names, wanted = table.file, table.columns, wanted.strip()
    if wanted in names:
        if names.count(wanted) > 1:
            numbers = [str(i) for i, name in enumerate(names, start=1) if name == wanted]
            raise UsageError(
                f'{file} has {len(numbers)} columns named "{brief(wanted)}"; use {option} with the number '
                f"of one of them: {', '.join(numbers[:_MAX_LISTED])}."
            )
        return names.index(wanted)
    lowered = [name.lower() for name in names]
    if wanted.lower() in lowered:
        return lowered.index(wanted.lower())
    if wanted.isascii() and wanted.isdigit() and 1 <= int(wanted[:9]) <= len(names):
        return int(wanted[:9]) - 1
    close = difflib.get_close_matches(wanted.lower(), lowered, n=1)
    hint = f' Did you mean {option} "{brief(names[lowered.index(close[0])])}"?' if close else ""
    raise UsageError(f'{file} has no column "{wanted}" (option {option}).{hint} {_listing(table)}')


def _flag_columns(table: Table, label: str) -> tuple[int, ...]:
    """Return the positions of the columns that `--label a,b` names; () if it names one column."""
    wanted = label.strip().lower()
    pieces = _pieces(label)
    if wanted in (name.strip().lower() for name in table.columns) or len(pieces) < 2:
        return ()
    return tuple(_find(table, piece, "--label") for piece in pieces)


def verdict(table: Table) -> tuple[int, str] | None:
    """Find a column that says whether an annotation is accepted: its position, and its value for yes."""
    for i, name in enumerate(table.columns):
        for word, (allowed, accepted) in VERDICTS.items():
            if plain_name(name).endswith(word):
                values = {normal_label(row[i]) for row in table.sample()} - {None}
                if values and values <= allowed:
                    return i, accepted
    return None


def usual_label(names: Sequence[str]) -> int | None:
    """Return the position of the column that has a label's usual name."""
    plain = [plain_name(name) for name in names]
    return next((plain.index(name) for name in LABEL_NAMES if name in plain), None)


def _usual_text(names: Sequence[str], taken: Sequence[int]) -> tuple[int, ...]:
    """Return the columns with usual names, or the only column that is left."""
    plain = ["" if i in taken else plain_name(name) for i, name in enumerate(names)]
    for candidates in TEXT_NAMES:
        if all(name in plain for name in candidates):
            return tuple(plain.index(name) for name in candidates)
    return (0,) if len(names) == 1 and not taken else ()


def _guess(
    table: Table, text: tuple[int, ...], label: int | None, need_label: bool
) -> tuple[tuple[int, ...], int | None]:
    """Find the columns that usual names did not; () or None if no column fits, or several do."""
    names, rows = table.columns, table.sample()
    found = [_Values([row[i] for row in rows]) for i in range(len(names))]
    if label is None and need_label:
        same = [i for i, values in enumerate(found) if rows and values.n_different < 2]
        label = _by_last_word(names, _LABEL_WORDS, (*text, *same))
    filled = [i for i, values in enumerate(found) if values.filled]
    if not text:
        no_text = [i for i in range(len(names)) if rows and i not in filled]
        text = _as_tuple(_by_last_word(names, _TEXT_WORDS, (*_as_tuple(label), *no_text)))
    if text and (label is not None or not need_label):
        return text, label
    judged = verdict(table)
    other = {i for i, name in enumerate(names) if plain_name(name) in _OTHER_NAMES or name.startswith("_")}
    other |= {judged[0]} if judged else set()
    labels = [i for i in filled if found[i].may_be_label and i not in other]
    if not text:
        text = _as_tuple(_only([i for i in filled if found[i].may_be_text and i != label]))
    if not text and len(filled) == 2 and (beside := _only(labels) if label is None else label) is not None:
        text = tuple(i for i in filled if i != beside and not found[i].all_numbers)
    if label is None and need_label:
        label = _only([i for i in labels if i not in text])
    return text, label


def _only(columns: Sequence[int]) -> int | None:
    return columns[0] if len(columns) == 1 else None


def _as_tuple(column: int | None) -> tuple[int, ...]:
    return () if column is None else (column,)


def _by_last_word(names: Sequence[str], words: frozenset[str], taken: Sequence[int]) -> int | None:
    """Return the only column whose name ends in one of some words."""
    last = [plain_name(name).rsplit("_", 1)[-1] for name in names]
    return _only([i for i, word in enumerate(last) if word in words and i not in taken])


def _count_words(text: str) -> float:
    """Count words; in a language that does not separate them, four characters count as one."""
    n_words = len(text.split())
    return n_words if text.isascii() else max(n_words, len(text) / 4)


class _Values:
    """Values of a column in the form of labels, without empty ones; none if some are not single values."""

    def __init__(self, values: Sequence[Any]) -> None:
        single = [
            value[0] if isinstance(value, list | tuple) and len(value) == 1 else value for value in values
        ]
        nested = any(isinstance(value, dict | list | tuple) for value in single)
        labels = [] if nested else map(normal_label, single)
        self.filled = [label for label in labels if label is not None]
        self.n_different = len(set(self.filled))
        numbers = [label for label in self.filled if NUMBER.fullmatch(label)]
        self.all_numbers = len(numbers) == len(self.filled)
        self._has_fractions = any("." in number for number in numbers)

    @property
    def may_be_label(self) -> bool:
        """Whether there are few distinct values that each occur often."""
        n_rows = len(self.filled)
        few = 2 <= self.n_different <= n_rows / FEWEST_PER_VALUE
        short = max(map(len, self.filled)) <= MOST_LABEL_CHARS
        return few and n_rows >= FEWEST_ROWS and short and not self._has_fractions

    @property
    def may_be_text(self) -> bool:
        """Whether values have several words on average, are not labels, and are not all the same."""
        if len(self.filled) >= FEWEST_ROWS and self.n_different < 2:
            return False
        return fmean(map(_count_words, self.filled)) >= FEWEST_WORDS and not self.may_be_label
