"""The report page: one HTML file about any number of runs, for a browser, paper, or a screen reader.

    runs ─→ ranked groups ─→ summary · accuracy against time · where the time went · costs · each run

Nothing is loaded from elsewhere and nothing runs: style, pictures and figures are all in the file, and its
own policy forbids the rest. Texts go through `page_parts.tag`, which escapes them.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from edgetune.report.collect import CollectedRuns, RunRecord
from edgetune.report.page_parts import (
    Html,
    class_tables,
    document,
    foreign_text,
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
from edgetune.utils.formatting import accuracy_name, counted, describe_macro_f1, duration
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
    runs = [run for group in groups for run in group.runs]
    ids = {run.name: f"run-{i}" for i, run in enumerate(runs, start=1)}
    title = counted(len(runs), "finetuning run")
    sections = {
        "summary": ("Summary", _summary(groups, ids)),
        "accuracy": ("Accuracy against time", _accuracy(groups)),
        "time": ("Where the time went", _time(groups, ids)),
        "costs": ("What it cost", _costs(groups, ids)),
        "runs": ("Each run", [_run(run, ids[run.name], i < MOST_PICTURES) for i, run in enumerate(runs)]),
    }
    contents = [tag("li", tag("a", heading, href=f"#{place}")) for place, (heading, _) in sections.items()]
    header = tag(
        "header",
        tag("h1", title),
        tag("p", f"Made {made:%Y-%m-%d %H:%M %Z} by edgetune {__version__}.", class_="quiet"),
        *(tag("p", foreign_text(text), class_="note", role="note") for text in notes(groups)),
        _left_out(collected.left_out),
    )
    main = tag(
        "main",
        *(
            tag("section", tag("h2", heading, id=place), *blocks)
            for place, (heading, blocks) in sections.items()
        ),
    )
    return document(title, tag("body", header, tag("nav", tag("ul", *contents), aria_label="Contents"), main))


def _left_out(sentences: Sequence[str]) -> Html:
    if not sentences:
        return Html("")
    what = f"Left out: {counted(len(sentences), 'run')}"
    inside = tag("details", tag("summary", what), _list(sentences))
    return tag("div", inside, class_="note", role="note")


def _list(texts: Sequence[str]) -> Html:
    return tag("ul", *(tag("li", foreign_text(text)) for text in texts))


def _summary(groups: Sequence[RunGroup], ids: dict[str, str]) -> list[Html]:
    words = (
        "Ranked among runs on the same data and machine. The interval is the 95 % Wilson interval of the "
        "evaluated rows: runs whose intervals overlap may differ by chance."
    )
    return [_run_table("Runs, ranked by accuracy", groups, RESULTS, ids), tag("p", words, class_="quiet")]


def _run_table(
    caption: str, groups: Sequence[RunGroup], columns: Sequence[Column], ids: dict[str, str]
) -> Html:
    """Return a table of all runs, a body for each group; its first two columns are rank and name."""
    rest = [column for column in columns if column is not RESULTS[0]]
    bodies = []
    for group in groups:
        rows = []
        if len(groups) > 1:
            span: dict[str, Any] = {"class_": "group", "scope": "rowgroup", "colspan": len(rest) + 2}
            rows.append(tag("tr", tag("th", foreign_text(group.describe), **span)))
        for rank, run in enumerate(group.runs, start=1):
            name = tag("th", tag("a", foreign_text(run.name), href=f"#{ids[run.name]}"), scope="row")
            cells = [
                tag("td", value_or_not_measured(column.words(run)), class_="n" if column.right else None)
                for column in rest
            ]
            rows.append(tag("tr", tag("td", str(rank), class_="n"), name, *cells))
        bodies.append(tag("tbody", *rows))
    where = "" if len(groups) > 1 else f"; {groups[0].describe}"
    right = {i for i, column in enumerate(rest, start=2) if column.right} | {0}
    return table(caption + where, ["#", "run", *(column.title for column in rest)], bodies, right)


def _accuracy(groups: Sequence[RunGroup]) -> list[Html]:
    picture = accuracy_picture(groups)
    n_missing = sum(len(group.runs) - len(measured(group)) for group in groups)
    words = (
        "Each point is a run, with the 95 % interval of its accuracy; the number is its rank in the table "
        "above. For each run on the dashed line, no other run on the same data and machine was as accurate "
        "in less time."
    )
    if n_missing:
        words += f" Not drawn: {counted(n_missing, 'run')} without an accuracy or a time."
    return [_figure(picture, words) if picture else tag("p", "No run has both an accuracy and a time.")]


def _figure(picture: Html, words: str) -> Html:
    inside = tag("div", picture, class_="drawn", tabindex=0, role="group", aria_label="Picture")
    return tag("figure", inside, tag("figcaption", words))


def _time(groups: Sequence[RunGroup], ids: dict[str, str]) -> list[Html]:
    runs = [run for group in groups for run in group.runs]
    picture = time_picture(groups)
    if picture is None:
        return [tag("p", "No run has its time by phase.")]
    words = "Seconds of each run, from the start of its process to its end; short phases are part of “other”."
    if len(runs) > MOST_BARS:
        words += f" Only the first {MOST_BARS} runs are drawn; the table lists all of them."
    columns = [RESULTS[6], *map(phase_column, phases(runs))]
    return [_figure(picture, words), _run_table("Seconds by phase", groups, columns, ids)]


def _costs(groups: Sequence[RunGroup], ids: dict[str, str]) -> list[Html]:
    words = (
        "T_norm is the time relative to training on everything: measured by the clock, and modelled as in "
        "Ouyang et al., IJCAI 2023. Rows whose backward pass was skipped were only scored; rows whose passes "
        "were both skipped were not shown to the model. The date is the one in the run's summary; where it "
        "is missing, the date of the file."
    )
    table = _run_table("Examples, steps and relative times", groups, COSTS, ids)
    return [table, tag("p", words, class_="quiet")]


def _run(run: RunRecord, place: str, embedded: bool) -> Html:
    figures = run.figures
    head = [data_name(figures), describe_method(figures), figures.backend, figures.machine.describe]
    shown = [section for section in run.sections if section.title not in ("Classes", "Warnings")]
    blocks = [
        tag("h3", foreign_text(run.name), id=place),
        tag("p", foreign_text(" · ".join(part for part in head if part)), class_="quiet"),
        _tiles(run),
    ]
    if figures.warnings:
        inside = (tag("strong", "Warnings"), _list(figures.warnings))
        blocks.append(tag("div", *inside, class_="note", role="note"))
    if run.picture is not None:
        blocks.append(_own_picture(run.name, run.picture, embedded))
    blocks += [tag("div", *map(section_table, shown), class_="summaries"), *class_tables(figures)]
    if run.config is not None:
        text = tag("pre", run.config, tabindex=0, aria_label="Settings")
        blocks.append(tag("details", tag("summary", "Settings (config.toml)"), text))
    return tag("article", *blocks, class_="run", aria_labelledby=place)


def _tiles(run: RunRecord) -> Html:
    figures = run.figures
    supports = [{"support": one.support} for one in figures.per_class if one.support is not None]
    pairs = [
        *([("micro-F1", f"{figures.micro_f1:.4f}")] if figures.micro_f1 is not None else ()),
        (f"{accuracy_name({'micro_f1': figures.micro_f1})} (95 % interval)", accuracy_cell(figures)),
        ("macro-F1", describe_macro_f1({"macro_f1": figures.macro_f1, "per_class": supports})),
        ("time", None if figures.elapsed_s is None else duration(figures.elapsed_s)),
        ("examples trained", COSTS[2].words(run)),
        ("T_norm measured", COSTS[6].words(run)),
        ("energy", describe_energy(figures)),
    ]
    tiles = [tag("div", tag("dt", name), tag("dd", value_or_not_measured(words))) for name, words in pairs]
    return tag("dl", *tiles, class_="tiles")


def _own_picture(name: str, png: bytes, embedded: bool) -> Html:
    if not embedded:
        words = f"only the first {MOST_PICTURES} are on this page."
        return tag("p", f"The plot of this run is run.png in its folder; {words}", class_="quiet")
    source = f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
    words = f"Loss, stages and shares of skipped rows of {name} over time; the tables give the numbers."
    return tag("figure", tag("img", src=source, alt=words), tag("figcaption", "The run over time."))
