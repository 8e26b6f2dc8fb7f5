"""Parts of a data set (train, validation, test) that lie together in one file or folder.

They are lists of a JSON file, files or subfolders of a folder, or rows told apart by a column such as
`split`. Training rows are those of the training part; the first of `VALIDATION_PARTS` that is there is
evaluated on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from edgetune.data.columns import plain_name
from edgetune.data.table import BadRow, LooseRow, Row, Table
from edgetune.utils.sanitize import brief

TRAIN_PARTS = ("train", "training")
VALIDATION_PARTS = ("validation", "valid", "val", "dev", "eval", "evaluation", "test")
PART_NAMES = frozenset((*TRAIN_PARTS, *VALIDATION_PARTS))
PART_COLUMNS = ("split", "partition", "fold", "subset")
_SAMPLE_ROWS = 100


@dataclass(frozen=True)
class Parts:
    """Names of the parts of a data set, as they are written there.

    Attributes:
        train: the part to train on.
        validation: the part to evaluate on; None if there is no such part.
        unused: all others.
        column: the column that distinguishes them; None if they are lists or files.
    """

    train: str
    validation: str | None
    unused: tuple[str, ...] = ()
    column: str | None = None

    @classmethod
    def of(cls, names: Iterable[str], column: str | None = None) -> Parts | None:
        """Identify parts by their names; return None if none of them is a training part."""
        by_name = {name.lower(): name for name in reversed(list(names))}
        train = next((by_name.pop(name) for name in TRAIN_PARTS if name in by_name), None)
        if train is None:
            return None
        validation = next((by_name.pop(name) for name in VALIDATION_PARTS if name in by_name), None)
        return cls(train, validation, tuple(sorted(by_name.values())), column)

    def describe(self, path: str) -> str:
        """Say in a sentence which part is used for what."""
        where = path if self.column is None else f'The column "{brief(self.column)}" of {path}'
        unused = ", ".join(f'"{brief(name)}"' for name in self.unused)
        return (
            f'{where} tells training from evaluation rows: training on "{brief(self.train)}", evaluating on '
            f'"{brief(str(self.validation))}"{f"; {unused} is not used" if unused else ""}.'
        )


def column_parts(table: Table, taken: Sequence[str]) -> Parts | None:
    """Find a column all of whose values are names of parts, training and evaluation among them."""
    known = {name.strip().lower() for name in taken}
    for at, name in enumerate(table.columns if table.has_names else ()):
        if plain_name(name) not in PART_COLUMNS or name.lower() in known:
            continue
        if not all(value in PART_NAMES for value in islice(_values(table, at), _SAMPLE_ROWS)):
            continue
        found = set(_values(table, at))
        parts = Parts.of(found, name) if found <= PART_NAMES else None
        if parts is not None and parts.validation is not None:
            return parts
    return None


def _values(table: Table, at: int) -> Iterator[str]:
    return (_plain(row[0]) for row in table.values((at,)))


def _plain(value: object) -> str:
    return str(value).strip().lower()


def rows_of_part(table: Table, parts: Parts, part: str | None) -> Table:
    """Return the rows of a part that a column determines; for None, the training rows.

    Rows that cannot be read count among the training rows.
    """
    assert parts.column is not None
    at = table.columns.index(parts.column)
    wanted = parts.train if part is None else part

    def rows(columns: Sequence[int]) -> Iterator[Row | BadRow]:
        for row in table.read((*columns, at)):
            if isinstance(row, BadRow):
                if wanted == parts.train:
                    yield row
                continue
            *values, name = row[1]
            if _plain(name) == wanted:
                yield LooseRow(row[0], values) if isinstance(row, LooseRow) else (row[0], values)

    return replace(table, read=rows)
