"""What the pictures of a comparison share: colours and markers, bare figures, labels, saving.

PNG or SVG by the path's ending, the same bytes for the same numbers. Drawn through matplotlib's objects
like `run.png`.
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
from edgetune.utils.formatting import duration
from edgetune.utils.sanitize import visible
from edgetune.utils.types import FloatArray, IntArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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


def fill_styles(known: Sequence[str], found: Iterable[str], edge: str = "white") -> dict[str, dict[str, Any]]:
    """Return how each part found is filled: a known one alike in every picture, then come others."""
    names = set(found)
    order = [*known, *sorted(names - set(known))]
    return {
        name: {
            **dict(zip(("color", "hatch"), FILLS[i % len(FILLS)], strict=True)),
            **{"edgecolor": edge, "linewidth": 0.6, "height": 0.72, "label": plain_label(name)},
        }
        for i, name in enumerate(order)
        if name in names
    }


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
    names = set(methods)
    order = [*METHODS, *sorted(names - set(METHODS))]
    return {
        name: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)])
        for i, name in enumerate(order)
        if name in names
    }


def marker_style(colour: str, size: float = 8) -> dict[str, Any]:
    """Return how a marker of that colour is drawn, for `Axes.plot`; the size is in points."""
    return {"color": colour, "markersize": size, "markeredgecolor": BLACK, "markeredgewidth": 0.6}


def plain_label(text: str) -> str:
    """Keep a dollar sign from starting matplotlib's own mathematics, and characters from acting."""
    return visible(text).replace("$", r"\$")


def new_figure(width: float, height: float, title: str = "") -> tuple[Figure, Axes]:
    """Return a white figure, in inches, and its one pair of axes below the title."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
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


@dataclass(frozen=True, slots=True)
class MethodPoint:
    """A method in the picture of accuracy against time: seconds above 0, mean accuracy and its interval."""

    method: str
    seconds: float
    accuracy: float
    low: float
    high: float
    n_seeds: int


def undominated(seconds: FloatArray, accuracy: FloatArray) -> IntArray:
    """Return the runs that no other beats, quickest first: as accurate sooner, or more accurate as soon."""
    order = np.lexsort((-accuracy, seconds))
    best_before = np.maximum.accumulate(np.concatenate(([-np.inf], accuracy[order])))[:-1]
    return np.asarray(order[accuracy[order] > best_before])
