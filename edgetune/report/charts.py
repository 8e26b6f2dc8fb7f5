"""The pictures of a comparison: PNG or SVG by the path's ending, the same bytes for the same numbers.

Here are those of points and lines; `comparison_charts` has those of where the time went. Nothing is told by
colour alone: markers, dashes or words say it too. A picture with nothing in it says so in a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgetune.report.chart_style import (
    BLACK,
    GREY,
    MethodPoint,
    marker_style,
    method_styles,
    new_figure,
    place_labels,
    plain_label,
    save_figure,
    save_message,
    style_axes,
    undominated,
)
from edgetune.utils.formatting import counted
from edgetune.utils.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D


Curve = Sequence[tuple[float, float]]
"""Seconds and accuracy of random + decay."""
Curves = Mapping[str, Sequence[tuple[float, float, float, float]]]
"""Method to (value of a setting, accuracy, low, high)."""
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MANY_ROWS = 20_000
"""Above so many rows the map shows cells and not dots."""
TIMES = [number * 10**power for power in range(-2, 7) for number in (1, 2, 3, 6)]
"""Seconds that are written at a time axis if they fall on it."""


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
