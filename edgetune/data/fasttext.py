"""Lines as fastText reads them: `__label__NAME`, once or more, then the text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from edgetune.data.table import BadRow, Row, Table
from edgetune.data.text_files import TextFile

PREFIX = "__label__"
_LABELLED = re.compile(rf"\s*{PREFIX}[^\s,;|]+\s")
_JUDGED_LINES = 100
_MIN_RATE = 0.9


def is_fasttext(lines: Sequence[str]) -> bool:
    """Whether nearly all of a file's first lines begin with a label."""
    filled = [line for line in lines[:_JUDGED_LINES] if line.strip()]
    n_labelled = sum(1 for line in filled if _LABELLED.match(line))
    return bool(filled) and n_labelled >= _MIN_RATE * len(filled)


def fasttext_table(file: TextFile) -> Table:
    """Make a table of text and label of a file; the label of a line with several is a list."""

    def rows(columns: Sequence[int]) -> Iterator[Row | BadRow]:
        for number, line in enumerate(file.lines(), start=1):
            if not line.strip():
                continue
            labels, rest = [], line.strip()
            while rest.startswith(PREFIX):
                label, *more = rest.split(maxsplit=1)
                labels.append(label.removeprefix(PREFIX))
                rest = more[0] if more else ""
            values = (rest, labels)
            yield number, [values[i] for i in columns]

    return Table(str(file.path), ("text", "label"), True, (), rows)
