"""The report page: one HTML file about any number of runs, for a browser, paper, or a screen reader.

    runs ─→ ranked groups ─→ summary · accuracy against time · where the time went · costs · each run

Nothing is loaded from elsewhere and nothing runs: style, pictures and figures are all in the file, and its
own policy forbids the rest. Texts go through `page_parts.tag`, which escapes them.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from datetime import datetime

from edgetune.report.collect import CollectedRuns, RunRecord
from edgetune.report.page_parts import (
    Html,
    class_tables,
    document,
    foreign_text,
    joined,
    section_table,
    table,
    tag,
    value_or_not_measured,
)
from edgetune.report.page_plots import MOST_BARS, accuracy_picture, measured, time_picture
from edgetune.report.run_table import (
    COSTS,
    RESULTS,
    Column,
    RunGroup,
    accuracy_cell,
    data_name,
    describe_energy,
    describe_method,
    grouped,
    notes,
    phase_column,
    phases,
)
from edgetune.utils.formatting import counted, describe_macro_f1, duration
from edgetune.utils.version import __version__

MOST_PICTURES = 40
"""A page of hundreds of pictures would be slow to open and too large to send."""


def page(collected: CollectedRuns, made: datetime) -> str:
    """Return the whole page.

    Args:
        collected: the runs.
        made: when the page is made, with its time zone.
    """
    groups = grouped(collected.runs)
    ids = {run.name: f"run-{i}" for i, run in enumerate((r for g in groups for r in g.runs), start=1)}
    n = len(collected.runs)
    title = counted(n, "finetuning run")
    body = tag(
        "body",
        tag(
            "header",
            tag("h1", title),
            tag("p", f"Made {made:%Y-%m-%d %H:%M %Z} by edgetune {__version__}.", class_="quiet"),
            _notes(groups, collected.left_out),
        ),
        _contents(),
        tag(
            "main",
            _summary(groups, ids),
            _accuracy(groups),
            _time(groups, ids),
            _costs(groups, ids),
            tag("section", tag("h2", "Each run", id="runs"), *_runs(groups, ids)),
        ),
    )
    return document(title, body)


def _notes(groups: Sequence[RunGroup], left_out: Sequence[str]) -> Html:
    blocks = [tag("p", foreign_text(text), class_="note", role="note") for text in notes(groups)]
    if left_out:
        items = [tag("li", foreign_text(text)) for text in left_out]
        what = f"Left out: {counted(len(left_out), 'run')}"
        inside = tag("details", tag("summary", what), tag("ul", *items))
        blocks.append(tag("div", inside, class_="note", role="note"))
    return joined(blocks)


def _contents() -> Html:
    places = [
        ("summary", "Summary"),
        ("accuracy", "Accuracy against time"),
        ("time", "Where the time went"),
        ("costs", "What it cost"),
        ("runs", "Each run"),
    ]
    items = [tag("li", tag("a", name, href=f"#{place}")) for place, name in places]
    return tag("nav", tag("ul", *items), aria_label="Contents")


def _summary(groups: Sequence[RunGroup], ids: dict[str, str]) -> Html:
    return tag(
        "section",
        tag("h2", "Summary", id="summary"),
        _run_table("Runs, ranked by accuracy", groups, RESULTS, ids),
        tag(
            "p",
            "Ranked among runs on the same data and machine. The interval is the 95 % Wilson interval of the "
            "evaluated rows: runs whose intervals overlap may differ by chance.",
            class_="quiet",
        ),
    )


def _run_table(
    caption: str, groups: Sequence[RunGroup], columns: Sequence[Column], ids: dict[str, str]
) -> Html:
    """Return a table of all runs, a body for each group; its first two columns are rank and name."""
    several = len(groups) > 1
    rest = [column for column in columns if column is not RESULTS[0]]
    bodies = []
    for group in groups:
        rows = [
            tag(
                "tr",
                tag("td", str(rank), class_="n"),
                tag("th", tag("a", foreign_text(run.name), href=f"#{ids[run.name]}"), scope="row"),
                *(
                    tag("td", value_or_not_measured(column.words(run)), class_="n" if column.right else None)
                    for column in rest
                ),
            )
            for rank, run in enumerate(group.runs, start=1)
        ]
        words = tag(
            "th", foreign_text(describe_group(group)), class_="group", scope="rowgroup", colspan=len(rest) + 2
        )
        bodies.append(tag("tbody", tag("tr", words), *rows) if several else tag("tbody", *rows))
    where = "" if several else f"; {describe_group(groups[0])}"
    right = {i for i, column in enumerate(rest, start=2) if column.right} | {0}
    return table(caption + where, ["#", "run", *(column.title for column in rest)], bodies, right)


def describe_group(group: RunGroup) -> str:
    """Say on what data and machine the runs of a group were made."""
    return f"{group.data} on {group.machine}"


def _accuracy(groups: Sequence[RunGroup]) -> Html:
    picture = accuracy_picture(groups)
    n_missing = sum(len(group.runs) - len(measured(group)) for group in groups)
    words = (
        "Each point is a run, with the 95 % interval of its accuracy; the number is its rank in the table "
        "above. For each run on the dashed line, no other run on the same data and machine was as accurate "
        "in less time."
    )
    if n_missing:
        words += f" Not drawn: {counted(n_missing, 'run')} without an accuracy or a time."
    drawn = _figure(picture, words) if picture else tag("p", "No run has both an accuracy and a time.")
    return tag("section", tag("h2", "Accuracy against time", id="accuracy"), drawn)


def _figure(picture: Html, words: str) -> Html:
    inside = tag("div", picture, class_="drawn", tabindex=0, role="group", aria_label="Picture")
    return tag("figure", inside, tag("figcaption", words))


def _time(groups: Sequence[RunGroup], ids: dict[str, str]) -> Html:
    runs = [run for group in groups for run in group.runs]
    picture = time_picture(groups)
    words = "Seconds of each run, from the start of its process to its end; short phases are part of “other”."
    if len(runs) > MOST_BARS:
        words += f" Only the first {MOST_BARS} runs are drawn; the table lists all of them."
    blocks = [tag("h2", "Where the time went", id="time")]
    if picture is None:
        blocks.append(tag("p", "No run has its time by phase."))
    else:
        blocks.append(_figure(picture, words))
        columns = [RESULTS[6], *map(phase_column, phases(runs))]
        blocks.append(_run_table("Seconds by phase", groups, columns, ids))
    return tag("section", *blocks)


def _costs(groups: Sequence[RunGroup], ids: dict[str, str]) -> Html:
    words = (
        "T_norm is the time relative to training on everything: measured by the clock, and modelled as in "
        "Ouyang et al., IJCAI 2023. Rows whose backward pass was skipped were only scored; rows whose passes "
        "were both skipped were not shown to the model. The date is the one in the run's summary; where it "
        "is missing, the date of the file."
    )
    return tag(
        "section",
        tag("h2", "What it cost", id="costs"),
        _run_table("Examples, steps and relative times", groups, COSTS, ids),
        tag("p", words, class_="quiet"),
    )


def _runs(groups: Sequence[RunGroup], ids: dict[str, str]) -> Iterable[Html]:
    runs = [run for group in groups for run in group.runs]
    for number, run in enumerate(runs, start=1):
        yield _run(run, ids[run.name], _own_picture(run, number <= MOST_PICTURES))


def _run(run: RunRecord, place: str, picture: Html) -> Html:
    figures = run.figures
    head = [data_name(figures), describe_method(figures), figures.backend, figures.machine.describe]
    shown = [section for section in run.sections if section.title not in ("Classes", "Warnings")]
    return tag(
        "article",
        tag("h3", foreign_text(run.name), id=place),
        tag("p", foreign_text(" · ".join(part for part in head if part)), class_="quiet"),
        _tiles(run),
        _warnings(run),
        picture,
        tag("div", *map(section_table, shown), class_="receipts"),
        *class_tables(figures),
        _settings(run),
        class_="run",
        aria_labelledby=place,
    )


def _tiles(run: RunRecord) -> Html:
    figures = run.figures
    supports = [{"support": one.support} for one in figures.per_class if one.support is not None]
    seconds = None if figures.elapsed_s is None else duration(figures.elapsed_s)
    trained = None if figures.n_trained is None else f"{figures.n_trained:,}"
    relative = None if figures.t_norm_measured is None else f"{figures.t_norm_measured:.3f}"
    pairs = [
        ("accuracy (95 % interval)", accuracy_cell(figures)),
        ("macro-F1", describe_macro_f1({"macro_f1": figures.macro_f1, "per_class": supports})),
        ("time", seconds),
        ("examples trained", trained),
        ("T_norm measured", relative),
        ("energy", describe_energy(figures)),
    ]
    tiles = [tag("div", tag("dt", name), tag("dd", value_or_not_measured(words))) for name, words in pairs]
    return tag("dl", *tiles, class_="tiles")


def _warnings(run: RunRecord) -> Html:
    if not run.figures.warnings:
        return Html("")
    items = [tag("li", foreign_text(text)) for text in run.figures.warnings]
    return tag("div", tag("strong", "Warnings"), tag("ul", *items), class_="note", role="note")


def _own_picture(run: RunRecord, embedded: bool) -> Html:
    if run.picture is None:
        return Html("")
    if not embedded:
        words = (
            f"The plot of this run is run.png in its folder; only the first {MOST_PICTURES} are on this page."
        )
        return tag("p", words, class_="quiet")
    source = f"data:image/png;base64,{base64.b64encode(run.picture).decode('ascii')}"
    words = f"Loss, stages and shares of skipped rows of {run.name} over time; the tables give the numbers."
    return tag("figure", tag("img", src=source, alt=words), tag("figcaption", "The run over time."))


def _settings(run: RunRecord) -> Html:
    if run.config is None:
        return Html("")
    what = tag("summary", "Settings (config.toml)")
    return tag("details", what, tag("pre", run.config, tabindex=0, aria_label="Settings"))
