"""The pictures of a comparison, from its tables and outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgetune.comparing.bars import draw_stages, draw_time_split
from edgetune.comparing.outcome import Outcome, by_variant
from edgetune.comparing.pictures import draw_pareto
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
    return made


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
