"""From outcomes to the lines of a table: ranks, intervals, ties, speed-ups; and to Markdown.

Everything is derived from `results.jsonl` with a fixed seed, so the same outcomes give the same bytes.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgetune.compare.outcome import Outcome, by_variant
from edgetune.compare.statistics import Ranked, Speedup, equivalent_speedup, pooled, rank
from edgetune.utils.formatting import counted
from edgetune.utils.metrics import agot
from edgetune.utils.sanitize import in_markdown, visible
from edgetune.utils.types import BoolArray

SEED = 0
BASE = "train-all"
LOOP_PHASES = ("prepare", "score", "select", "train")


@dataclass(frozen=True)
class RankedRow:
    """One method on one data set; figures are means over its seeds, None where one is not known.

    Attributes:
        outcomes: of its seeds.
        base: train-all on the same rows, with the seed and settings of each, where there is one.
        speedup: against random + decay; None without a curve.
    """

    ranked: Ranked
    outcomes: Sequence[Outcome]
    base: Sequence[Outcome | None]
    speedup: Speedup | None

    @property
    def seconds(self) -> float:
        """Seconds, evaluation taken off."""
        return _mean_s(self.outcomes)

    @property
    def t_norm(self) -> float | None:
        """Seconds of the loop over those of train-all on the same rows."""
        return _mean([_t_norm(one, base) for one, base in zip(self.outcomes, self.base, strict=True)])

    @property
    def agot(self) -> float | None:
        """Eq. 5, above the share of the largest class; None where train-all is no better than that."""
        base = [one for one in self.base if one is not None]
        t_norm, floor = self.t_norm, _mean([one.counts.get("largest_class_rate") for one in base])
        if t_norm is None or floor is None:
            return None
        full = statistics.mean(one.accuracy or 0.0 for one in base)
        return None if full - floor < 1e-6 else agot(self.ranked.accuracy, t_norm, floor, full)

    def phase_s(self, name: str) -> float:
        """Return the seconds that a phase took."""
        return statistics.mean(one.phases_s(name) for one in self.outcomes)

    def count(self, name: str) -> float | None:
        """Return one of `Outcome.counts`."""
        return _mean([one.counts.get(name) for one in self.outcomes])


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
        machine = f"{one.machine.get('cpu', 'unknown CPU')}, {one.machine.get('cores', '?')} cores"
        groups.setdefault((one.data, machine), []).append(one)
    return [_table(data, machine, found) for (data, machine), found in groups.items()]


def _table(data: str, machine: str, outcomes: list[Outcome]) -> DataTable:
    groups = by_variant(outcomes)
    curve = [(_mean_s(found), _answers(found)) for found in by_variant(outcomes, curve=True).values()]
    # Points and methods that were not measured on every seed are ranked by the seeds that there are.
    ranked = rank({name: _answers(found) for name, found in groups.items()}, np.random.default_rng(SEED))
    base = {_without_method(one): one for found in groups.values() for one in found if one.method == BASE}
    lines = []
    for one in ranked:
        found = groups[one.method]
        speedup = None
        if len(curve) >= 2 and (seconds := _mean_s(found)) > 0:
            rng = np.random.default_rng(SEED)
            speedup = equivalent_speedup(_answers(found), seconds, curve, rng)
        lines.append(RankedRow(one, found, [base.get(_without_method(cell)) for cell in found], speedup))
    return DataTable(
        data=data,
        lines=tuple(lines),
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


def _said(value: float | None, words: str, factor: float = 1.0) -> str:
    return "–" if value is None else words.format(factor * value)


COLUMNS: dict[str, Callable[[RankedRow], str]] = {
    "rank": lambda line: f"{line.ranked.rank}{'=' * line.ranked.tied_with_best}",
    "method": lambda line: line.ranked.method,
    "accuracy": lambda line: f"{100 * line.ranked.accuracy:.2f} %",
    "95 % interval": lambda line: f"{100 * line.ranked.low:.1f} to {100 * line.ranked.high:.1f}",
    "speed-up": lambda line: describe_ratio(line.speedup),
    "seconds": lambda line: f"{line.seconds:.1f}",
    "prepare": lambda line: _said(line.phase_s("prepare") or None, "{:.1f}"),
    "select": lambda line: _said(line.phase_s("select") / max(line.seconds, 1e-9) or None, "{:.1f} %", 100),
    "scored": lambda line: _said(line.count("n_scored"), "{:,.0f}"),
    "trained": lambda line: _said(line.count("n_trained"), "{:,.0f}"),
    "T_norm": lambda line: _said(line.t_norm, "{:.2f}"),
    "modelled": lambda line: _said(line.count("t_norm_modelled"), "{:.2f}"),
    "AGOT": lambda line: _said(line.agot, "{:.2f}"),
    "energy": lambda line: _said(_mean([one.energy_j for one in line.outcomes]), "{:.2f} kJ", 1e-3),
    "seeds": lambda line: f"{line.ranked.n_seeds}",
}
HEADER = tuple(COLUMNS)


def row_cells(line: RankedRow) -> tuple[str, ...]:
    """Say a line of the table."""
    return tuple(say(line) for say in COLUMNS.values())


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
