"""The table of runs: in ranked groups, with what must not be compared; as Markdown, CSV or JSON.

Runs are ranked by accuracy among those on the same data and the same machine. What a run does not tell is
"not measured" in words, empty in CSV and null in JSON; it is never 0.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from edgetune.planning.plan import LINEAR_PROBE, NGRAMS_ALONE
from edgetune.report.collect import CollectedRuns, RunFigures, RunRecord
from edgetune.report.page_parts import NOT_MEASURED
from edgetune.utils.formatting import percent, time_split
from edgetune.utils.sanitize import csv_cell, in_markdown, visible

SCHEMA_VERSION = 1
NOTHING_TRAINED = "no rows trained"
GENERIC_STEMS = frozenset({"train", "training", "data"})


@dataclass(frozen=True, slots=True)
class RunGroup:
    """Runs that can be ranked: the same data on the same machine, best first."""

    data: str
    machine: str
    runs: tuple[RunRecord, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """A column in words.

    Attributes:
        title: its name.
        words: of a run; None: not measured.
        right: whether it holds numbers.
    """

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
    return [
        RunGroup(
            _labelled(data, labels, places.count((machine, data))), machine, tuple(sorted(same, key=_rank))
        )
        for (machine, data, labels), same in sorted(found.items(), key=lambda item: item[0])
    ]


def _labelled(data: str, labels: Sequence[str], n_alike: int) -> str:
    """Name data by its labels too, where others of that name have other labels."""
    if n_alike == 1:
        return data
    shown = ", ".join(labels[:4]) + (", …" if len(labels) > 4 else "")
    return f"{data} (labels {shown})"


def _rank(run: RunRecord) -> tuple[float, float, str]:
    figures = run.figures
    accuracy = -1.0 if figures.accuracy is None else figures.accuracy
    return -accuracy, float("inf") if figures.elapsed_s is None else figures.elapsed_s, run.name


def phase_seconds(figures: RunFigures) -> dict[str, float]:
    """Return the seconds of each phase; they add up to the elapsed time."""
    return dict(time_split({"time_split_s": figures.time_split_s, "elapsed_s": figures.elapsed_s}))


def phases(runs: Iterable[RunRecord]) -> list[str]:
    """Return every phase that any run spent time in, in their order; `other` is last."""
    names = dict.fromkeys(name for run in runs for name in phase_seconds(run.figures))
    return sorted(names, key=lambda name: name == "other")


def _said(words: Callable[[Any], str], value: Any) -> str | None:
    return None if value is None else words(value)


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


def describe_energy(figures: RunFigures) -> str | None:
    """Say the energy, and whether a sensor gave it."""
    if figures.energy_j is None:
        return None
    how = {True: ", measured", False: ", estimated", None: ""}[figures.energy_measured]
    return f"{figures.energy_j / 1e3:,.2f} kJ{how}"


RESULTS = (
    Column("run", lambda run: run.name, right=False),
    Column("method", lambda run: describe_method(run.figures), right=False),
    Column("seed", lambda run: _said(str, run.figures.seed)),
    Column("backend", lambda run: run.figures.backend, right=False),
    Column("accuracy (95 % interval)", lambda run: accuracy_cell(run.figures)),
    Column("macro-F1", lambda run: _said("{:.4f}".format, run.figures.macro_f1)),
    Column("time", lambda run: _said("{:,.1f} s".format, run.figures.elapsed_s)),
    Column("energy", lambda run: describe_energy(run.figures)),
)
COSTS = (
    Column("examples seen", lambda run: _said("{:,}".format, run.figures.n_seen)),
    Column("scored", lambda run: _said("{:,}".format, run.figures.n_scored)),
    Column("trained", lambda run: _said("{:,}".format, run.figures.n_trained)),
    Column("steps", lambda run: _said("{:,}".format, run.figures.n_steps)),
    Column("backward pass skipped", lambda run: _said(percent, run.figures.skipped_backward_rate)),
    Column("both passes skipped", lambda run: _said(percent, run.figures.skipped_both_rate)),
    Column("T_norm measured", lambda run: _said("{:.3f}".format, run.figures.t_norm_measured)),
    Column("T_norm modelled", lambda run: _said("{:.3f}".format, run.figures.t_norm_modelled)),
    Column("peak memory", lambda run: _said("{:,.0f} MB".format, run.figures.peak_memory_mb)),
    Column("date (UTC)", lambda run: f"{run.date:%Y-%m-%d %H:%M}"),
)


def phase_column(name: str) -> Column:
    """Return the column of a phase's seconds."""
    return Column(f"{name} (s)", lambda run: _said("{:,.2f}".format, phase_seconds(run.figures).get(name)))


def notes(groups: Sequence[RunGroup]) -> list[str]:
    """Say what must not be compared, and what else a reader has to know of these runs."""
    runs = [run for group in groups for run in group.runs]
    told = list(_machine_note(groups))
    for name, same in groupby(sorted(runs, key=_data_of), key=_data_of):
        told += _data_notes(name, [run.figures for run in same])
    measured = {run.figures.energy_measured for run in runs if run.figures.energy_j is not None}
    if len(measured) > 1:
        told.append(
            "Energy was measured in some runs and estimated in others; do not compare one with the other."
        )
    stopped = [run.name for run in runs if run.figures.interrupted]
    if stopped:
        told.append(f"Stopped before the end: {', '.join(stopped)}.")
    return told


def _data_of(run: RunRecord) -> str:
    return data_name(run.figures)


def _machine_note(groups: Sequence[RunGroup]) -> Iterable[str]:
    machines = list(dict.fromkeys(group.machine for group in groups))
    if len(machines) > 1:
        yield (
            f"These runs were made on {len(machines)} machines: {'; '.join(machines)}. Times and energy of "
            "different processors must not be compared; the tables are grouped by machine."
        )


def _data_notes(name: str, same: Sequence[RunFigures]) -> Iterable[str]:
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


def plain_row(run: RunRecord, rank: int) -> dict[str, Any]:
    """Return a run as JSON values; its rank is among the runs on the same data and machine."""
    figures = run.figures
    low, high = figures.accuracy_interval or (None, None)
    kept = (
        "method",
        "preset",
        "seed",
        "backend",
        "accuracy",
        "macro_f1",
        "n_eval",
        "elapsed_s",
        "deadline_s",
    )
    counts = ("n_seen", "n_scored", "n_trained", "n_steps", "skipped_backward_rate", "skipped_both_rate")
    costs = ("t_norm_measured", "t_norm_modelled", "energy_j", "energy_measured", "energy_source")
    return {
        "run": run.name,
        "rank": rank,
        "data": figures.dataset,
        **{name: getattr(figures, name) for name in kept},
        "accuracy_low": low,
        "accuracy_high": high,
        "time_split_s": phase_seconds(figures),
        **{name: getattr(figures, name) for name in (*counts, *costs)},
        "peak_memory_mb": figures.peak_memory_mb,
        "interrupted": figures.interrupted,
        "cpu": figures.machine.cpu,
        "cores": figures.machine.cores,
        "date": f"{run.date:%Y-%m-%dT%H:%M:%SZ}",
        "folder": str(run.folder),
    }


def _plain_rows(groups: Iterable[RunGroup]) -> list[dict[str, Any]]:
    return [plain_row(run, rank) for group in groups for rank, run in enumerate(group.runs, start=1)]


def to_json(collected: CollectedRuns) -> str:
    """Return the table as one JSON object."""
    groups = grouped(collected.runs)
    whole = {
        "schema_version": SCHEMA_VERSION,
        "runs": _plain_rows(groups),
        "notes": notes(groups),
        "left_out": list(collected.left_out),
    }
    return visible(json.dumps(whole, indent=2, ensure_ascii=False)) + "\n"


def to_csv(collected: CollectedRuns) -> str:
    """Return the table as CSV that a spreadsheet takes for values and never for formulas."""
    names = phases(collected.runs)
    out = io.StringIO()
    writer: Any = None
    for plain in _plain_rows(grouped(collected.runs)):
        split = plain.pop("time_split_s")
        flat = {**plain, **{f"time_{name}_s": split.get(name) for name in names}}
        if writer is None:
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow(map(csv_cell, flat))
        writer.writerow(map(csv_cell, flat.values()))
    return out.getvalue()


def to_markdown(collected: CollectedRuns) -> str:
    """Return the table in words as Markdown, its notes below it."""
    groups = grouped(collected.runs)
    columns = [
        Column("data", _data_of, right=False),
        *RESULTS,
        *COSTS[:-1],
        *map(phase_column, phases(collected.runs)),
        Column("energy source", lambda run: run.figures.energy_source, right=False),
        Column("machine", lambda run: run.figures.machine.describe, right=False),
        COSTS[-1],
    ]
    lines = [
        _md_row(["#", *(column.title for column in columns)]),
        _md_row(["--:", *("--:" if column.right else "---" for column in columns)]),
    ]
    for group in groups:
        for rank, run in enumerate(group.runs, start=1):
            cells = (column.words(run) for column in columns)
            lines.append(_md_row([str(rank), *(NOT_MEASURED if cell is None else cell for cell in cells)]))
    told = [f"- {in_markdown(text)}" for text in [*notes(groups), *collected.left_out]]
    return "\n".join([*lines, *([""] if told else []), *told]) + "\n"


def _md_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(in_markdown, cells))} |"
