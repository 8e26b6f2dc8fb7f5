"""All pictures of a comparison, from its tables and outcomes; where the time went, as bars.

Nothing is told by colour alone: hatches say it too. A picture with nothing in it says so in a sentence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgetune.compare.outcome import Outcome
from edgetune.compare.ranking import DataTable
from edgetune.report.charts import (
    PHASES,
    Curves,
    MethodPoint,
    draw_bars,
    draw_pareto,
    draw_sensitivity,
    fill_styles,
    name_rows,
    new_figure,
    plain_label,
    save_figure,
    save_message,
)
from edgetune.utils.formatting import describe_stage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


STAGES = ("all", "warmup", "filter_backward", "filter_forward", "reference", "subset")


def draw_time_split(rows: Sequence[tuple[str, Mapping[str, float]]], path: Path) -> None:
    """Draw where each method's seconds went, as stacked bars, first row on top."""
    if not any(parts for _, parts in rows):
        return save_message("No time has been measured yet.", path)
    figure, axes = _new_rows(rows)
    draw_bars(axes, rows, fill_styles(PHASES, {part for _, parts in rows for part in parts}))
    return _save_rows(figure, axes, path)


def draw_stages(rows: Sequence[tuple[str, Sequence[tuple[str, float, float]]]], path: Path) -> None:
    """Draw when each method was in which stage, start to end in seconds, first row on top."""
    spans = [(i, *span) for i, (_, stages) in enumerate(rows) for span in stages]
    if not spans:
        return save_message("No stage has been recorded yet.", path)
    figure, axes = _new_rows(rows)
    for name, style in fill_styles(STAGES, {stage for _, stage, _, _ in spans}).items():
        at, starts, ends = np.array([(i, start, end) for i, stage, start, end in spans if stage == name]).T
        label = plain_label(describe_stage(name))
        axes.barh(at, ends - starts, left=starts, **(style | {"label": label}))
    axes.set_xlim(0, 1.02 * max(end for *_, end in spans))
    name_rows(axes, [method for method, _ in rows])
    return _save_rows(figure, axes, path)


def _new_rows(rows: Sequence[object]) -> tuple[Figure, Axes]:
    return new_figure(10, 1.3 + 0.34 * len(rows))


def _save_rows(figure: Figure, axes: Axes, path: Path) -> None:
    """Make room for the names of the rows and for the legend above, and save the picture."""
    legend = axes.legend(
        loc="upper left", bbox_to_anchor=(0, 1), bbox_transform=figure.transFigure, ncols=6, frameon=False
    )
    width, height = figure.bbox.size
    longest = max(label.get_window_extent().width for label in axes.get_yticklabels())
    top = 1 - (legend.get_window_extent().height + 12) / height
    figure.subplots_adjust(left=(longest + 16) / width, right=0.97, bottom=56 / height, top=top)
    save_figure(figure, path)


def draw_all(tables: Sequence[DataTable], folder: Path) -> None:
    """Draw accuracy against seconds, where the time went and the stages, for each data set."""
    for number, table in enumerate(tables):
        again = any(other.data == table.data for other in tables[:number])
        stem = f"{table.data}-{number + 1}" if again else table.data  # on another machine
        splits = [
            (name, {phase: seconds for phase, seconds in one.time_split_s.items() if seconds > 0.005})
            for name, one in table.first.items()
        ]
        stages = [(name, _stages(one)) for name, one in table.first.items() if one.stages]
        for suffix in (".png", ".svg"):
            draw_accuracy(table, folder / f"{stem}-accuracy{suffix}")
            draw_time_split(splits, folder / f"{stem}-time{suffix}")
            draw_stages(stages, folder / f"{stem}-stages{suffix}")
            for setting, curves in sensitivities(table).items():
                draw_sensitivity(setting, curves, folder / f"{stem}-{setting}{suffix}")


def _stages(outcome: Outcome) -> list[tuple[str, float, float]]:
    """Return its stages, each with the seconds in which it began and ended."""
    ends = [*(at for _, at in outcome.stages[1:]), float(outcome.seconds or 0.0)]
    return [(stage, at, max(at, end)) for (stage, at), end in zip(outcome.stages, ends, strict=True)]


def sensitivities(table: DataTable) -> dict[str, Curves]:
    """Find the settings that a grid varies one at a time: setting → method → accuracy over its values.

    Variants of one method are compared; a setting counts where three numbers of it were tried.
    """
    lines = {line.ranked.method: line.ranked for line in table.lines}
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for variant, one in table.first.items():
        groups.setdefault(one.method, {})[variant] = one.settings
    curves: dict[str, dict[str, list[tuple[float, float, float, float]]]] = {}
    for method, variants in groups.items():
        alike = set.intersection(*({*_items(settings)} for settings in variants.values()))
        for variant, settings in variants.items():
            own = dict(item for item in _items(settings) if item not in alike)
            if len(own) == 1 and isinstance(value := settings[(setting := next(iter(own)))], int | float):
                line = lines[variant]
                point = (float(value), line.accuracy, line.low, line.high)
                curves.setdefault(setting, {}).setdefault(method, []).append(point)
    return {name: found for name, found in curves.items() if max(map(len, found.values())) > 2}


def _items(settings: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, json.dumps(value)) for name, value in settings.items()]


def draw_accuracy(table: DataTable, path: Path) -> None:
    """Draw accuracy against seconds, with the reference's curve."""
    points = [
        MethodPoint(one.method, line.seconds, one.accuracy, one.low, one.high, one.n_seeds)
        for line in table.lines
        for one in [line.ranked]
    ]
    draw_pareto(points, table.curve, f"{table.data}, {table.machine}", path)
