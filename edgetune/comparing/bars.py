"""Where each method's time went, as bars: seconds by phase, and when it was in which stage.

Nothing is told by colour alone: hatches say it too. A picture with nothing in it says so in a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgetune.comparing.figures import PURPLE, YELLOW, new_figure, plain, save, say
from edgetune.report.plots import BLUE, GREEN, GREY, ORANGE, SKY, VERMILLION
from edgetune.report.words import duration, stage_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PARTS = (
    *("train", "score", "select", "prepare", "load", "evaluate"),
    *("export", "save", "tokenize", "open", "floor", "other", "checkpoint", "lost"),
)
"""Phases of `edgetune.meter`, the largest first: lengths that start at one line are easiest to compare."""
STAGES = ("all", "warmup", "filter_backward", "filter_forward", "reference", "subset")
FILLS = (
    *((BLUE, ""), (ORANGE, "//"), (GREEN, ".."), (PURPLE, "xx"), (SKY, "\\\\"), (YELLOW, "--")),
    *((VERMILLION, "||"), (GREY, "++"), (SKY, ".."), (ORANGE, "xx"), (GREEN, "||"), ("#D9D9D9", "")),
    *((colour, "oo") for colour in (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION)),
)
"""Colour and hatch of the parts above, then of unknown ones; hatches are what print in grey keeps apart."""


def draw_time_split(rows: Sequence[tuple[str, Mapping[str, float]]], path: Path) -> None:
    """Draw where each method's seconds went, as stacked bars, first row on top."""
    if not any(parts for _, parts in rows):
        return say("No time has been measured yet.", path)
    names = _in_order(PARTS, [part for _, parts in rows for part in parts])
    figure, axes = new_figure(10, _height(len(rows)))
    left = np.zeros(len(rows))
    for name, fill in names.items():
        widths = np.array([parts.get(name, 0.0) for _, parts in rows])
        axes.barh(range(len(rows)), widths, left=left, height=0.72, label=plain(name), **fill)
        left += widths
    for i, total in enumerate(left):
        axes.annotate(duration(total), (total, i), (5, 0), textcoords="offset points", va="center")
    axes.set_xlim(0, 1.1 * max(left.max(), 1e-3))
    _rows_axis(axes, [method for method, _ in rows])
    return save(figure, path)


def draw_stages(rows: Sequence[tuple[str, Sequence[tuple[str, float, float]]]], path: Path) -> None:
    """Draw when each method was in which stage, start to end in seconds, first row on top."""
    spans = [(i, *span) for i, (_, stages) in enumerate(rows) for span in stages]
    if not spans:
        return say("No stage has been recorded yet.", path)
    figure, axes = new_figure(10, _height(len(rows)))
    for name, fill in _in_order(STAGES, [stage for _, stage, _, _ in spans]).items():
        mine = np.array([(i, start, end) for i, stage, start, end in spans if stage == name])
        at, starts, ends = mine.T
        axes.barh(at, ends - starts, left=starts, height=0.72, label=plain(stage_words(name)), **fill)
    axes.set_xlim(0, 1.02 * max(end for *_, end in spans))
    _rows_axis(axes, [method for method, _ in rows])
    return save(figure, path)


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
    axes.set_yticks(range(len(methods)), [plain(method) for method in methods])
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
