"""From outcomes to the lines of a table: ranks, intervals, ties, speed-ups; and to Markdown.

Everything is derived from `results.jsonl` with a fixed seed, so the same outcomes give the same bytes.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgetune.compare.outcome import Outcome, by_variant
from edgetune.compare.statistics import CurvePoint, Ranked, Speedup, equivalent_speedup, pooled, rank
from edgetune.utils.formatting import counted
from edgetune.utils.metrics import agot
from edgetune.utils.sanitize import in_markdown, visible
from edgetune.utils.types import BoolArray

SEED = 0
BASE = "train-all"
LOOP_PHASES = ("prepare", "score", "select", "train")


@dataclass(frozen=True)
class RankedRow:
    """One method on one data set: means over its seeds, None where they are not known.

    Attributes:
        seconds: evaluation taken off.
        prepare_s: of those, on proxies, references and whatever else comes before the model that is kept.
        select_rate: share of `seconds` that choosing rows took.
        t_norm: seconds of the loop over those of train-all on the same rows.
        t_norm_modelled: as the run's summary has it.
        agot: eq. 5, with the share of the largest class as the accuracy without finetuning.
        speedup: against random + decay; None without a curve.
    """

    ranked: Ranked
    seconds: float
    prepare_s: float
    select_rate: float
    n_scored: float | None
    n_trained: float | None
    t_norm: float | None
    t_norm_modelled: float | None
    agot: float | None
    energy_j: float | None
    speedup: Speedup | None


@dataclass(frozen=True)
class DataTable:
    """All methods on one data set, the most accurate first, on one machine (CPU and cores).

    Attributes:
        failed: (cell, why) of those that gave nothing.
        curve: (seconds, accuracy) of random + decay.
        first: the first seed of each method.
    """

    data: str
    lines: tuple[RankedRow, ...]
    failed: tuple[tuple[str, str], ...]
    curve: tuple[tuple[float, float], ...]
    n_eval: int
    machine: str
    first: Mapping[str, Outcome]

    @property
    def caution(self) -> str:
        """What the intervals do not know; "" where they know it."""
        if all(line.ranked.n_seeds > 1 for line in self.lines):
            return ""
        return (
            "For methods run with one seed, intervals and ranks reflect only the choice of evaluation rows; "
            "they do not include the variation between training runs."
        )


def make_tables(outcomes: Sequence[Outcome]) -> list[DataTable]:
    """Make a table of every data set; a table never mixes CPUs.

    Where outcomes come from several machines, each machine has tables of its own.
    """
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for one in outcomes:
        groups.setdefault((one.data, describe_machine(one)), []).append(one)
    return [_table(data, machine, found) for (data, machine), found in groups.items()]


def describe_machine(outcome: Outcome) -> str:
    """Say on what a cell ran."""
    machine = outcome.machine
    return f"{machine.get('cpu', 'unknown CPU')}, {machine.get('cores', '?')} cores"


def _table(data: str, machine: str, outcomes: list[Outcome]) -> DataTable:
    groups = by_variant(outcomes)
    curve = [(_mean_s(found), _answers(found)) for found in by_variant(outcomes, curve=True).values()]
    # Points and methods that were not measured on every seed are ranked by the seeds that there are.
    ranked = rank({name: _answers(found) for name, found in groups.items()}, np.random.default_rng(SEED))
    base = {_without_method(one): one for found in groups.values() for one in found if one.method == BASE}
    return DataTable(
        data=data,
        lines=tuple(_line(one, groups[one.method], base, curve) for one in ranked),
        failed=tuple((f"{one.variant}, seed {one.seed}", one.error) for one in outcomes if not one.ok),
        curve=tuple((seconds, float(np.mean([right.mean() for right in found]))) for seconds, found in curve),
        n_eval=max((one.n_eval for one in outcomes), default=0),
        machine=machine,
        first={name: found[0] for name, found in groups.items()},
    )


def _answers(outcomes: Sequence[Outcome]) -> list[BoolArray]:
    return [one.answers() for one in outcomes]


def _mean_s(outcomes: Sequence[Outcome]) -> float:
    return statistics.mean(one.seconds or 0.0 for one in outcomes)


def _line(
    ranked: Ranked, outcomes: list[Outcome], base: Mapping[str, Outcome], curve: Sequence[CurvePoint]
) -> RankedRow:
    seconds = _mean_s(outcomes)
    speedup = None
    if len(curve) >= 2 and seconds > 0:
        speedup = equivalent_speedup(_answers(outcomes), seconds, curve, np.random.default_rng(SEED))
    bases = [base.get(_without_method(one)) for one in outcomes]
    t_norm = _mean([_t_norm(one, like) for one, like in zip(outcomes, bases, strict=True)])
    counts = {
        name: _mean([one.counts.get(name) for one in outcomes])
        for name in ("n_scored", "n_trained", "t_norm_modelled")
    }
    return RankedRow(
        ranked=ranked,
        seconds=seconds,
        prepare_s=statistics.mean(one.phases_s("prepare") for one in outcomes),
        select_rate=statistics.mean(one.phases_s("select") for one in outcomes) / max(seconds, 1e-9),
        **counts,
        t_norm=t_norm,
        agot=_agot(ranked.accuracy, t_norm, [one for one in bases if one is not None]),
        energy_j=_mean([one.energy_j for one in outcomes]),
        speedup=speedup,
    )


def _mean(values: Sequence[float | int | None]) -> float | None:
    """Return the mean; None where one is not known."""
    known = [float(value) for value in values if value is not None]
    return statistics.mean(known) if known and len(known) == len(values) else None


def _t_norm(outcome: Outcome, base: Outcome | None) -> float | None:
    """Return seconds of the loop over those of train-all on the same rows.

    Under a deadline both take the same time; there the run's own price of an unfiltered step tells what all
    the rows that it saw would have cost.
    """
    if "deadline_s" in outcome.settings:
        return outcome.counts.get("t_norm_measured")
    if base is None or not outcome.counts.get("n_seen") or not base.phases_s(*LOOP_PHASES):
        return None
    return outcome.phases_s(*LOOP_PHASES) / base.phases_s(*LOOP_PHASES)


def _without_method(outcome: Outcome) -> str:
    """Return seed and settings but for how rows are selected: what a run and its base have in common."""
    return json.dumps([outcome.seed, outcome.other_settings], sort_keys=True)


def _agot(accuracy: float, t_norm: float | None, base: Sequence[Outcome]) -> float | None:
    """Return eq. 5; None where train-all is no better than the largest class."""
    if t_norm is None or not base:
        return None
    full = statistics.mean(float(one.accuracy or 0.0) for one in base)
    floor = _mean([one.counts.get("largest_class_rate") for one in base])
    if floor is None or full - floor < 1e-6:
        return None
    return agot(accuracy, t_norm, floor, full)


def pooled_speedups(tables: Sequence[DataTable]) -> dict[str, Speedup]:
    """Return the speed-up over all data sets of each method that has one on all of them, if there are two.

    The largest comes first.
    """
    if len({table.data for table in tables}) < max(2, len(tables)):
        return {}  # one set on two machines is not two sets
    found: dict[str, list[Speedup]] = {}
    for table in tables:
        for line in table.lines:
            if line.speedup is not None:
                found.setdefault(line.ranked.method, []).append(line.speedup)
    whole = {
        name: pooled(speedups, np.random.default_rng(SEED))
        for name, speedups in found.items()
        if len(speedups) == len(tables)
    }
    return dict(sorted(whole.items(), key=lambda item: -item[1].ratio))


def describe_ratio(ratio: Speedup | None) -> str:
    """Say a speed-up: `1.21 (1.05 to 1.40)`, with ≤ and ≥ where the curve ends."""
    if ratio is None:
        return "–"
    sign = {"": "", "at most": "≤ ", "at least": "≥ ", "about": "~ "}[ratio.bound]
    low = f"{'< ' * ratio.low_open}{ratio.low:.2f}"
    return f"{sign}{ratio.ratio:.2f} ({low} to {'> ' * ratio.high_open}{ratio.high:.2f})"


HEADER = (
    *("rank", "method", "accuracy", "95 % interval", "speed-up", "seconds", "prepare", "select", "scored"),
    *("trained", "T_norm", "modelled", "AGOT", "energy", "seeds"),
)


def row_cells(line: RankedRow) -> tuple[str, ...]:
    """Say a line of the table."""

    def said(value: float | None, words: str, factor: float = 1.0) -> str:
        return "–" if value is None else words.format(factor * value)

    one = line.ranked
    return (
        f"{one.rank}{'=' * one.tied_with_best}",
        one.method,
        f"{100 * one.accuracy:.2f} %",
        f"{100 * one.low:.1f} to {100 * one.high:.1f}",
        describe_ratio(line.speedup),
        f"{line.seconds:.1f}",
        said(line.prepare_s or None, "{:.1f}"),
        said(line.select_rate or None, "{:.1f} %", 100),
        said(line.n_scored, "{:,.0f}"),
        said(line.n_trained, "{:,.0f}"),
        said(line.t_norm, "{:.2f}"),
        said(line.t_norm_modelled, "{:.2f}"),
        said(line.agot, "{:.2f}"),
        said(line.energy_j, "{:.2f} kJ", 1e-3),
        f"{one.n_seeds}",
    )


def markdown(tables: Sequence[DataTable], title: str) -> str:
    """Return all tables as Markdown."""
    parts = [f"# {title}\n"]
    for table in tables:
        parts.append(f"## {table.data}\n\n{counted(table.n_eval, 'evaluation row')}; {table.machine}.\n")
        parts.append("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
        parts += ["| " + " | ".join(row_cells(line)) + " |" for line in table.lines]
        parts.append(f"\n{table.caution}\n" if table.caution else "")
        for name in (line.ranked.method for line in table.lines):
            if notes := table.first[name].notes:
                parts.append(f"- {name}: {visible('; '.join(notes))}")
        parts += [f"- not measured: {name}: {in_markdown(why)}" for name, why in table.failed]
        parts.append("")
    if whole := pooled_speedups(tables):
        parts.append("## All data sets together\n\n| method | speed-up |\n|---|---|")
        parts += [f"| {name} | {describe_ratio(ratio)} |" for name, ratio in whole.items()]
        parts.append("")
    parts.append(LEGEND)
    return "\n".join(parts)


LEGEND = """\
- `=` after a rank: not significantly worse than the best method (paired bootstrap over rows and seeds, 5 %).
- `speed-up`: the time that training on random rows, with the learning rate decayed to zero, needs to reach
  the method's accuracy, divided by the method's own time. Above 1, the method pays off. `≤`, `≥` and `~` mark
  values beyond the measured times of random rows; they are bounds only.
- `seconds`: from the start of the process to the saved model, without the run's own evaluation.
- `prepare`: seconds of these that were spent before training the final model, such as on proxy models.
- `select`: share of the time that was spent on selecting rows.
- `T_norm`: measured time of the training loop, relative to train-all on the same rows (under a deadline,
  relative to the estimated time of training on every row seen without a filter).
- `modelled`: T_norm as the paper computes it, from the run's own T_f and T_b.
- `AGOT`: equation 5 of the paper.
"""
