"""The table of runs: in ranked groups, with what must not be compared; as Markdown, CSV or JSON.

Runs are ranked by accuracy among those on the same data and the same machine. What a run does not tell is
"not measured" in words, empty in CSV and null in JSON; it is never 0.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from edgetune.planning.plan import LINEAR_PROBE, NGRAMS_ALONE
from edgetune.report.collect import CollectedRuns, RunFigures, RunRecord
from edgetune.report.page_parts import NOT_MEASURED
from edgetune.utils.formatting import percent, time_split
from edgetune.utils.sanitize import csv_cell, in_markdown, visible

SCHEMA_VERSION = 1
NOTHING_TRAINED = "no rows trained"
PLAIN_RESULTS = (
    *("method", "preset", "seed", "backend", "accuracy", "micro_f1", "macro_f1", "n_eval"),
    *("elapsed_s", "deadline_s"),
)
PLAIN_COSTS = (
    *("n_seen", "n_scored", "n_trained", "n_steps", "skipped_backward_rate", "skipped_both_rate"),
    *("t_norm_measured", "t_norm_modelled", "energy_j", "energy_measured", "energy_source"),
    *("peak_memory_mb", "interrupted"),
)
GENERIC_STEMS = frozenset({"train", "training", "data"})


@dataclass(frozen=True, slots=True)
class RunGroup:
    """Runs that can be ranked: the same data on the same machine, best first."""

    data: str
    machine: str
    runs: tuple[RunRecord, ...]

    @property
    def describe(self) -> str:
        """On what data and machine the runs were made."""
        return f"{self.data} on {self.machine}"


@dataclass(frozen=True, slots=True)
class Column:
    """A column in words (None: not measured), and whether it holds numbers."""

    title: str
    words: Callable[[RunRecord], str | None]
    right: bool = True


def data_name(figures: RunFigures) -> str:
    """Return the last part of the data's path, and the folder's name too where that part says nothing."""
    given = figures.dataset
    if given is None:
        return "unknown data"
    parts = [part for part in given.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    if given.startswith("hub:") or not parts:
        return given
    return "/".join(parts[-2:] if parts[-1].split(".")[0] in GENERIC_STEMS else parts[-1:])


def grouped(runs: Sequence[RunRecord]) -> list[RunGroup]:
    """Sort runs into groups, by machine and then by data; a run without an accuracy comes last in its own."""
    found: dict[tuple[str, str, tuple[str, ...]], list[RunRecord]] = {}
    for run in runs:
        figures = run.figures
        key = (figures.machine.describe, data_name(figures), tuple(figures.label_names))
        found.setdefault(key, []).append(run)
    places = [key[:2] for key in found]
    groups = []
    for (machine, data, labels), same in sorted(found.items(), key=lambda item: item[0]):
        shown = ", ".join(labels[:4]) + (", …" if len(labels) > 4 else "")
        name = data if places.count((machine, data)) == 1 else f"{data} (labels {shown})"
        groups.append(RunGroup(name, machine, tuple(sorted(same, key=_rank))))
    return groups


def _rank(run: RunRecord) -> tuple[float, float, str]:
    figures = run.figures
    result = figures.accuracy if figures.micro_f1 is None else figures.micro_f1
    took_s = float("inf") if figures.elapsed_s is None else figures.elapsed_s
    return 1.0 if result is None else -result, took_s, run.name


def phase_seconds(figures: RunFigures) -> dict[str, float]:
    """Return the seconds of each phase; they add up to the elapsed time."""
    return dict(time_split({"time_split_s": figures.time_split_s, "elapsed_s": figures.elapsed_s}))


def phases(runs: Iterable[RunRecord]) -> list[str]:
    """Return every phase that any run spent time in, in their order; `other` is last."""
    names = dict.fromkeys(name for run in runs for name in phase_seconds(run.figures))
    return sorted(names, key=lambda name: name == "other")


def describe_method(figures: RunFigures) -> str | None:
    """Say the method, and its preset where that is not the default, or that no row was trained by it."""
    trains = figures.method not in (LINEAR_PROBE, NGRAMS_ALONE) and figures.backend
    if trains and figures.n_trained == figures.n_steps == 0:
        return NOTHING_TRAINED
    if figures.method is None or figures.preset in (None, "", "default"):
        return figures.method
    return f"{figures.method} ({figures.preset})"


def accuracy_cell(figures: RunFigures) -> str | None:
    """Say the accuracy with its 95 % interval, shorter than `formatting.describe_accuracy`."""
    if figures.accuracy is None:
        return None
    if figures.accuracy_interval is None:
        return percent(figures.accuracy)
    low, high = figures.accuracy_interval
    return f"{percent(figures.accuracy)} ({100 * low:.1f}–{100 * high:.1f})"


def result_cell(figures: RunFigures) -> str | None:
    """Say the accuracy; where a row may have several labels, micro-F1 before the subset accuracy."""
    found = accuracy_cell(figures)
    if figures.micro_f1 is None or found is None:
        return found
    return f"micro-F1 {figures.micro_f1:.4f}, subset accuracy {found}"


def describe_energy(figures: RunFigures) -> str | None:
    """Say the energy, and whether a sensor gave it."""
    if figures.energy_j is None:
        return None
    how = {True: ", measured", False: ", estimated", None: ""}[figures.energy_measured]
    return f"{figures.energy_j / 1e3:,.2f} kJ{how}"


def _column(
    title: str, figure: Callable[[RunFigures], Any], words: Callable[[Any], str] = str, right: bool = True
) -> Column:
    """Return the column of a figure."""

    def said(run: RunRecord) -> str | None:
        value = figure(run.figures)
        return None if value is None else words(value)

    return Column(title, said, right)


RESULTS = (
    Column("run", lambda run: run.name, right=False),
    _column("method", describe_method, right=False),
    _column("seed", attrgetter("seed")),
    _column("backend", attrgetter("backend"), right=False),
    _column("accuracy (95 % interval)", result_cell),
    _column("macro-F1", attrgetter("macro_f1"), "{:.4f}".format),
    _column("time", attrgetter("elapsed_s"), "{:,.1f} s".format),
    _column("energy", describe_energy),
)
COSTS = (
    _column("examples seen", attrgetter("n_seen"), "{:,}".format),
    _column("scored", attrgetter("n_scored"), "{:,}".format),
    _column("trained", attrgetter("n_trained"), "{:,}".format),
    _column("steps", attrgetter("n_steps"), "{:,}".format),
    _column("backward pass skipped", attrgetter("skipped_backward_rate"), percent),
    _column("both passes skipped", attrgetter("skipped_both_rate"), percent),
    _column("T_norm measured", attrgetter("t_norm_measured"), "{:.3f}".format),
    _column("T_norm modelled", attrgetter("t_norm_modelled"), "{:.3f}".format),
    _column("peak memory", attrgetter("peak_memory_mb"), "{:,.0f} MB".format),
    Column("date (UTC)", lambda run: f"{run.date:%Y-%m-%d %H:%M}"),
)


def phase_column(name: str) -> Column:
    """Return the column of a phase's seconds."""
    return _column(f"{name} (s)", lambda figures: phase_seconds(figures).get(name), "{:,.2f}".format)


def notes(groups: Sequence[RunGroup]) -> list[str]:
    """Say what must not be compared, and what else a reader has to know of these runs."""
    runs = [run for group in groups for run in group.runs]
    told = []
    machines = list(dict.fromkeys(group.machine for group in groups))
    if len(machines) > 1:
        told.append(
            f"These runs were made on {len(machines)} machines: {'; '.join(machines)}. Times and energy of "
            "different processors must not be compared; the tables are grouped by machine."
        )
    for name in sorted({data_name(run.figures) for run in runs}):
        told += _data_notes(name, [run.figures for run in runs if data_name(run.figures) == name])
    if len({run.figures.energy_measured for run in runs if run.figures.energy_j is not None}) > 1:
        told.append(
            "Energy was measured in some runs and estimated in others; do not compare one with the other."
        )
    if stopped := [run.name for run in runs if run.figures.interrupted]:
        told.append(f"Stopped before the end: {', '.join(stopped)}.")
    return told


def _data_notes(name: str, same: Sequence[RunFigures]) -> Iterator[str]:
    paths = {figures.dataset for figures in same}
    if len(paths) > 1:
        shown = ", ".join(sorted(map(str, paths)))
        yield (
            f"{name} stands for data at different paths ({shown}); compare these runs only if the data is "
            "the same."
        )
    evaluated = {(figures.n_eval, figures.eval_source) for figures in same if figures.accuracy is not None}
    if len(evaluated) > 1:
        shown = "; ".join(sorted(f"{source or 'unknown'}, {n} rows" for n, source in evaluated))
        yield (
            f"Runs on {name} were evaluated on different rows ({shown}), which also affects their accuracies."
        )


def _plain_rows(groups: Iterable[RunGroup]) -> Iterator[dict[str, Any]]:
    """Yield runs as JSON values; the rank is among the runs on the same data and machine."""
    for group in groups:
        for rank, run in enumerate(group.runs, start=1):
            figures = run.figures
            low, high = figures.accuracy_interval or (None, None)
            yield {
                "run": run.name,
                "rank": rank,
                "data": figures.dataset,
                **{name: getattr(figures, name) for name in PLAIN_RESULTS},
                "accuracy_low": low,
                "accuracy_high": high,
                "time_split_s": phase_seconds(figures),
                **{name: getattr(figures, name) for name in PLAIN_COSTS},
                "cpu": figures.machine.cpu,
                "cores": figures.machine.cores,
                "date": f"{run.date:%Y-%m-%dT%H:%M:%SZ}",
                "folder": str(run.folder),
            }


def to_json(collected: CollectedRuns) -> str:
    """Return the table as one JSON object."""
    groups = grouped(collected.runs)
    whole = {
        "schema_version": SCHEMA_VERSION,
        "runs": list(_plain_rows(groups)),
        "notes": notes(groups),
        "left_out": list(collected.left_out),
    }
    return visible(json.dumps(whole, indent=2, ensure_ascii=False)) + "\n"


def to_csv(collected: CollectedRuns) -> str:
    """Return the table as CSV that a spreadsheet takes for values and never for formulas."""
    names = phases(collected.runs)
    rows = []
    for plain in _plain_rows(grouped(collected.runs)):
        split = plain.pop("time_split_s")
        rows.append(plain | {f"time_{name}_s": split.get(name) for name in names})
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(
        map(csv_cell, row) for row in [rows[0], *map(dict.values, rows)]
    )
    return out.getvalue()


def to_markdown(collected: CollectedRuns) -> str:
    """Return the table in words as Markdown, its notes below it."""
    groups = grouped(collected.runs)
    columns = [
        _column("data", data_name, right=False),
        *RESULTS,
        *COSTS[:-1],
        *map(phase_column, phases(collected.runs)),
        _column("energy source", attrgetter("energy_source"), right=False),
        _column("machine", attrgetter("machine.describe"), right=False),
        COSTS[-1],
    ]
    rows = [["#", *(column.title for column in columns)]]
    rows.append(["--:", *("--:" if column.right else "---" for column in columns)])
    for group in groups:
        for rank, run in enumerate(group.runs, start=1):
            cells = (column.words(run) for column in columns)
            rows.append([str(rank), *(NOT_MEASURED if cell is None else cell for cell in cells)])
    lines = [f"| {' | '.join(map(in_markdown, row))} |" for row in rows]
    told = [f"- {in_markdown(text)}" for text in [*notes(groups), *collected.left_out]]
    return "\n".join([*lines, *([""] if told else []), *told]) + "\n"
