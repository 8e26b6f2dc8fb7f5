"""What `edgetune check` found: sections for a terminal, and the same on a page of its own.

check ─→ sections (title, rows of cells) ─→ rich, plain lines, or tables of an HTML page
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from edgetune.checking.data_check import LONGEST, DataCheck
from edgetune.report.page_parts import Html, document, foreign_text, joined, page_header, section_table, tag
from edgetune.report.result_tables import BAR, Rows
from edgetune.utils.formatting import percent
from edgetune.utils.sanitize import brief
from edgetune.utils.tables import Section, print_sections

if TYPE_CHECKING:
    from rich.console import Console

MOST_SCRIPTS = 6
MOST_CLASSES, SMALLEST_CLASSES = 12, 3
"""Classes that a terminal shows, and how many of these are the smallest ones where there are more."""
SHOWN_CHARS, PAGE_CHARS = 64, 400
CLASSES = "Classes"
NOTHING = "Nothing was found that should be mended."


def print_check(check: DataCheck, console: Console) -> None:
    """Print what was found, the sentences last."""
    findings: Rows = [("mend" if mend else "note", text) for text, mend in check.findings]
    told = Section("Findings", findings or [("fine", NOTHING)])
    print_sections([*_sections(check, MOST_CLASSES, SHOWN_CHARS), told], console)


def check_page(check: DataCheck, made: datetime) -> str:
    """Return an HTML page that holds all it needs, made at this time (with its time zone)."""
    header = page_header(joined(["Check of ", foreign_text(check.source)]), made)
    return document(f"Check of {check.source}", tag("body", header, tag("main", *check_parts(check))))


def check_parts(check: DataCheck) -> list[Html]:
    """Return what a page says of a check: sentences, then tables."""
    lists = [
        tag("section", tag("h2", heading), tag("div", tag("ul", *texts), class_="note" if mend else None))
        for heading, mend in (("Should be mended", True), ("Notes", False))
        if (texts := [tag("li", foreign_text(text)) for text, wanted in check.findings if wanted == mend])
    ]
    tables = []
    for section in _sections(check, len(check.classes), PAGE_CHARS):
        table = section_table(section)
        if section.title == CLASSES and len(check.classes) > MOST_CLASSES:
            table = tag("details", tag("summary", f"All {len(check.classes):,} classes"), table)
        tables.append(table)
    return [*(lists or [tag("p", NOTHING)]), tag("h2", "The data"), *tables]


def _sections(check: DataCheck, most_classes: int, n_chars: int) -> list[Section]:
    """Return all but the findings; at most so many classes, and so many characters of a text."""
    classes: Rows = list(_classes(check, most_classes))
    lengths: Rows = [
        (one.unit, *map(_length, (one.shortest, one.median, one.percentile_95, one.longest)))
        for one in check.lengths
    ]
    cuts: Rows = [(str(one.max_length), f"{one.rows:,}", percent(one.share)) for one in check.cuts]
    scripts: Rows = [
        (
            one.script,
            f"{one.rows:,}",
            percent(one.share),
            f"{one.tokens_per_word:.2f}",
            percent(one.unknown_rate),
        )
        for one in check.scripts[:MOST_SCRIPTS]
    ]
    conflicts: Rows = [
        (_some(one.lines), _some(one.labels), brief(one.text, n_chars)) for one in check.conflicts
    ]
    surprising: Rows = []
    for row in check.surprising:
        share = "< 0.001" if row.probability < 0.001 else f"{row.probability:.3f}"
        names = brief(row.label), share, brief(row.predicted)
        surprising.append((f"{row.line:,}", *names, brief(row.text, n_chars)))
    vocabulary = "Scripts, and how the encoder's vocabulary writes them"
    sections = [
        Section("How it was read", [(fact.what, fact.found, fact.option) for fact in check.reading]),
        Section("Rows", list(_rows(check)), right=True),
        Section(CLASSES, classes, ("label", "rows", "share", "of the largest"), right=True),
        Section("Length of a text", lengths, ("unit", "shortest", "median", "95 %", "longest"), right=True),
        Section("Texts cut by --max-length", cuts, ("tokens", "texts", "share"), right=True),
        Section(
            vocabulary, scripts, ("script", "texts", "share", "tokens a word", "unknown tokens"), right=True
        ),
        Section("Accuracy of simple classifiers", list(_validated(check)), right=True),
        Section("Same text, different labels", conflicts, ("lines", "labels", "text")),
        Section(
            "Most surprising labels, for n-grams fitted on other rows",
            surprising,
            ("line", "label", "p(label)", "predicted", "text"),
        ),
    ]
    return [section for section in sections if section.rows]


def _some(values: Sequence[object]) -> str:
    return ", ".join(map(brief, values[:MOST_CLASSES]))


def _rows(check: DataCheck) -> Iterator[tuple[str, ...]]:
    def counted(name: str, count: int, of: int) -> tuple[str, str, str]:
        return name, f"{count:,}", percent(count / of) if of else ""

    yield "read", f"{check.n_read:,}", ""
    yield counted("usable", check.n_rows, check.n_read)
    yield counted("unlabelled", check.n_unlabelled, check.n_read)
    yield counted("unusable", check.n_unusable, check.n_read)
    yield counted("duplicates of earlier rows", check.n_duplicates, check.n_rows)
    yield counted("texts with several labels", check.n_conflicts, check.n_rows)
    if check.n_sampled < check.n_rows:
        yield "sampled for what follows the classes", f"{check.n_sampled:,}", ""
    yield counted("near-duplicates of earlier texts", check.n_near_duplicates, check.n_sampled)


def _classes(check: DataCheck, most: int) -> Iterator[tuple[str, ...]]:
    """Yield the classes, the largest first; the largest and the smallest where there are too many."""
    classes = sorted(check.classes, key=lambda one: -one.rows)
    n_left_out = len(classes) - most
    for number, one in enumerate(classes):
        if n_left_out > 0 and most - SMALLEST_CLASSES <= number < len(classes) - SMALLEST_CLASSES:
            if number == most - SMALLEST_CLASSES:
                yield f"… {n_left_out:,} more", "", "", ""
            continue
        bar = "█" * max(1, round(BAR * one.rows / classes[0].rows))
        yield brief(one.label), f"{one.rows:,}", percent(one.share), bar


def _length(n: int) -> str:
    return f"{n:,}" if n < LONGEST else f"{n:,} or more"


def _validated(check: DataCheck) -> Iterator[tuple[str, ...]]:
    found = check.cross_validation
    if found is None:
        return
    low, high = found.interval
    remarks = ["many rows are alike, so it is optimistic"] * (not found.apart)
    remarks += ["time was short, so more is possible"] * found.is_cut
    yield "always the most frequent label", percent(found.majority), ""
    yield (
        "n-grams, cross-validated",
        percent(found.accuracy),
        f"95 % interval {percent(low)} to {percent(high)}",
    )
    yield "their macro-F1", f"{found.macro_f1:.3f}", "; ".join(remarks)
