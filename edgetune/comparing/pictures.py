"""The pictures of a comparison: PNG or SVG by the path's ending, the same bytes for the same numbers.

Drawn through matplotlib's objects like `run.png`. Nothing is told by colour alone: markers, hatches or
words say it too. A picture with nothing in it says so in a sentence.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgetune.config import METHODS
from edgetune.report.plots import BLUE, GREEN, GREY, ORANGE, SKY, VERMILLION
from edgetune.report.words import duration, stage_words
from edgetune.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

PURPLE, YELLOW, BLACK = "#CC79A7", "#F0E442", "#000000"
COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK)
"""Okabe and Ito's for points and lines: their yellow is too light for a line on white paper."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
PARTS = (
    *("train", "score", "select", "prepare", "load", "evaluate"),
    *("export", "save", "tokenize", "open", "floor", "other"),
)
"""Phases of `edgetune.meter`, the largest first: lengths that start at one line are easiest to compare."""
STAGES = ("all", "warmup", "filter_backward", "filter_forward", "reference", "subset")
FILLS = (
    *((BLUE, ""), (ORANGE, "//"), (GREEN, ".."), (PURPLE, "xx"), (SKY, "\\\\"), (YELLOW, "--")),
    *((VERMILLION, "||"), (GREY, "++"), (SKY, ".."), (ORANGE, "xx"), (GREEN, "||"), ("#D9D9D9", "")),
    *((colour, "oo") for colour in (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION)),
)
"""Colour and hatch of the parts above, then of unknown ones; hatches are what print in grey keeps apart."""
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MANY_ROWS = 20_000
"""Above so many rows the map shows cells and not dots."""
TIMES = [number * 10**power for power in range(-2, 7) for number in (1, 2, 3, 6)]
"""Seconds that are written at a time axis if they fall on it."""


@dataclass(frozen=True, slots=True)
class Point:
    """A method in the picture of accuracy against time.

    Attributes:
        method: its name.
        seconds: its time, above 0.
        accuracy: mean over seeds, in [0, 1].
        low: lower end of its interval.
        high: upper end.
        n_seeds: runs it was measured by.
    """

    method: str
    seconds: float
    accuracy: float
    low: float
    high: float
    n_seeds: int


def styles(methods: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return colour and marker of each method: a known one has its own in every picture, no two are alike.

    Up to 63, that is; unknown ones are numbered by name.
    """
    names = set(methods)
    order = [*METHODS, *sorted(names - set(METHODS))]
    return {
        name: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)])
        for i, name in enumerate(order)
        if name in names
    }


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats in time and accuracy, quickest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.seconds, -point.accuracy)):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    return front


def draw_pareto(
    points: Sequence[Point], curve: Sequence[tuple[float, float]], title: str, path: Path
) -> None:
    """Draw accuracy against log seconds: intervals, names, the front, and the reference's curve.

    Args:
        points: the methods.
        curve: seconds and accuracy of random + decay; empty: none is drawn.
        title: such as the data set and the model.
        path: ends in .png or .svg.
    """
    if not points and not curve:
        return _say("No method has been measured yet.", path)
    times = [point.seconds for point in points] + [seconds for seconds, _ in curve]
    if min(times) <= 0:
        raise ValueError(f"a time must be above 0 s; found {min(times)}")
    looks = styles(point.method for point in points)
    if _crowded(points, times):
        figure, whole = _figure(14, 7.2, title)
        whole.set_position((0.055, 0.13, 0.345, 0.8))
        axes = _dress(figure.add_axes((0.45, 0.13, 0.53, 0.8)))
        _draw_points(whole, points, curve, looks, size=5)
        _time_axis(whole, times, pad=1.2)
        _draw_points(axes, points, curve, looks)
        _close_up(whole, axes, points)
    else:
        figure, axes = _figure(10, 7.2, title)
        figure.subplots_adjust(bottom=0.13)
        _draw_points(axes, points, curve, looks)
        _time_axis(axes, times, pad=(max(times) / min(times)) ** (0.15 if curve else 0.35))
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.09), ncols=2, frameon=False, borderaxespad=0)
    axes.text(
        1,
        -0.1,
        "in brackets: number of seeds",
        transform=axes.transAxes,
        ha="right",
        va="top",
        color="#444444",
    )
    _label(axes, points, looks)
    return _save(figure, path)


def _crowded(points: Sequence[Point], times: Sequence[float]) -> bool:
    """Whether methods of about the same time would stand on one line, since the curve is so long."""
    seconds = [point.seconds for point in points]
    return len(points) > 3 and max(seconds) / min(seconds) < (max(times) / min(times)) ** 0.3


def _draw_points(
    axes: Axes,
    points: Sequence[Point],
    curve: Sequence[tuple[float, float]],
    looks: Mapping[str, tuple[str, str]],
    size: float = 8,
) -> None:
    """Draw the curve, the front, then a bar and a marker for each point."""
    if curve:
        known = np.array(sorted(curve))
        axes.plot(
            known[:, 0],
            100 * known[:, 1],
            color=GREY,
            linewidth=5,
            alpha=0.45,
            label="random + decay, by time",
        )
    if points:
        front = [(point.seconds, 100 * point.accuracy) for point in pareto_front(points)]
        corners = np.repeat(front, 2, axis=0)
        axes.plot(corners[1:, 0], corners[:-1, 1], "--", color=BLACK, linewidth=1.1, label="Pareto front")
    for point in points:
        colour, marker = looks[point.method]
        bar = [100 * point.low, 100 * point.high]
        axes.plot([point.seconds] * 2, bar, color=colour, linewidth=1.3, alpha=0.65)
        axes.plot([point.seconds], [100 * point.accuracy], marker, zorder=3, **_dot(colour, size))
    axes.margins(y=0.06)
    axes.set_ylabel("accuracy (%), bars: 95 % interval")


def _close_up(whole: Axes, axes: Axes, points: Sequence[Point]) -> None:
    """Limit the axes to the points, with room for names beside them, and frame that in the whole."""
    from matplotlib.patches import Rectangle

    seconds = [point.seconds for point in points]
    _time_axis(axes, seconds, pad=(max(seconds) / min(seconds)) ** 0.5)
    low, high = 100 * min(point.low for point in points), 100 * max(point.high for point in points)
    axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    box = axes.viewLim
    whole.add_patch(Rectangle((box.x0, box.y0), box.width, box.height, fill=False, linewidth=0.9))
    axes.set_ylabel("accuracy (%), inside the frame on the left")


def draw_time_split(rows: Sequence[tuple[str, Mapping[str, float]]], path: Path) -> None:
    """Draw where each method's seconds went, as stacked bars, first row on top."""
    if not any(parts for _, parts in rows):
        return _say("No time has been measured yet.", path)
    names = _in_order(PARTS, [part for _, parts in rows for part in parts])
    figure, axes = _figure(10, _height(len(rows)))
    left = np.zeros(len(rows))
    for name, fill in names.items():
        widths = np.array([parts.get(name, 0.0) for _, parts in rows])
        axes.barh(range(len(rows)), widths, left=left, height=0.72, label=_plain(name), **fill)
        left += widths
    for i, total in enumerate(left):
        axes.annotate(duration(total), (total, i), (5, 0), textcoords="offset points", va="center")
    axes.set_xlim(0, 1.1 * max(left.max(), 1e-3))
    _rows_axis(axes, [method for method, _ in rows])
    return _save(figure, path)


def draw_stages(rows: Sequence[tuple[str, Sequence[tuple[str, float, float]]]], path: Path) -> None:
    """Draw when each method was in which stage, start to end in seconds, first row on top."""
    spans = [(i, *span) for i, (_, stages) in enumerate(rows) for span in stages]
    if not spans:
        return _say("No stage has been recorded yet.", path)
    figure, axes = _figure(10, _height(len(rows)))
    for name, fill in _in_order(STAGES, [stage for _, stage, _, _ in spans]).items():
        mine = np.array([(i, start, end) for i, stage, start, end in spans if stage == name])
        at, starts, ends = mine.T
        axes.barh(at, ends - starts, left=starts, height=0.72, label=_plain(stage_words(name)), **fill)
    axes.set_xlim(0, 1.02 * max(end for *_, end in spans))
    _rows_axis(axes, [method for method, _ in rows])
    return _save(figure, path)


def draw_sensitivity(
    x_name: str, curves: Mapping[str, Sequence[tuple[float, float, float, float]]], path: Path
) -> None:
    """Draw accuracy against a setting, a line with interval bars for each method.

    Methods stand a little beside each other, so that their bars can be told apart; the legend has them
    as their lines end, highest first.

    Args:
        x_name: the setting.
        curves: method to (value, accuracy, low, high).
        path: ends in .png or .svg.
    """
    from matplotlib.transforms import ScaledTranslation

    curves = {method: sorted(points) for method, points in curves.items() if points}
    if not curves:
        return _say(f"Nothing has been measured over {x_name} yet.", path)
    figure, axes = _figure(10, 6.4)
    looks = styles(curves)
    values = sorted({point[0] for points in curves.values() for point in points})
    if values[0] > 0 and values[-1] >= 20 * values[0]:
        axes.set_xscale("log")
    if len(values) <= 12:
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.minorticks_off()
    ends: list[tuple[float, Line2D]] = []
    step = min(4.0, 300 / len(values) / len(curves)) / 72
    for i, (method, points) in enumerate(curves.items()):
        x, middle, low, high = np.transpose(points)
        colour, marker = looks[method]
        aside = ScaledTranslation((i - (len(curves) - 1) / 2) * step, 0, figure.dpi_scale_trans)
        look = {"linestyle": DASHES[i % len(DASHES)], "linewidth": 1.4, "label": _plain(method)}
        place: dict[str, Any] = {"transform": axes.transData + aside}
        axes.vlines(x, 100 * low, 100 * high, color=colour, linewidth=1.3, alpha=0.65, **place)
        (line,) = axes.plot(x, 100 * middle, marker=marker, **look, **_dot(colour), **place)
        ends.append((middle[-1], line))
    every = np.concatenate(list(curves.values()))
    # Lines that stand aside do not count for matplotlib's own limits.
    axes.update_datalim(np.column_stack([every[:, [0, 0]].ravel(), 100 * every[:, 2:].ravel()]))
    room = len(curves) * step / 7  # the share of the axes' width that methods take beside each other
    axes.margins(0.03 + 0.5 * room / (1 - room), 0.06)
    axes.autoscale_view()
    axes.set_xlabel(_plain(x_name))
    axes.set_ylabel("accuracy (%), bars: 95 % interval")
    figure.subplots_adjust(right=0.72)
    down = [line for _, line in sorted(ends, key=lambda end: -end[0])]
    axes.legend(handles=down, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, handlelength=3.5)
    return _save(figure, path)


def draw_map(confidence: FloatArray, variability: FloatArray, correctness: FloatArray, path: Path) -> None:
    """Draw a map of the training rows (Swayamdipta et al., EMNLP 2020).

    Args:
        confidence: (n,) mean probability of the row's own label over its visits.
        variability: (n,) standard deviation of it.
        correctness: (n,) share of visits at which it was predicted right.
        path: ends in .png or .svg.
    """
    columns = np.stack([np.asarray(column, np.float64) for column in (variability, confidence, correctness)])
    x, y, right = columns[:, np.isfinite(columns).all(axis=0)]
    if not len(x):
        return _say("No row has been visited yet.", path)
    figure, axes = _figure(9, 7.2, f"{len(x):,} training rows")
    limits: dict[str, Any] = {"vmin": 0.0, "vmax": 1.0, "cmap": "cividis"}
    drawn: Any
    if len(x) > MANY_ROWS:
        drawn = axes.hexbin(x, y, right, gridsize=(60, 45), extent=(0, 0.5, 0, 1), linewidths=0.2, **limits)
    else:
        size = float(np.clip(20_000 / len(x), 3, 36))
        drawn = axes.scatter(x, y, size, right, alpha=0.8, linewidths=0, rasterized=True, **limits)
    figure.subplots_adjust(top=0.84, right=1)
    figure.colorbar(drawn, ax=axes, label="share of visits predicted right", pad=0.12, aspect=40)
    _histograms(axes, x, y)
    white = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": GREY, "alpha": 0.9}
    axes.text(0.015, 0.965, "easy to learn", va="center", bbox=white, zorder=4)
    axes.text(0.015, 0.035, "hard to learn", va="center", bbox=white, zorder=4)
    axes.text(0.485, 0.5, "ambiguous", va="center", ha="right", bbox=white, zorder=4)
    axes.set(xlim=(0, 0.5), ylim=(0, 1))
    axes.set_xlabel("variability (standard deviation of p(gold))")
    axes.set_ylabel("confidence (mean p(gold))")
    return _save(figure, path)


def _histograms(axes: Axes, x: FloatArray, y: FloatArray) -> None:
    """Draw how many rows there are along each axis, since dots and cells hide it."""
    above = axes.inset_axes((0, 1.015, 1, 0.1), sharex=axes)
    above.hist(x, bins=50, range=(0, 0.5), color=GREY)
    beside = axes.inset_axes((1.015, 0, 0.1, 1), sharey=axes)
    beside.hist(y, bins=50, range=(0, 1), color=GREY, orientation="horizontal")
    for small in (above, beside):
        small.set_axis_off()


def _figure(width: float, height: float, title: str = "") -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    axes = _dress(figure.add_subplot())
    top = 1 - (0.5 if title else 0.2) / height
    figure.subplots_adjust(left=0.8 / width, right=0.97, top=top, bottom=0.65 / height)
    figure.text(0.8 / width, 1 - 0.16 / height, _plain(title), va="top", fontsize=14, fontweight="bold")
    return figure, axes


def _dress(axes: Axes) -> Axes:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def _say(sentence: str, path: Path) -> None:
    figure, axes = _figure(10, 3)
    axes.set_axis_off()
    axes.text(0.5, 0.5, _plain(sentence), ha="center", va="center", fontsize=14, transform=axes.transAxes)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    """Write the file whole or not at all, with nothing in it that changes from run to run."""
    from matplotlib import rc_context

    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise ValueError(f"a picture is .png or .svg, not {path.name!r}")
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with rc_context({"svg.hashsalt": "edgetune"}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in another script
            metadata = {"Date": None} if kind == "svg" else {}
            figure.savefig(partial, format=kind, dpi=150, metadata=metadata)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _plain(text: str) -> str:
    """Keep a dollar sign from starting matplotlib's own mathematics."""
    return text.replace("$", r"\$")


def _percent(shares: Iterable[float]) -> list[float]:
    return [100 * share for share in shares]


def _dot(colour: str, size: float = 8) -> dict[str, Any]:
    return {"color": colour, "markersize": size, "markeredgecolor": BLACK, "markeredgewidth": 0.6}


def _in_order(known: Sequence[str], found: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the look of each part found: a known one has its own in every picture, then come others."""
    order = list(dict.fromkeys([*known, *found]))
    looks = {name: FILLS[i % len(FILLS)] for i, name in enumerate(order)}
    return {
        name: {"color": looks[name][0], "hatch": looks[name][1], "edgecolor": "white", "linewidth": 0.6}
        for name in order
        if name in found
    }


def _height(n_rows: int) -> float:
    return 1.3 + 0.34 * n_rows


def _rows_axis(axes: Axes, methods: Sequence[str]) -> None:
    """Name the rows of bars, first on top, and make room for the names and for the legend above."""
    figure = axes.figure
    axes.set_yticks(range(len(methods)), [_plain(method) for method in methods])
    axes.set_ylim(len(methods) - 0.4, -0.6)
    axes.set_xlabel("seconds")
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    legend = axes.legend(
        loc="upper left", bbox_to_anchor=(0, 1), bbox_transform=figure.transFigure, ncols=6, frameon=False
    )
    width, height = figure.bbox.size
    longest = max(label.get_window_extent().width for label in axes.get_yticklabels())
    top = 1 - (legend.get_window_extent().height + 12) / height
    figure.subplots_adjust(left=(longest + 16) / width, right=0.97, bottom=56 / height, top=top)


def _time_axis(axes: Axes, seconds: Sequence[float], pad: float) -> None:
    """Make x log seconds, a factor `pad` (at least 1.02) beyond both ends, at round numbers if it can be."""
    from matplotlib.ticker import MaxNLocator

    low, high = min(seconds) / max(pad, 1.02), max(seconds) * max(pad, 1.02)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks = [time for time in TIMES if low <= time <= high]
    if len(ticks) < 4:
        ticks = [time for time in MaxNLocator(6).tick_values(low, high) if low <= time <= high]
    axes.set_xticks(ticks, [f"{time:,g}" for time in ticks])
    axes.minorticks_off()
    axes.set_xlabel("seconds (log scale)")


def _label(axes: Axes, points: Sequence[Point], looks: Mapping[str, tuple[str, str]]) -> None:
    """Write each name as near its point as hides nothing, highest point first; a thin line leads there."""
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    frame, taken = axes.get_window_extent(), _taken(axes, points)
    for point in sorted(points, key=lambda point: -point.accuracy):
        where = (point.seconds, 100 * point.accuracy)
        at = axes.transData.transform(where)
        words = _plain(f"{point.method} ({point.n_seeds})")
        text = axes.annotate(words, where, (0, 0), textcoords="offset points", va="bottom", fontsize=9.5)
        extent = text.get_window_extent()
        boxes, near = _places(at, extent.width, extent.height)
        outside = (boxes[:, :2] < frame.min).any(axis=1) | (boxes[:, 2:] > frame.max).any(axis=1)
        distance = np.hypot(*(near - at).T)
        ways = np.maximum(9 / distance, np.linspace(0, 1, 8)[:, None])  # a line starts at its marker's rim
        leads = at + ways[:, :, None] * (near - at)
        crossed = sum(_overlap(_around(lead, 1), taken) > 0 for lead in leads)
        best = int(np.argmin(distance + 1e4 * outside + 40 * _overlap(boxes, taken) + 12 * crossed))
        text.xyann = tuple((boxes[best, :2] - at) * 72 / axes.figure.dpi)
        taken = np.vstack([taken, boxes[best], _around(leads[:, best], 1)])
        if distance[best] > 14:
            line = axes.transData.inverted().transform([at, near[best]])
            axes.plot(*line.T, color=looks[point.method][0], linewidth=0.7, alpha=0.8)


def _taken(axes: Axes, points: Sequence[Point]) -> FloatArray:
    """Return boxes (M, 4) in pixels that no name should cover: markers, bars, the curve and the front."""
    ends = [[(p.seconds, 100 * y) for y in (p.low, p.accuracy, p.high)] for p in points]
    low, dots, high = axes.transData.transform(np.reshape(ends, (-1, 2))).reshape(-1, 3, 2).swapaxes(0, 1)
    drawn = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    walks = [_walk(axes.transData.transform(line.get_xydata())) for line in drawn]
    boxes = [_around(dots, 7), np.hstack([low - 2, high + 2]), *(_around(walk, 1) for walk in walks)]
    frame = np.reshape(axes.get_window_extent().extents, (1, 4))
    taken = np.concatenate(boxes)
    return np.asarray(taken[_overlap(taken, frame) > 0])


def _around(spots: FloatArray, reach: float) -> FloatArray:
    """Return the box (N, 4) of pixels around each spot (N, 2)."""
    return np.hstack([spots - reach, spots + reach])


def _walk(corners: FloatArray) -> FloatArray:
    """Return points 8 pixels or so apart along a line through corners (N, 2) in pixels."""
    lengths = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(corners, axis=0).T))])
    at = np.arange(0, lengths[-1] + 8, 8)
    return np.column_stack([np.interp(at, lengths, column) for column in corners.T])


def _places(at: FloatArray, width: float, height: float) -> tuple[FloatArray, FloatArray]:
    """Return where a name may stand around a point: boxes (C, 4), and the nearest spot (C, 2) of each."""
    gaps, rises = (grid.ravel() for grid in np.meshgrid((11, 24, 44, 70, 110), np.arange(-240, 241, 8)))
    right = np.column_stack([at[0] + gaps, at[1] + rises])
    left = np.column_stack([at[0] - gaps, at[1] + rises])
    near = np.concatenate([right, left])
    corner = near + np.array([3, -height / 2])
    corner[len(right) :, 0] -= width + 6
    return np.hstack([corner, corner + np.array([width, height])]), near


def _overlap(boxes: FloatArray, taken: FloatArray) -> FloatArray:
    """Return the pixels (C,) of each box (C, 4) that taken boxes (M, 4) cover, by the longer side."""
    width = np.minimum(boxes[:, None, 2], taken[:, 2]) - np.maximum(boxes[:, None, 0], taken[:, 0])
    height = np.minimum(boxes[:, None, 3], taken[:, 3]) - np.maximum(boxes[:, None, 1], taken[:, 1])
    return np.asarray(np.where((width > 0) & (height > 0), np.maximum(width, height), 0).sum(axis=1))
