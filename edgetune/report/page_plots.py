"""The pictures of the report page, as SVG that is part of the page: no file, no script.

    numbers ─→ matplotlib's objects ─→ SVG text ─→ `_embedded`: ids made unique, ink left to the page

Text and axes take the page's colours, so one picture serves light and dark. Same runs, same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgetune.report.chart_style import PHASES, draw_bars, fill_styles, method_styles, undominated
from edgetune.report.page_parts import Html, tag
from edgetune.report.run_table import RunGroup, phase_seconds, phases
from edgetune.utils.sanitize import visible
from edgetune.utils.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from edgetune.report.collect import RunRecord


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


def accuracy_picture(groups: Sequence[RunGroup]) -> Html | None:
    """Draw accuracy against seconds, a panel for each group; None when no run has both."""
    drawn = [(group, runs) for group in groups if (runs := measured(group))]
    if not drawn:
        return None
    styles = method_styles(_method(run) for _, runs in drawn for run in runs)
    n_columns = min(2, len(drawn))
    n_rows = -(-len(drawn) // n_columns)
    from matplotlib import rc_context

    with rc_context(STYLE):
        figure = _figure(10.0, 4.4 * n_rows + 0.3 * -(-len(styles) // 4))
        panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
        for axes, (group, runs) in zip(panels, drawn, strict=False):
            _draw_group(axes, group, runs, styles)
            if len(drawn) > 1:
                axes.set_title(visible(f"{group.data} · {group.machine}"), fontsize=10.5, loc="left")
        for axes in panels[len(drawn) :]:
            axes.set_visible(False)
        figure.legend(handles=_legend(styles), loc="outside lower center", ncols=4, frameon=False)
        return _embedded(figure, "accuracy", "Accuracy of each run against its seconds")


def measured(group: RunGroup) -> list[RunRecord]:
    """Return the runs of a group that have both an accuracy and a time."""
    return [
        run
        for run in group.runs
        if run.figures.accuracy is not None
        and run.figures.elapsed_s is not None
        and run.figures.elapsed_s > 0
    ]


def _method(run: RunRecord) -> str:
    return visible(run.figures.method or "unknown method")


def _legend(styles: Mapping[str, tuple[str, str]]) -> list[Any]:
    from matplotlib.lines import Line2D

    points: list[Any] = [
        Line2D([], [], linestyle="", color=colour, marker=marker, markeredgecolor=INK, label=method)
        for method, (colour, marker) in styles.items()
    ]
    front = Line2D([], [], color=INK, linestyle="--", linewidth=1.2, label="Pareto front")
    return [*points, front]


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


def time_picture(groups: Sequence[RunGroup]) -> Html | None:
    """Draw the seconds of each run by phase, of the first 60; None when no run tells them."""
    runs = [run for group in groups for run in group.runs if phase_seconds(run.figures)][:MOST_BARS]
    if not runs:
        return None
    parts = bar_parts(runs)
    from matplotlib import rc_context

    with rc_context(STYLE):
        figure = _figure(10.0, 1.5 + 0.36 * len(runs))
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


def _figure(width: float, height: float) -> Any:
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
    inside = re.sub(r'\bid="', f'id="{prefix}-', inside)
    inside = re.sub(r'href="#', f'href="#{prefix}-', inside)
    inside = re.sub(r"url\(#", f"url(#{prefix}-", inside)
    inside = inside.replace(INK, "currentColor").replace(LINE, "var(--line)")
    width, height = (72 * inches for inches in figure.get_size_inches())
    return tag(
        "svg",
        Html(inside),
        role="img",
        aria_label=label,
        viewBox=f"0 0 {width:g} {height:g}",
        class_="chart",
    )
