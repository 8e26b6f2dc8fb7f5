"""What the pictures of a comparison share: methods' looks, bare figures, and the file they end in.

PNG or SVG by the path's ending, the same bytes for the same numbers. Drawn through matplotlib's objects
like `run.png`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetune.files import whole
from edgetune.report.plots import BLUE, GREEN, ORANGE, SKY, VERMILLION
from edgetune.settings import METHODS
from edgetune.shown import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PURPLE, YELLOW, BLACK = "#CC79A7", "#F0E442", "#000000"
COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK)
"""Okabe and Ito's for points and lines: their yellow is too light for a line on white paper."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")


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


def dot(colour: str, size: float = 8) -> dict[str, Any]:
    """Return how a marker of that colour is drawn, for `Axes.plot`; the size is in points."""
    return {"color": colour, "markersize": size, "markeredgecolor": BLACK, "markeredgewidth": 0.6}


def plain(text: str) -> str:
    """Keep a dollar sign from starting matplotlib's own mathematics, and characters from acting."""
    return visible(text).replace("$", r"\$")


def new_figure(width: float, height: float, title: str = "") -> tuple[Figure, Axes]:
    """Return a white figure, in inches, and its one pair of axes below the title."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    axes = dress(figure.add_subplot())
    top = 1 - (0.5 if title else 0.2) / height
    figure.subplots_adjust(left=0.8 / width, right=0.97, top=top, bottom=0.65 / height)
    figure.text(0.8 / width, 1 - 0.16 / height, plain(title), va="top", fontsize=14, fontweight="bold")
    return figure, axes


def dress(axes: Axes) -> Axes:
    """Give the axes a light grid behind everything and no frame above or to the right; return them."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def say(sentence: str, path: Path) -> None:
    """Save a picture of the sentence, for where there is nothing to draw."""
    figure, axes = new_figure(10, 3)
    axes.set_axis_off()
    axes.text(0.5, 0.5, plain(sentence), ha="center", va="center", fontsize=14, transform=axes.transAxes)
    save(figure, path)


def picture_kind(path: Path) -> str:
    """Return `png` or `svg`, by the path's ending.

    Raises:
        ValueError: it is neither.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise ValueError(f"a picture is .png or .svg, not {path.name!r}")
    return kind


def save(figure: Figure, path: Path) -> None:
    """Write the file whole or not at all, with nothing in it that changes from run to run."""
    from matplotlib import rc_context

    kind = picture_kind(path)
    with whole(path) as scratch, rc_context({"svg.hashsalt": "edgetune"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in another script
        metadata = {"Date": None} if kind == "svg" else {}
        figure.savefig(scratch, format=kind, dpi=150, metadata=metadata)
