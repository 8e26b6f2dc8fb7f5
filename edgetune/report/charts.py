"""The pictures of a comparison, and the look that they share with those of a run and of the report page.

PNG or SVG by the path's ending, the same bytes for the same numbers, drawn through matplotlib's objects: no
window, no pyplot, no global state. Pictures of where the time went are in `comparison_charts`.

Nothing is told by colour alone: markers, dashes or words say it too. A picture with nothing in it says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgetune.selection import METHODS
from edgetune.utils.files import atomic_path
from edgetune.utils.formatting import counted, duration
from edgetune.utils.sanitize import visible
from edgetune.utils.types import FloatArray, IntArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D


# Okabe and Ito's colours, told apart by colour-blind readers too.
BLUE, ORANGE, GREEN, VERMILLION, SKY, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#8C8C8C"
PURPLE, YELLOW, BLACK = "#CC79A7", "#F0E442", "#000000"
COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK)
"""Those of points and lines: the yellow is too light for a line on white paper."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
PHASES = (
    *("train", "score", "select", "prepare", "load", "evaluate"),
    *("export", "save", "tokenize", "open", "linear_probe", "other", "checkpoint", "lost"),
)
"""Phases of `edgetune.utils.meter`, largest first: bars that start at one line are easiest to compare."""
FILLS = (
    *((BLUE, ""), (ORANGE, "//"), (GREEN, ".."), (PURPLE, "xx"), (SKY, "\\\\"), (YELLOW, "--")),
    *((VERMILLION, "||"), (GREY, "++"), (SKY, ".."), (ORANGE, "xx"), (GREEN, "||"), ("#D9D9D9", "")),
    *((colour, "oo") for colour in (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION)),
)
"""Colour and hatch of the phases above, then of unknown ones; hatches are what print in grey keeps apart."""
Curve = Sequence[tuple[float, float]]
"""Seconds and accuracy of random + decay."""
Curves = Mapping[str, Sequence[tuple[float, float, float, float]]]
"""Method to (value of a setting, accuracy, low, high)."""
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MANY_ROWS = 20_000
"""Above so many rows the map shows cells and not dots."""
TIMES = [number * 10**power for power in range(-2, 7) for number in (1, 2, 3, 6)]
"""Seconds that are written at a time axis if they fall on it."""


@dataclass(frozen=True, slots=True)
class MethodPoint:
    """A method in the picture of accuracy against time: seconds above 0, mean accuracy and its interval."""

    method: str
    seconds: float
    accuracy: float
    low: float
    high: float
    n_seeds: int


def _numbered(known: Iterable[str], found: Iterable[str]) -> dict[str, int]:
    """Number the names found: a known one alike in every picture, then come others by name."""
    names = set(found)
    order = [*known, *sorted(names - set(known))]
    return {name: i for i, name in enumerate(order) if name in names}


def fill_styles(known: Sequence[str], found: Iterable[str], edge: str = "white") -> dict[str, dict[str, Any]]:
    """Return how each part found is filled: a known one alike in every picture, then come others."""
    styles = {}
    for name, i in _numbered(known, found).items():
        colour, hatch = FILLS[i % len(FILLS)]
        look = {"edgecolor": edge, "linewidth": 0.6, "height": 0.72, "label": plain_label(name)}
        styles[name] = {"color": colour, "hatch": hatch, **look}
    return styles


def draw_bars(
    axes: Axes, rows: Sequence[tuple[str, Mapping[str, float]]], styles: Mapping[str, dict[str, Any]]
) -> None:
    """Draw the seconds of each row by phase, as stacked bars in the order of the styles, first row on top."""
    left = np.zeros(len(rows))
    for name, style in styles.items():
        widths = np.array([parts.get(name, 0.0) for _, parts in rows])
        axes.barh(range(len(rows)), widths, left=left, **style)
        left += widths
    for i, total in enumerate(left):
        axes.annotate(duration(total), (total, i), (5, 0), textcoords="offset points", va="center")
    axes.set_xlim(0, 1.1 * max(left.max(), 1e-3))
    name_rows(axes, [name for name, _ in rows])


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows of bars, first on top."""
    axes.set_yticks(range(len(names)), [plain_label(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("seconds")
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def method_styles(methods: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return colour and marker of each method: a known one has its own in every picture, no two are alike.

    Up to 63, that is; unknown ones are numbered by name.
    """
    return {
        name: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)])
        for name, i in _numbered(METHODS, methods).items()
    }


def marker_style(colour: str, size: float = 8) -> dict[str, Any]:
    """Return how a marker of that colour is drawn, for `Axes.plot`; the size is in points."""
    return {"color": colour, "markersize": size, "markeredgecolor": BLACK, "markeredgewidth": 0.6}


def plain_label(text: str) -> str:
    """Keep a dollar sign from starting matplotlib's own mathematics, and characters from acting."""
    return visible(text).replace("$", r"\$")


def white_figure(width: float, height: float) -> Figure:
    """Return an empty figure, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def new_figure(width: float, height: float, title: str = "") -> tuple[Figure, Axes]:
    """Return a white figure, in inches, and its one pair of axes below the title."""
    figure = white_figure(width, height)
    axes = style_axes(figure.add_subplot())
    top = 1 - (0.5 if title else 0.2) / height
    figure.subplots_adjust(left=0.8 / width, right=0.97, top=top, bottom=0.65 / height)
    figure.text(0.8 / width, 1 - 0.16 / height, plain_label(title), va="top", fontsize=14, fontweight="bold")
    return figure, axes


def style_axes(axes: Axes) -> Axes:
    """Give the axes a light grid behind everything and no frame above or to the right; return them."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def save_message(sentence: str, path: Path) -> None:
    """Save a picture of the sentence, for where there is nothing to draw."""
    figure, axes = new_figure(10, 3)
    axes.set_axis_off()
    axes.text(
        0.5, 0.5, plain_label(sentence), ha="center", va="center", fontsize=14, transform=axes.transAxes
    )
    save_figure(figure, path)


def picture_kind(path: Path) -> str:
    """Return `png` or `svg`, by the path's ending.

    Raises:
        ValueError: it is neither.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise ValueError(f"a plot must be a .png or .svg file; found {path.name!r}")
    return kind


def save_figure(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write the file whole or not at all, with nothing in it that changes from run to run."""
    from matplotlib import rc_context

    kind = picture_kind(path)
    with atomic_path(path) as scratch, rc_context({"svg.hashsalt": "edgetune"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in another script
        metadata = {"Date": None} if kind == "svg" else {}
        figure.savefig(scratch, format=kind, dpi=dpi, metadata=metadata)


def draw_pareto(points: Sequence[MethodPoint], curve: Curve, title: str, path: Path) -> None:
    """Draw accuracy against log seconds: intervals, names, the front, and the reference's curve.

    The curve may be empty; the title is such as the data set and the model; the path ends in .png or .svg.
    """
    if not points and not curve:
        return save_message("No method has been measured yet.", path)
    seconds = [point.seconds for point in points]
    times = [*seconds, *(at for at, _ in curve)]
    if min(times) <= 0:
        raise ValueError(f"a time must be above 0 s; found {min(times)}")
    # Methods of about the same time would stand on one line where the curve is long: they are drawn twice.
    crowded = len(points) > 3 and max(seconds) / min(seconds) < (max(times) / min(times)) ** 0.3
    figure, axes = new_figure(14 if crowded else 10, 7.2, title)
    _draw_points(axes, points, curve, size=5 if crowded else 8)
    if crowded:
        axes.set_position((0.055, 0.13, 0.345, 0.8))
        _time_axis(axes, times, pad=1.2)
        whole, axes = axes, style_axes(figure.add_axes((0.45, 0.13, 0.53, 0.8)))
        _draw_points(axes, points, curve)
        _close_up(whole, axes, points)
    else:
        figure.subplots_adjust(bottom=0.13)
        _time_axis(axes, times, pad=(max(times) / min(times)) ** (0.15 if curve else 0.35))
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.09), ncols=2, frameon=False, borderaxespad=0)
    below: dict[str, Any] = {"transform": axes.transAxes, "ha": "right", "va": "top"}
    axes.text(1, -0.1, "in brackets: number of seeds", color="#444444", **below)
    place_labels(axes, points, method_styles(point.method for point in points))
    return save_figure(figure, path)


def _draw_points(axes: Axes, points: Sequence[MethodPoint], curve: Curve, size: float = 8) -> None:
    """Draw the curve, the front, then a bar and a marker for each point."""
    looks = method_styles(point.method for point in points)
    if curve:
        known = np.array(sorted(curve))
        name = "random + decay, by time"
        axes.plot(known[:, 0], 100 * known[:, 1], color=GREY, linewidth=5, alpha=0.45, label=name)
    if points:
        every = np.array([(point.seconds, 100 * point.accuracy) for point in points])
        front = every[undominated(*every.T)]
        corners = np.repeat(front, 2, axis=0)
        axes.plot(corners[1:, 0], corners[:-1, 1], "--", color=BLACK, linewidth=1.1, label="Pareto front")
    for point in points:
        colour, marker = looks[point.method]
        bar = [100 * point.low, 100 * point.high]
        axes.plot([point.seconds] * 2, bar, color=colour, linewidth=1.3, alpha=0.65)
        axes.plot([point.seconds], [100 * point.accuracy], marker, zorder=3, **marker_style(colour, size))
    axes.margins(y=0.06)
    axes.set_ylabel("accuracy (%), bars: 95 % interval")


def _close_up(whole: Axes, axes: Axes, points: Sequence[MethodPoint]) -> None:
    """Limit the axes to the points, with room for names beside them, and frame that in the whole."""
    from matplotlib.patches import Rectangle

    seconds = [point.seconds for point in points]
    _time_axis(axes, seconds, pad=(max(seconds) / min(seconds)) ** 0.5)
    low, high = 100 * min(point.low for point in points), 100 * max(point.high for point in points)
    axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    box = axes.viewLim
    whole.add_patch(Rectangle((box.x0, box.y0), box.width, box.height, fill=False, linewidth=0.9))
    axes.set_ylabel("accuracy (%), inside the frame on the left")


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


def place_labels(axes: Axes, points: Sequence[MethodPoint], looks: Mapping[str, tuple[str, str]]) -> None:
    """Write each name as near its point as hides nothing, highest point first; a thin line leads there."""
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    frame, taken = axes.get_window_extent(), _taken(axes, points)
    for point in sorted(points, key=lambda point: -point.accuracy):
        where = (point.seconds, 100 * point.accuracy)
        at = axes.transData.transform(where)
        words = plain_label(f"{point.method} ({point.n_seeds})")
        text = axes.annotate(words, where, (0, 0), textcoords="offset points", va="bottom", fontsize=9.5)
        extent = text.get_window_extent()
        boxes, near = _places(at, extent.width, extent.height)
        outside = (boxes[:, :2] < frame.min).any(axis=1) | (boxes[:, 2:] > frame.max).any(axis=1)
        distance = np.hypot(*(near - at).T)
        ways = np.maximum(9 / distance, np.linspace(0, 1, 8)[:, None])  # a line starts at its marker's rim
        leads = at + ways[:, :, None] * (near - at)
        crossed = sum(covered_pixels(_around(lead, 1), taken) > 0 for lead in leads)
        best = int(np.argmin(distance + 1e4 * outside + 40 * covered_pixels(boxes, taken) + 12 * crossed))
        text.xyann = tuple((boxes[best, :2] - at) * 72 / axes.figure.dpi)
        taken = np.vstack([taken, boxes[best], _around(leads[:, best], 1)])
        if distance[best] > 14:
            line = axes.transData.inverted().transform([at, near[best]])
            axes.plot(*line.T, color=looks[point.method][0], linewidth=0.7, alpha=0.8)


def _taken(axes: Axes, points: Sequence[MethodPoint]) -> FloatArray:
    """Return boxes (M, 4) in pixels that no name should cover: markers, bars, the curve and the front."""
    ends = [[(p.seconds, 100 * y) for y in (p.low, p.accuracy, p.high)] for p in points]
    low, dots, high = axes.transData.transform(np.reshape(ends, (-1, 2))).reshape(-1, 3, 2).swapaxes(0, 1)
    drawn = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    walks = [_walk(axes.transData.transform(line.get_xydata())) for line in drawn]
    boxes = [_around(dots, 7), np.hstack([low - 2, high + 2]), *(_around(walk, 1) for walk in walks)]
    frame = np.reshape(axes.get_window_extent().extents, (1, 4))
    taken = np.concatenate(boxes)
    return np.asarray(taken[covered_pixels(taken, frame) > 0])


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


def covered_pixels(boxes: FloatArray, taken: FloatArray) -> FloatArray:
    """Return the pixels (C,) of each box (C, 4) that taken boxes (M, 4) cover, by the longer side."""
    width = np.minimum(boxes[:, None, 2], taken[:, 2]) - np.maximum(boxes[:, None, 0], taken[:, 0])
    height = np.minimum(boxes[:, None, 3], taken[:, 3]) - np.maximum(boxes[:, None, 1], taken[:, 1])
    return np.asarray(np.where((width > 0) & (height > 0), np.maximum(width, height), 0).sum(axis=1))


def undominated(seconds: FloatArray, accuracy: FloatArray) -> IntArray:
    """Return the runs that no other beats, quickest first: as accurate sooner, or more accurate as soon."""
    order = np.lexsort((-accuracy, seconds))
    best_before = np.maximum.accumulate(np.concatenate(([-np.inf], accuracy[order])))[:-1]
    return np.asarray(order[accuracy[order] > best_before])


def draw_sensitivity(x_name: str, curves: Curves, path: Path) -> None:
    """Draw accuracy against a setting, a line with interval bars for each method.

    Methods stand a little beside each other, so that their bars can be told apart; the legend has them
    as their lines end, highest first.

    Curves without a point are left out; the path ends in .png or .svg.
    """
    curves = {method: sorted(points) for method, points in curves.items() if points}
    if not curves:
        return save_message(f"No values of {x_name} have been measured yet.", path)
    figure, axes = new_figure(10, 6.4)
    values = sorted({point[0] for points in curves.values() for point in points})
    if values[0] > 0 and values[-1] >= 20 * values[0]:
        axes.set_xscale("log")
    if len(values) <= 12:
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.minorticks_off()
    step = min(4.0, 300 / len(values) / len(curves)) / 72
    down = _draw_curves(axes, curves, step)
    _fit_curves(axes, curves, step)
    axes.set_xlabel(plain_label(x_name))
    axes.set_ylabel("accuracy (%), bars: 95 % interval")
    figure.subplots_adjust(right=0.72)
    axes.legend(handles=down, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, handlelength=3.5)
    return save_figure(figure, path)


def _draw_curves(axes: Axes, curves: Curves, step: float) -> list[Line2D]:
    """Draw each method `step` inches beside the one before; return the lines by their ends, highest first."""
    from matplotlib.transforms import ScaledTranslation

    looks = method_styles(curves)
    ends: list[tuple[float, Line2D]] = []
    for i, (method, points) in enumerate(curves.items()):
        x, middle, low, high = np.transpose(points)
        colour, marker = looks[method]
        aside = ScaledTranslation((i - (len(curves) - 1) / 2) * step, 0, axes.figure.dpi_scale_trans)
        look = {"linestyle": DASHES[i % len(DASHES)], "linewidth": 1.4, "label": plain_label(method)}
        place: dict[str, Any] = {"transform": axes.transData + aside}
        axes.vlines(x, 100 * low, 100 * high, color=colour, linewidth=1.3, alpha=0.65, **place)
        (line,) = axes.plot(x, 100 * middle, marker=marker, **look, **marker_style(colour), **place)
        ends.append((middle[-1], line))
    return [line for _, line in sorted(ends, key=lambda end: -end[0])]


def _fit_curves(axes: Axes, curves: Curves, step: float) -> None:
    """Limit the axes to the curves and their intervals, with room for methods `step` inches apart."""
    every = np.concatenate(list(curves.values()))
    # Lines that stand aside do not count for matplotlib's own limits.
    axes.update_datalim(np.column_stack([every[:, [0, 0]].ravel(), 100 * every[:, 2:].ravel()]))
    room = len(curves) * step / 7  # the share of the axes' width that methods take beside each other
    axes.margins(0.03 + 0.5 * room / (1 - room), 0.06)
    axes.autoscale_view()


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
        return save_message("No row has been visited yet.", path)
    figure, axes = new_figure(9, 7.2, counted(len(x), "training row"))
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
    for x_at, y_at, words in (
        (0.015, 0.965, "easy to learn"),
        (0.015, 0.035, "hard to learn"),
        (0.485, 0.5, "ambiguous"),
    ):
        side = "right" if x_at > 0.25 else "left"
        axes.text(x_at, y_at, words, va="center", ha=side, bbox=white, zorder=4)
    axes.set(xlim=(0, 0.5), ylim=(0, 1))
    axes.set_xlabel("variability (standard deviation of p(gold))")
    axes.set_ylabel("confidence (mean p(gold))")
    return save_figure(figure, path)


def _histograms(axes: Axes, x: FloatArray, y: FloatArray) -> None:
    """Draw how many rows there are along each axis, since dots and cells hide it."""
    above = axes.inset_axes((0, 1.015, 1, 0.1), sharex=axes)
    above.hist(x, bins=50, range=(0, 0.5), color=GREY)
    beside = axes.inset_axes((1.015, 0, 0.1, 1), sharey=axes)
    beside.hist(y, bins=50, range=(0, 1), color=GREY, orientation="horizontal")
    for small in (above, beside):
        small.set_axis_off()
