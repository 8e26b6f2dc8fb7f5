"""Delimited files as tables: the format (delimiter, quoting, header) is detected, then the file is read.

All three are decided once per file, by evidence from its first lines. Quoting matters most: GLUE's TSV files
are plain text with stray double quotes, in which a CSV reader silently swallows rows; other TSV files are
real CSV, whose quoted fields must be unquoted. Evidence for CSV is a field that needed its quotes, or a line
all of whose text is quoted; evidence for plain text is a line that no CSV writer would have written.

Columns are named by the header, or numbered from 1. In a file for fastText, a word that begins with
`__label__` is a label, wherever it stands.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from operator import length_hint
from pathlib import Path

from edgetune.data.columns import ALSO_VALUES, KNOWN_NAMES, LABEL_NAMES, TEXT_NAMES, wanted_names
from edgetune.data.labels import FASTTEXT_PREFIX
from edgetune.data.records import (
    Dialect,
    LookAhead,
    Record,
    Unterminated,
    allow_long_fields,
    joined_record,
    parse,
    records,
)
from edgetune.data.table import (
    REPEATED_HEADER,
    WRONG_COLUMN_COUNT,
    BadRow,
    DataOptions,
    LooseRow,
    Row,
    Table,
    excerpt_of,
    plain_name,
)
from edgetune.data.text_files import TextFile, open_text
from edgetune.utils.errors import DataError, UsageError
from edgetune.utils.limits import MAX_COLUMNS

DELIMITERS = ("\t", ",", ";", "|")
SNIFF_LINES = 20_000  # lines judged for quoting …
QUOTED_LINES = 2_000  # … of which at most this many with quotes
QUOTED_FIELDS = 20  # fields of such a line that are examined
SHAPE_LINES = 2_000  # lines judged for the delimiter
MIN_CONSISTENT_RATE = 0.8  # share of rows that must have as many columns as the first
MAX_STRAY_RATE = 0.1  # stray lines per well-formed line that CSV may still have
FEW_VALUES = 20  # a column with at most this many values, each seen often, holds labels


def sniff(
    lines: Sequence[str], hint: str, delimiter: str | None = None, escape: bool | None = None
) -> Dialect:
    """Decide delimiter and quoting from a file's first lines.

    Args:
        lines: physical lines, without their ends.
        hint: the delimiter that the file's name suggests; preferred if it fits.
        delimiter: the one that the user gave; then only quoting is decided.
        escape: whether backslashes escape quotes, as the user says; None to detect it.
    """
    allow_long_fields()
    filled = [line for line in lines[:SNIFF_LINES] if line.strip()]
    hinted = _quoting(filled, delimiter or hint, escape)
    if delimiter is not None or _consistency(filled, hinted) >= MIN_CONSISTENT_RATE:
        return hinted
    others = [_quoting(filled, other, escape) for other in DELIMITERS if other != hint]
    best = max(others, key=partial(_consistency, filled))
    return best if _consistency(filled, best) >= MIN_CONSISTENT_RATE else hinted


def _consistency(lines: Sequence[str], dialect: Dialect) -> float:
    """Return the share of rows with as many columns as the first; 0 if that has one column."""
    counts = [len(record.fields) for record in records(iter(lines[:SHAPE_LINES]), dialect)]
    if not counts or counts[0] < 2:
        return 0.0
    return counts.count(counts[0]) / len(counts)


def _quoting(lines: Sequence[str], delimiter: str, escape: bool | None = None) -> Dialect:
    """Decide whether quotes are CSV quotes; without evidence they are, except in tab-separated files.

    With evidence for both, the reading in which more rows have as many columns as the first one wins, or
    plain text on a tie. Backslashes are escapes if more lines are well formed that way.
    """
    plain, quoted = Dialect(delimiter, quoted=False), Dialect(delimiter, quoted=True, escaped=bool(escape))
    good, stray = _quote_evidence(lines, quoted)
    others = []
    if any(delimiter + ' "' in line for line in lines[:SHAPE_LINES]):
        others.append(replace(quoted, skip_space=True))
    if escape is None and any('\\"' in line for line in lines):
        others += [replace(other, escaped=True) for other in (quoted, *others)]
    for dialect in others:
        good_so, stray_so = _quote_evidence(lines, dialect)
        gain = (good_so - stray_so) - (good - stray)
        if gain > 0 or (not gain and _consistency(lines, dialect) > _consistency(lines, quoted)):
            quoted, good, stray = dialect, good_so, stray_so
    if escape:
        return quoted
    if not good and not stray:
        escaped = replace(quoted, escaped=True)
        if escape is None and any("\\" + delimiter in line for line in lines[:SHAPE_LINES]):
            return max(quoted if delimiter != "\t" else plain, escaped, key=partial(_consistency, lines))
        return plain if delimiter == "\t" else quoted
    if stray <= MAX_STRAY_RATE * good:
        return quoted
    if not good:
        return plain
    return quoted if _consistency(lines, quoted) > _consistency(lines, plain) else plain


def _quote_evidence(lines: Sequence[str], dialect: Dialect) -> tuple[int, int]:
    """Count records that speak for CSV quoting and lines that speak against it.

    A quoted field without a delimiter, line break or doubled quote inside says little, because plain text
    also has fields that are one quotation. It counts only if every field except numbers is quoted.
    """
    good = stray = position = n_quoted = 0
    ahead = LookAhead()
    width = lines[0].count(dialect.delimiter) + 1 if lines and '"' not in lines[0] else 0
    while position < len(lines) and n_quoted < QUOTED_LINES:
        line = lines[position]
        position += 1
        if '"' not in line:
            continue
        n_quoted += 1
        try:
            fields = parse(line, dialect)
        except Unterminated:
            fields, n_more = _several_lines(lines, position - 1, dialect, width, ahead)
            position += n_more
        if fields is None:
            stray += 1
        elif _needed_quotes(line, fields, dialect):
            good += 1
    return good, stray


def _several_lines(
    lines: Sequence[str], first: int, dialect: Dialect, width: int, ahead: LookAhead
) -> tuple[list[str] | None, int]:
    window = lines[first : first + ahead.n_lines]
    upcoming = iter(window)
    fields = joined_record(upcoming, dialect)
    n_more = len(window) - length_hint(upcoming) - 1
    if fields is None or (width and len(fields) != width):
        ahead.wasted(n_more, sum(map(len, window[: n_more + 1])))
        return None, 0
    return fields, n_more


def _needed_quotes(line: str, fields: Sequence[str], dialect: Dialect) -> bool:
    """Whether a CSV writer had a reason for the quotes: a special character inside, or it quotes all text."""
    if any(dialect.delimiter in field or "\n" in field for field in fields):
        return True
    doubled = '\\"' if dialect.escaped else '""'
    if doubled in line:
        for field in islice((field for field in fields if '"' in field), QUOTED_FIELDS):
            if '"' + field.replace('"', doubled) + '"' in line:
                return True
    pieces = [piece.strip() for piece in line.split(dialect.delimiter)]
    wrapped = {piece[1:-1] for piece in pieces if piece.startswith('"')}
    return bool(wrapped) and all(field in wrapped or _is_number(field) for field in fields)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def has_header(rows: Sequence[Sequence[str]], wanted: Sequence[str] = ()) -> bool:
    """Decide whether the first row names the columns; in doubt, it does not.

    It does if it has a name that the user asked for, or usual names of both text and label. Otherwise, one
    field must be a usual name, or be above a column of only numbers or of only a few frequent values, and no
    field may occur again below itself, or be a number above numbers.
    """
    first = [field.strip() for field in rows[0]]
    body = [row for row in rows[1:] if len(row) == len(first)]
    below = {i: [row[i].strip() for row in body] for i, field in enumerate(first) if field}
    if any(_is_named(first, below, name.strip()) for name in wanted):
        return True
    names = {plain_name(field): i for i, field in reversed(list(enumerate(first))) if field}
    if names.keys() & set(LABEL_NAMES) and any(names.keys() >= set(pair) for pair in TEXT_NAMES):
        return True
    usual = names.keys() & (KNOWN_NAMES - ALSO_VALUES)
    if any(not _comes_again(first, below, names[name]) for name in usual):
        return True
    if any(_comes_again(first, below, i) for i in below):
        return False
    if any(_is_number(first[i]) and all(map(_is_number, column)) for i, column in below.items()):
        return False
    return any(_contrasts(column) for i, column in below.items() if not _is_number(first[i]))


def _is_named(first: Sequence[str], below: Mapping[int, Sequence[str]], name: str) -> bool:
    """Whether the first row holds a name that the user asked for.

    A number may also be a position or a value: it counts only if it is neither a position nor repeated below.
    """
    at = next((i for i, field in enumerate(first) if field and field.lower() == name.lower()), None)
    if at is None or not (name.isascii() and name.isdigit()):
        return at is not None
    return int(name[:9]) > len(first) and not _comes_again(first, below, at)


def _comes_again(first: Sequence[str], below: Mapping[int, Sequence[str]], at: int) -> bool:
    return first[at].lower() in map(str.lower, below[at])


def _contrasts(column: Sequence[str]) -> bool:
    """Whether a column below a word has only numbers, or few values that each occur several times."""
    if not column:
        return False
    if all(map(_is_number, column)):
        return True
    counts = Counter(column)
    return len(column) >= FEW_VALUES and len(counts) <= FEW_VALUES and min(counts.values()) > 1


HEADER_ROWS = 1_000  # rows looked at to decide whether the first is a header
MAX_PREAMBLE = 20  # rows above the table
_DECLARED = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
_SURVEY = re.compile(r'\{"ImportId"|(Open-Ended )?Response$')  # Qualtrics, SurveyMonkey
MAX_SURVEY_ROWS = 3


def read_delimited(path: Path, hint: str, options: DataOptions) -> Table:
    """Open a CSV, TSV or similar file; `hint` is the delimiter that its name suggests."""
    delimiter, wanted = options.delimiter, wanted_names(options)
    if delimiter is not None:
        delimiter = {"\\t": "\t", "tab": "\t"}.get(delimiter, delimiter)
        if len(delimiter) != 1 or delimiter in '"\r\n':
            raise UsageError(
                f'The delimiter must be one character, not "{delimiter}"; for a tab, use --delimiter tab.'
            )
    file = open_text(path, options.encoding, whole_line=True)
    lines = file.start_lines()
    if delimiter is None and is_fasttext(lines):
        return _fasttext_table(file)
    n_above = 0
    if declared := _DECLARED.fullmatch(lines[0]):
        delimiter, n_above = delimiter or declared[1], 1
    is_content = (line.strip() and not line.startswith("#") for line in lines[n_above:])
    n_comments = next((number for number, found in enumerate(is_content) if found), 0)
    dialect = sniff(lines[n_above + n_comments :], hint, delimiter, options.escape)
    first_rows = list(islice(records(iter(lines[n_above:]), dialect), HEADER_ROWS))
    n_preamble = _preamble(first_rows, n_comments, wanted)
    if not first_rows[n_preamble:]:
        raise DataError(f"{path} is empty.")
    if n_preamble:
        n_above += first_rows[n_preamble].line - 1
        first_rows = first_rows[n_preamble:]
    first = first_rows[0].fields
    if len(first) > MAX_COLUMNS:
        raise DataError(
            f"{path}:{n_above + 1} has {len(first):,} columns, but at most {MAX_COLUMNS:,} are supported; "
            "check --delimiter."
        )
    named = options.header
    if named is None:
        named = has_header([row.fields for row in first_rows], wanted)
    names = tuple(name.strip() for name in first) if named else tuple(str(i + 1) for i in range(len(first)))
    n_heading = 1 + _survey_rows(first_rows) if named else 0
    width, header = len(first), first if named else []

    def rows(columns: Sequence[int]) -> Iterator[Row | BadRow]:
        stream = records(islice(file.lines(), n_above, None), dialect, width)
        for record in islice(stream, n_heading, None):
            line, fields = n_above + record.line, record.fields
            if len(fields) != width:
                yield BadRow(str(path), line, WRONG_COLUMN_COUNT, excerpt_of(record.source))
            elif width > 1 and fields == header:  # repeated, as in concatenated files
                yield BadRow(str(path), line, REPEATED_HEADER, excerpt_of(record.source))
            else:
                values = [fields[i] for i in columns]
                yield LooseRow(line, values) if record.loose else (line, values)

    return Table(str(path), names, named, tuple(first), rows, True, encoding=file.encoding, dialect=dialect)


def _preamble(rows: Sequence[Record], n_comments: int, wanted: Sequence[str]) -> int:
    """Count the rows above the table: comments, or a title above the header.

    They are comments above a header, or have another number of columns than most rows, or one filled column.
    """
    if not rows:
        return 0
    widths = [len(row.fields) for row in rows]
    usual = Counter(widths).most_common(1)[0][0]
    hashed = sum(1 for row in rows[:MAX_PREAMBLE] if row.line <= n_comments)
    n_filled = [sum(1 for field in row.fields if field.strip()) for row in rows]
    least = min(usual, 2)
    above = next((i for i, width in enumerate(widths) if width == usual and n_filled[i] >= least), 0)
    if hashed and (above >= hashed or has_header([row.fields for row in rows[hashed:]], wanted)):
        return hashed
    if 0 < above <= MAX_PREAMBLE and usual > 1:
        return above if has_header([row.fields for row in rows[above:]], wanted) else 0
    return 0


def _survey_rows(rows: Sequence[Record]) -> int:
    for number in range(MAX_SURVEY_ROWS, 0, -1):
        if number < len(rows):
            filled = [field.strip() for field in rows[number].fields if field.strip()]
            if filled and all(_SURVEY.match(field) for field in filled):
                return number
    return 0


_FASTTEXT = rf"{FASTTEXT_PREFIX}[^\s,;|]+"
_LABELLED = re.compile(rf"\s*{_FASTTEXT}((?:[,;|]\s*|\s+){_FASTTEXT})*\s|[^\t]*[^\s,;|] +{_FASTTEXT}\s*$")
_LABELS = re.compile(rf"(?<!\S){FASTTEXT_PREFIX}(\S+)\s*")
_SEVERAL = re.compile(rf"[,;|]{FASTTEXT_PREFIX}")
_FASTTEXT_LINES = 100
_LABELLED_RATE = 0.9


def is_fasttext(lines: Sequence[str]) -> bool:
    """Whether nearly all of a file's first lines begin or end with a label as fastText marks them."""
    filled = [line for line in lines[:_FASTTEXT_LINES] if line.strip()]
    n_labelled = sum(1 for line in filled if FASTTEXT_PREFIX in line and _LABELLED.match(line))
    return bool(filled) and n_labelled >= _LABELLED_RATE * len(filled)


def _fasttext_table(file: TextFile) -> Table:
    """Make a table of text and label of a file; the label of a line with several is a list."""

    def rows(columns: Sequence[int]) -> Iterator[Row | BadRow]:
        for number, line in enumerate(file.lines(), start=1):
            if not line.strip():
                continue
            found = (label for word in _LABELS.findall(line) for label in _SEVERAL.split(word))
            labels = [label.rstrip(",;|") for label in found]
            text = _LABELS.sub("", line).strip()
            values = (text, labels)
            yield number, [values[i] for i in columns]

    return Table(str(file.path), ("text", "label"), True, (), rows, encoding=file.encoding)
