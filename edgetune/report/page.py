"""The report page: one HTML file about any number of runs, for a browser, paper, or a screen reader.

    runs ─→ ranked groups ─→ summary · accuracy against time · where the time went · costs · each run
    numbers ─→ matplotlib's objects ─→ SVG text ─→ `_embedded`: ids made unique, ink left to the page

Nothing is loaded from elsewhere and nothing runs: style, pictures and figures are all in the file, and its
own policy forbids the rest. Texts go through `page_parts.tag`, which escapes them. Text and axes of pictures
take the page's colours, so one picture serves light and dark. Same runs, same bytes.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from edgetune.report.charts import PHASES, draw_bars, fill_styles, method_styles, undominated
from edgetune.report.collect import CollectedRuns, RunRecord
from edgetune.report.page_parts import (
    Html,
    class_tables,
    document,
    foreign_text,
    page_header,
    quiet,
    section_table,
    table,
    tag,
    value_or_not_measured,
)
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
    phase_seconds,
    phases,
)
from edgetune.utils.formatting import accuracy_name, counted, describe_macro_f1, duration
from edgetune.utils.sanitize import visible
from edgetune.utils.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes


RANKED = (
    "Ranked among runs on the same data and machine. The interval is the 95 % Wilson interval of the "
    "evaluated rows: runs whose intervals overlap may differ by chance."
)
T_NORM = (
    "T_norm is the time relative to training on everything: measured by the clock, and modelled as in "
    "Ouyang et al., IJCAI 2023. Rows whose backward pass was skipped were only scored; rows whose passes "
    "were both skipped were not shown to the model. The date is the one in the run's summary; where it "
    "is missing, the date of the file."
)
MOST_PICTURES = 40
"""A page of hundreds of pictures would be slow to open and too large to send."""
INK, LINE = "#010203", "#010204"  # stand for the page's own colours until the SVG is embedded
MOST_BARS = 60
MOST_NUMBERED = 12
LEAST_SHARE = 0.02
"""A phase that takes less than this in every run is drawn as part of `other`."""
WIDE = 15.0
"""Where times differ by more than this factor, their axis is logarithmic."""
STYLE = {
    "svg.hashsalt": "edgetune",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 11.0,
    "legend.fontsize": 10.5,
    "hatch.linewidth": 0.6,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def page(collected: CollectedRuns, made: datetime) -> str:
    """Return the whole page, made at this time (with its time zone)."""
    groups = grouped(collected.runs)
    runs = [run for group in groups for run in group.runs]
    ids = {run.name: f"run-{i}" for i, run in enumerate(runs, start=1)}
    title = counted(len(runs), "finetuning run")
    sections = {
        "summary": (
            "Summary",
            [_run_table("Runs, ranked by accuracy", groups, RESULTS, ids), quiet(RANKED)],
        ),
        "accuracy": ("Accuracy against time", _accuracy(groups)),
        "time": ("Where the time went", _time(groups, runs, ids)),
        "costs": (
            "What it cost",
            [_run_table("Examples, steps and relative times", groups, COSTS, ids), quiet(T_NORM)],
        ),
        "runs": ("Each run", [_run(run, ids[run.name], i < MOST_PICTURES) for i, run in enumerate(runs)]),
    }
    contents = [tag("li", tag("a", heading, href=f"#{place}")) for place, (heading, _) in sections.items()]
    header = page_header(
        title,
        made,
        *(tag("p", foreign_text(text), class_="note", role="note") for text in notes(groups)),
        *([_left_out(collected.left_out)] if collected.left_out else []),
    )
    blocks = (
        tag("section", tag("h2", heading, id=place), *inside) for place, (heading, inside) in sections.items()
    )
    nav = tag("nav", tag("ul", *contents), aria_label="Contents")
    return document(title, tag("body", header, nav, tag("main", *blocks)))


def _left_out(sentences: Sequence[str]) -> Html:
    what = f"Left out: {counted(len(sentences), 'run')}"
    inside = tag("details", tag("summary", what), _list(sentences))
    return tag("div", inside, class_="note", role="note")


def _list(texts: Sequence[str]) -> Html:
    return tag("ul", *(tag("li", foreign_text(text)) for text in texts))


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
    drawn = [(group, runs) for group in groups if (runs := _measured(group))]
    if not drawn:
        return [tag("p", "No run has both an accuracy and a time.")]
    words = (
        "Each point is a run, with the 95 % interval of its accuracy; the number is its rank in the table "
        "above. For each run on the dashed line, no other run on the same data and machine was as accurate "
        "in less time."
    )
    n_missing = sum(len(group.runs) for group in groups) - sum(len(runs) for _, runs in drawn)
    if n_missing:
        words += f" Not drawn: {counted(n_missing, 'run')} without an accuracy or a time."
    return [_figure(_accuracy_picture(drawn), words)]


def _measured(group: RunGroup) -> list[RunRecord]:
    """Return the runs of a group that have both an accuracy and a time."""
    return [
        run for run in group.runs if run.figures.accuracy is not None and (run.figures.elapsed_s or 0) > 0
    ]


def _figure(picture: Html, words: str) -> Html:
    inside = tag("div", picture, class_="drawn", tabindex=0, role="group", aria_label="Picture")
    return tag("figure", inside, tag("figcaption", words))


def _time(groups: Sequence[RunGroup], runs: Sequence[RunRecord], ids: dict[str, str]) -> list[Html]:
    drawn = [run for run in runs if phase_seconds(run.figures)][:MOST_BARS]
    if not drawn:
        return [tag("p", "No run has its time by phase.")]
    words = "Seconds of each run, from the start of its process to its end; short phases are part of “other”."
    if len(runs) > MOST_BARS:
        words += f" Only the first {MOST_BARS} runs are drawn; the table lists all of them."
    columns = [RESULTS[6], *map(phase_column, phases(runs))]
    return [_figure(_time_picture(drawn), words), _run_table("Seconds by phase", groups, columns, ids)]


def _run(run: RunRecord, place: str, embedded: bool) -> Html:
    figures = run.figures
    head = [data_name(figures), describe_method(figures), figures.backend, figures.machine.describe]
    shown = [section for section in run.sections if section.title not in ("Classes", "Warnings")]
    blocks = [
        tag("h3", foreign_text(run.name), id=place),
        quiet(foreign_text(" · ".join(part for part in head if part))),
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
        return quiet(f"The plot of this run is run.png in its folder; {words}")
    source = f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
    words = f"Loss, stages and shares of skipped rows of {name} over time; the tables give the numbers."
    return tag("figure", tag("img", src=source, alt=words), tag("figcaption", "The run over time."))


def _accuracy_picture(drawn: Sequence[tuple[RunGroup, Sequence[RunRecord]]]) -> Html:
    """Draw accuracy against seconds, a panel for each group."""
    styles = method_styles(_method(run) for _, runs in drawn for run in runs)
    n_columns = min(2, len(drawn))
    n_rows = -(-len(drawn) // n_columns)
    from matplotlib import rc_context

    with rc_context(STYLE):
        figure = _svg_figure(10.0, 4.4 * n_rows + 0.3 * -(-len(styles) // 4))
        panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
        for axes, (group, runs) in zip(panels, drawn, strict=False):
            _draw_group(axes, group, runs, styles)
            if len(drawn) > 1:
                axes.set_title(visible(f"{group.data} · {group.machine}"), fontsize=10.5, loc="left")
        for axes in panels[len(drawn) :]:
            axes.set_visible(False)
        figure.legend(handles=_legend(styles), loc="outside lower center", ncols=4, frameon=False)
        return _embedded(figure, "accuracy", "Accuracy of each run against its seconds")


def _method(run: RunRecord) -> str:
    return visible(run.figures.method or "unknown method")


def _legend(styles: Mapping[str, tuple[str, str]]) -> list[Any]:
    from matplotlib.lines import Line2D

    points = [
        Line2D([], [], linestyle="", color=colour, marker=marker, markeredgecolor=INK, label=method)
        for method, (colour, marker) in styles.items()
    ]
    return [*points, Line2D([], [], color=INK, linestyle="--", linewidth=1.2, label="Pareto front")]


def _draw_group(
    axes: Axes, group: RunGroup, runs: Sequence[RunRecord], styles: Mapping[str, tuple[str, str]]
) -> None:
    seconds = np.array([run.figures.elapsed_s for run in runs], dtype=np.float64)
    accuracy = 100 * np.array([run.figures.accuracy for run in runs], dtype=np.float64)
    front = undominated(seconds, accuracy)
    look: dict[str, Any] = {"color": INK, "linestyle": "--", "linewidth": 1.2, "zorder": 2}
    axes.step(seconds[front], accuracy[front], where="post", **look)
    for i, run in enumerate(runs):
        colour, marker = styles[_method(run)]
        low, high = run.figures.accuracy_interval or (accuracy[i] / 100,) * 2
        axes.vlines(seconds[i], 100 * low, 100 * high, color=colour, linewidth=1.2, zorder=3)
        edge: dict[str, Any] = {"markeredgecolor": INK, "markeredgewidth": 0.8, "markersize": 8}
        axes.plot(seconds[i], accuracy[i], color=colour, marker=marker, zorder=3, **edge)
        if len(runs) <= MOST_NUMBERED or i in front:
            place: dict[str, Any] = {"xytext": (7, 5), "textcoords": "offset points", "fontsize": 10}
            axes.annotate(str(group.runs.index(run) + 1), (seconds[i], accuracy[i]), **place)
    _time_axis(axes, seconds)
    axes.set_xlabel("seconds from start to end")
    axes.set_ylabel("accuracy (%)")
    _plain(axes, "both")


def _time_axis(axes: Axes, seconds: FloatArray) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if seconds.max() / seconds.min() <= WIDE:
        axes.set_xlim(0, 1.08 * seconds.max())
        return
    axes.set_xscale("log")
    axes.set_xlim(seconds.min() / 1.3, 1.3 * seconds.max())
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _time_picture(runs: Sequence[RunRecord]) -> Html:
    """Draw the seconds of each run by phase."""
    parts = bar_parts(runs)
    from matplotlib import rc_context

    with rc_context(STYLE):
        figure = _svg_figure(10.0, 1.5 + 0.36 * len(runs))
        axes = figure.subplots()
        _plain(axes, "x")
        styles = fill_styles(PHASES, parts, INK)
        rows = [
            (_shortened(run.name), {name: float(seconds[i]) for name, seconds in parts.items()})
            for i, run in enumerate(runs)
        ]
        draw_bars(axes, rows, {name: styles[name] for name in parts})
        figure.legend(loc="outside lower center", ncols=6, frameon=False)
        return _embedded(figure, "time", "Seconds of each run by phase")


def bar_parts(runs: Sequence[RunRecord]) -> dict[str, FloatArray]:
    """Return the seconds (R,) of every phase worth a colour; what is small in every run goes to `other`."""
    splits = [phase_seconds(run.figures) for run in runs]
    totals = np.array([sum(split.values()) for split in splits])
    found: dict[str, FloatArray] = {}
    rest = np.zeros(len(runs))
    for name in phases(runs):
        seconds = np.array([split.get(name, 0.0) for split in splits])
        if name == "other" or np.all(seconds < LEAST_SHARE * totals):
            rest = rest + seconds
        else:
            found[name] = seconds
    by_size = sorted(found, key=lambda name: -float(found[name].sum()))
    return {name: found[name] for name in by_size} | {"other": rest}


def _shortened(text: str, limit: int = 34) -> str:
    return text if len(text) <= limit else f"…{text[1 - limit :]}"


def _svg_figure(width: float, height: float) -> Any:
    """Return a figure (inches) on the SVG canvas: no window, no pyplot."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.1))
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0.0)
    return figure


def _plain(axes: Axes, grid: Any) -> None:
    axes.patch.set_alpha(0.0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)


def _embedded(figure: Any, prefix: str, label: str) -> Html:
    """Return a figure as an `svg` element: ids begin with `prefix`, ink and lines are the page's own."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = out.getvalue()
    inside = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    inside = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", inside, flags=re.DOTALL)
    inside = re.sub(r'\bid="|href="#|url\(#', rf"\g<0>{prefix}-", inside)
    inside = inside.replace(INK, "currentColor").replace(LINE, "var(--line)")
    width, height = 72 * figure.get_size_inches()
    box = f"0 0 {width:g} {height:g}"
    return tag("svg", Html(inside), role="img", aria_label=label, viewBox=box, class_="chart")
