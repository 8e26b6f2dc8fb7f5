"""Tables: titled sections of rows, drawn by rich on a terminal and as plain lines elsewhere."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgetune.utils.sanitize import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


@dataclass(frozen=True, slots=True)
class Section:
    """A titled block of rows.

    Attributes:
        title: its heading.
        rows: cells of every row; the first names the row.
        header: names of the columns, where they need any.
        right: whether all cells but the first are aligned to the right.
    """

    title: str
    rows: Sequence[tuple[str, ...]]
    header: tuple[str, ...] = ()
    right: bool = False


def sections_text(sections: list[Section]) -> str:
    """Return sections as plain lines, columns aligned."""
    from rich.console import Console

    lines = []
    for section in sections:
        n_chars = sum(len(cell) + 2 for row in (section.header, *section.rows) for cell in row)
        console = Console(file=io.StringIO(), width=2 * n_chars, color_system=None)  # room for any line
        with console.capture() as captured:
            console.print(_table(section))
        rows = captured.get().splitlines()
        lines += [one_line(section.title), *(f"  {row.rstrip()}" for row in rows)]
    return "\n".join(lines)


def print_sections(sections: list[Section], console: Console | None = None) -> None:
    """Print sections, by default on stdout: in colour, or as plain lines where that is no terminal."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console()
    if not console.is_terminal:
        console.print(sections_text(sections), markup=False, highlight=False, soft_wrap=True)
        return
    for section in sections:
        console.print(Text(one_line(section.title), style="bold"))
        console.print(_table(section))


def _table(section: Section) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=bool(section.header), pad_edge=False, padding=(0, 2, 0, 0))
    n_columns = max(len(row) for row in [section.header, *section.rows])
    for i in range(n_columns):
        name = Text(one_line(section.header[i])) if i < len(section.header) else ""
        is_bar = any(row[i].startswith("█") for row in section.rows if i < len(row))
        right = section.right and i > 0 and not is_bar
        is_name = i == 0 and n_columns > 1
        table.add_column(
            name,
            justify="right" if right else "left",
            style="cyan" if is_name else "",
            no_wrap=section.right or is_name,
            overflow="fold",
        )
    for row in section.rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    return table
