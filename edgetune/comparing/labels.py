"""Where names stand in a picture: as near their points as hides nothing, in pixels of the figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgetune.comparing.figures import plain
from edgetune.comparing.points import Point
from edgetune.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_names(axes: Axes, points: Sequence[Point], looks: Mapping[str, tuple[str, str]]) -> None:
    """Write each name as near its point as hides nothing, highest point first; a thin line leads there."""
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    frame, taken = axes.get_window_extent(), _taken(axes, points)
    for point in sorted(points, key=lambda point: -point.accuracy):
        where = (point.seconds, 100 * point.accuracy)
        at = axes.transData.transform(where)
        words = plain(f"{point.method} ({point.n_seeds})")
        text = axes.annotate(words, where, (0, 0), textcoords="offset points", va="bottom", fontsize=9.5)
        extent = text.get_window_extent()
        boxes, near = _places(at, extent.width, extent.height)
        outside = (boxes[:, :2] < frame.min).any(axis=1) | (boxes[:, 2:] > frame.max).any(axis=1)
        distance = np.hypot(*(near - at).T)
        ways = np.maximum(9 / distance, np.linspace(0, 1, 8)[:, None])  # a line starts at its marker's rim
        leads = at + ways[:, :, None] * (near - at)
        crossed = sum(overlap(_around(lead, 1), taken) > 0 for lead in leads)
        best = int(np.argmin(distance + 1e4 * outside + 40 * overlap(boxes, taken) + 12 * crossed))
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
    return np.asarray(taken[overlap(taken, frame) > 0])


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


def overlap(boxes: FloatArray, taken: FloatArray) -> FloatArray:
    """Return the pixels (C,) of each box (C, 4) that taken boxes (M, 4) cover, by the longer side."""
    width = np.minimum(boxes[:, None, 2], taken[:, 2]) - np.maximum(boxes[:, None, 0], taken[:, 0])
    height = np.minimum(boxes[:, None, 3], taken[:, 3]) - np.maximum(boxes[:, None, 1], taken[:, 1])
    return np.asarray(np.where((width > 0) & (height > 0), np.maximum(width, height), 0).sum(axis=1))
