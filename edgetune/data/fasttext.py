"""Lines as fastText reads them: a word that begins with `__label__` is a label, wherever it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from edgetune.data.labels import FASTTEXT_PREFIX as PREFIX
from edgetune.data.table import BadRow, Row, Table
from edgetune.data.text_files import TextFile

_NAME = rf"{PREFIX}[^\s,;|]+"
_LABELLED = re.compile(rf"\s*{_NAME}((?:[,;|]\s*|\s+){_NAME})*\s|[^\t]*[^\s,;|] +{_NAME}\s*$")
_LABELS = re.compile(rf"(?<!\S){PREFIX}(\S+)\s*")
_SEVERAL = re.compile(rf"[,;|]{PREFIX}")
_JUDGED_LINES = 100
_MIN_RATE = 0.9


def is_fasttext(lines: Sequence[str]) -> bool:
    """Whether nearly all of a file's first lines begin or end with a label."""
    filled = [line for line in lines[:_JUDGED_LINES] if line.strip()]
    n_labelled = sum(1 for line in filled if PREFIX in line and _LABELLED.match(line))
    return bool(filled) and n_labelled >= _MIN_RATE * len(filled)


def fasttext_table(file: TextFile) -> Table:
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
