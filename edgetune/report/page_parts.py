"""HTML that is safe by construction: every text is escaped unless it is `Html` already.

Names of runs, labels, paths and settings come from anywhere, so nothing but `tag` writes markup, control
characters are shown as U+FFFD, and a text of unknown direction is isolated from its surroundings.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from html import escape
from pathlib import Path

from edgetune.report.collect import RunFigures
from edgetune.utils.sanitize import visible
from edgetune.utils.tables import Section
from edgetune.utils.version import __version__

NOT_MEASURED = "not measured"
MOST_CLASSES = 24
"""With more classes, the largest confusions stand for the matrix, which no screen would hold."""
MOST_CONFUSIONS = 30
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
VOID = frozenset({"meta", "img", "br", "hr"})


class Html(str):
    """Markup, to be put into a page as it stands."""

    __slots__ = ()


def joined(parts: Iterable[str]) -> Html:
    """Put parts one after the other, texts escaped."""
    return Html(
        "".join(part if isinstance(part, Html) else escape(visible(part), quote=False) for part in parts)
    )


def tag(name: str, /, *children: str, **attributes: str | int | None) -> Html:
    """Return an element; `aria_label` is aria-label, `class_` is class, and None leaves an attribute out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(visible(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{joined(children)}</{name}>")


def document(title: str, body: Html) -> str:
    """Return a whole page; its policy forbids scripts, and whatever lies elsewhere."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"edgetune: {title}"),
        Html(f"<style>\n{Path(__file__).with_name('page.css').read_text(encoding='utf-8')}</style>"),
    )
    return f'<!DOCTYPE html>\n<html lang="en">{head}{body}</html>\n'


def page_header(heading: str, made: datetime, *more: Html) -> Html:
    """Return a page's heading, when it was made (with its time zone) and by what, and more."""
    words = f"Made {made:%Y-%m-%d %H:%M %Z} by edgetune {__version__}."
    return tag("header", tag("h1", heading), quiet(words), *more)


def quiet(text: str) -> Html:
    """Return a paragraph that stands back."""
    return tag("p", text, class_="quiet")


def foreign_text(text: object) -> Html:
    """Return words that came from outside, whatever direction they are written in."""
    return tag("bdi", visible(text))


def value_or_not_measured(words: str | None) -> Html:
    """Return a figure in words, or that it was not measured."""
    return tag("span", NOT_MEASURED, class_="none") if words is None else foreign_text(words)


def table(caption: str, header: Sequence[str], rows: Iterable[Html], right: Collection[int] = ()) -> Html:
    """Return a table in a region of its own that scrolls, and that the keyboard can reach.

    Args:
        caption: what it shows.
        header: names of the columns; none: there is no header row.
        rows: `tr` elements, or `tbody` elements.
        right: numbers of the columns that hold numbers, from 0.
    """
    names = [
        tag("th", name, scope="col", class_="n" if i in right else None) for i, name in enumerate(header)
    ]
    head = tag("thead", tag("tr", *names)) if header else Html("")
    rows = list(rows)
    bodies = rows if rows and rows[0].startswith("<tbody") else [tag("tbody", *rows)]
    whole = tag("table", tag("caption", caption), head, *bodies)
    return tag("div", whole, class_="scroll", tabindex=0, role="region", aria_label=caption)


def row(name: str, cells: Iterable[str], right: Collection[int] = ()) -> Html:
    """Return a row that its first cell names."""
    rest = [tag("td", cell, class_="n" if i in right else None) for i, cell in enumerate(cells, start=1)]
    return tag("tr", tag("th", name, scope="row"), *rest)


def section_table(section: Section) -> Html:
    """Return a block of the closing table; a bar drawn of characters becomes one drawn by CSS."""
    width = max(map(len, section.rows))
    bars = {i for cells in section.rows for i, cell in enumerate(cells) if cell.startswith("█")}
    right = {*range(1, width)} - bars if section.right else ()
    rows = [row(foreign_text(first), map(_cell, rest), right) for first, *rest in section.rows]
    return table(section.title, [name or "part" for name in section.header], rows, right)


def _cell(text: str) -> Html:
    if text and not text.strip("█"):
        return tag("span", class_="bar", style=f"width:{len(text)}ex")
    return foreign_text(text)


def class_tables(figures: RunFigures) -> list[Html]:
    """Return how each class fared and what was taken for what; folded up where there are many classes."""
    n_classes, tables = len(figures.per_class), []
    if figures.per_class:
        rows = []
        for one in figures.per_class:
            shares = (one.precision, one.recall, one.f1)
            words = [None if share is None else f"{share:.3f}" for share in shares]
            words.append(None if one.support is None else f"{one.support:,}")
            rows.append(row(foreign_text(one.label), map(value_or_not_measured, words), range(1, 5)))
        header = ("class", "precision", "recall", "F1", "rows")
        made = table("Results by class", header, rows, range(1, 5))
        folded = tag("details", tag("summary", f"All {n_classes} classes"), made)
        tables.append(folded if n_classes > MOST_CLASSES else made)
    if figures.confusion:
        many = len(figures.confusion) > MOST_CLASSES
        tables.append(_largest_confusions(figures) if many else _confusion(figures))
    return tables


def _class_names(figures: RunFigures) -> list[str]:
    n = max(len(figures.confusion), *(len(counts) for counts in figures.confusion))
    if len(figures.per_class) == n:  # with classes of evaluation rows that the model does not have
        return [str(one.label) for one in figures.per_class]
    return figures.label_names if len(figures.label_names) == n else [str(i) for i in range(n)]


def _confusion(figures: RunFigures) -> Html:
    """Return the whole matrix; a cell is shaded by its share of the true class."""
    names = _class_names(figures)
    rows = []
    for i, counts in enumerate(figures.confusion):
        cells = [
            tag("td", f"{count:,}", class_=f"n {_shade(count / max(sum(counts), 1), i == j)}".strip())
            for j, count in enumerate(counts)
        ]
        rows.append(tag("tr", tag("th", foreign_text(names[i]), scope="row"), *cells))
    caption = "Confusion matrix (rows: true class, columns: predicted class)"
    return table(caption, ["true", *names], rows, range(1, len(names) + 1))


def _shade(share: float, right: bool) -> str:
    return f"{'hit' if right else 'miss'}{1 + (share >= 0.1) + (share >= 0.4)}" if share else ""


def _largest_confusions(figures: RunFigures) -> Html:
    names = _class_names(figures)
    wrong = [
        (count, i, j)
        for i, counts in enumerate(figures.confusion)
        for j, count in enumerate(counts)
        if i != j and count
    ]
    rows = [
        row(foreign_text(names[i]), [foreign_text(names[j]), f"{count:,}"], (2,))
        for count, i, j in sorted(wrong, reverse=True)[:MOST_CONFUSIONS]
    ]
    caption = f"The {len(rows)} largest confusions among {len(names)} classes"
    return table(caption, ("true", "predicted", "rows"), rows, (2,))
