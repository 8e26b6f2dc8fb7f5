"""The pictures of a comparison, from its tables and outcomes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgetune.comparing.bars import draw_stages, draw_time_split
from edgetune.comparing.outcome import Outcome, by_variant
from edgetune.comparing.pictures import Curves, draw_pareto, draw_sensitivity
from edgetune.comparing.points import Point
from edgetune.comparing.table import DataTable, machine_words

SUFFIXES = (".png", ".svg")


def draw_all(tables: Sequence[DataTable], outcomes: Sequence[Outcome], folder: Path) -> list[Path]:
    """Draw accuracy against seconds, where the time went and the stages, for each data set."""
    made: list[Path] = []
    for number, table in enumerate(tables):
        mine = [one for one in outcomes if one.data == table.data and machine_words(one) == table.machine]
        again = any(other.data == table.data for other in tables[:number])
        stem = f"{table.data}-{number + 1}" if again else table.data  # on another machine
        splits, stages = _splits(mine), _stages(mine)
        for suffix in SUFFIXES:
            pareto = folder / f"{stem}-accuracy{suffix}"
            draw_accuracy(table, pareto)
            time_split = folder / f"{stem}-time{suffix}"
            draw_time_split(splits, time_split)
            timeline = folder / f"{stem}-stages{suffix}"
            draw_stages(stages, timeline)
            made += [pareto, time_split, timeline]
            for setting, curves in sensitivities(table, mine).items():
                made.append(folder / f"{stem}-{setting}{suffix}")
                draw_sensitivity(setting, curves, made[-1])
    return made


def sensitivities(table: DataTable, outcomes: Sequence[Outcome]) -> dict[str, Curves]:
    """Find the settings that a grid varies one at a time: setting → method → accuracy over its values.

    Variants of one method are compared; a setting counts where three numbers of it were tried.
    """
    lines = {line.ranked.method: line.ranked for line in table.lines}
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for variant, found in by_variant(outcomes).items():
        groups.setdefault(found[0].method, {})[variant] = found[0].settings
    curves: dict[str, dict[str, list[tuple[float, float, float, float]]]] = {}
    for method, variants in groups.items():
        alike = set.intersection(*({*_items(settings)} for settings in variants.values()))
        for variant, settings in variants.items():
            own = dict(item for item in _items(settings) if item not in alike)
            if len(own) == 1 and isinstance(value := settings[(setting := next(iter(own)))], int | float):
                one = lines[variant]
                curves.setdefault(setting, {}).setdefault(method, []).append(
                    (float(value), one.accuracy, one.low, one.high)
                )
    return {
        setting: found
        for setting, found in curves.items()
        if max(len(points) for points in found.values()) > 2
    }


def _items(settings: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, json.dumps(value)) for name, value in settings.items()]


def draw_accuracy(table: DataTable, path: Path) -> None:
    """Draw accuracy against seconds, with the reference's curve."""
    points = [
        Point(
            line.ranked.method,
            line.seconds,
            line.ranked.accuracy,
            line.ranked.low,
            line.ranked.high,
            line.ranked.n_seeds,
        )
        for line in table.lines
    ]
    draw_pareto(points, table.curve, f"{table.data}, {table.machine}", path)


def _splits(outcomes: Sequence[Outcome]) -> list[tuple[str, dict[str, float]]]:
    """Return the seconds of each method's first seed by phase, without those that took none."""
    return [
        (name, {phase: seconds for phase, seconds in found[0].time_split_s.items() if seconds > 0.005})
        for name, found in by_variant(outcomes).items()
    ]


def _stages(outcomes: Sequence[Outcome]) -> list[tuple[str, list[tuple[str, float, float]]]]:
    """Return when the first seed of each method was in which stage."""
    rows = []
    for name, found in by_variant(outcomes).items():
        one = found[0]
        begins = [at for _, at in one.stages]
        ends = [*begins[1:], float(one.seconds or 0.0)]
        spans = [
            (stage, begin, max(begin, end)) for (stage, begin), end in zip(one.stages, ends, strict=False)
        ]
        if spans:
            rows.append((name, spans))
    return rows
