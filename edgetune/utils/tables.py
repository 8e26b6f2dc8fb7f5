"""Tables: titled sections of rows, drawn by rich on a terminal and as plain lines elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgetune.utils.sanitize import one_line

if TYPE_CHECKING:
    from rich.console import Console


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
    rows: list[tuple[str, ...]]
    header: tuple[str, ...] = ()
    right: bool = False


def sections_text(sections: list[Section]) -> str:
    """Return sections as plain lines, columns aligned."""
    blocks = []
    for section in sections:
        rows = [tuple(map(one_line, row)) for row in (section.header, *section.rows)]
        table = rows if section.header else rows[1:]
        n_columns = max(len(row) for row in table)
        widths = [max(len(row[i]) for row in table if i < len(row)) for i in range(n_columns)]
        lines = [one_line(section.title)]
        for row in table:
            cells = [
                cell.rjust(width) if section.right and i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=False))
            ]
            if cells and cells[-1].strip().startswith("█"):
                cells[-1] = cells[-1].strip()
            lines.append("  " + "  ".join(cells).rstrip())
        blocks.append("\n".join(lines))
    return "\n".join(blocks)


def print_sections(sections: list[Section], console: Console) -> None:
    """Print sections in colour, or as plain lines where the console is no terminal."""
    if not console.is_terminal:
        console.print(sections_text(sections), markup=False, highlight=False, soft_wrap=True)
        return
    from rich.table import Table
    from rich.text import Text

    for section in sections:
        console.print(Text(one_line(section.title), style="bold"))
        table = Table(box=None, show_header=bool(section.header), pad_edge=False, padding=(0, 2, 0, 0))
        n_columns = max(len(row) for row in [section.header, *section.rows])
        for i in range(n_columns):
            name = Text(one_line(section.header[i])) if i < len(section.header) else ""
            is_bar = any(row[i].startswith("█") for row in section.rows if i < len(row))
            right = section.right and i > 0 and not is_bar
            table.add_column(
                name,
                justify="right" if right else "left",
                style="cyan" if i == 0 and n_columns > 1 else "",
                no_wrap=section.right or (i == 0 and n_columns > 1),
                overflow="fold",
            )
        for row in section.rows:
            table.add_row(*(Text(one_line(cell)) for cell in row))
        console.print(table)
