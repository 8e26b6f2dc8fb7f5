"""The tables of a run's summary, an evaluation, plans and an inspection, and a corrected training file.

    summary, evaluation, … ─→ sections (title, rows of cells) ─→ rich on a terminal, plain lines elsewhere

A figure that is not in the summary leaves its line out.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetune.data.labels import merge_hint
from edgetune.planning.plan import LINEAR_PROBE, NGRAMS_ALONE, Plan, Plans
from edgetune.run_files.run_folder import disk_errors
from edgetune.utils.files import atomic_path
from edgetune.utils.formatting import (
    Summary,
    accuracy_name,
    counted,
    describe_accuracy,
    describe_macro_f1,
    describe_stage,
    describe_unknown,
    duration,
    percent,
    time_split,
)
from edgetune.utils.metrics import Evaluation
from edgetune.utils.sanitize import brief, csv_cell, one_line, visible
from edgetune.utils.tables import Section, print_sections

if TYPE_CHECKING:
    from rich.console import Console

    from edgetune.inference.inspection import CorrectedTable, Inspection, VisitedRow


Rows = list[tuple[str, ...]]
BAR = 20
SHOWN_CHARS = 64
"""Of a text, on a terminal."""
MAX_CLASSES, MAX_PLANS, MAX_REFUSED = 12, 6, 12
"""Classes that the summary of a run lists, and plans."""
CLASSES = ("class", "precision", "recall", "F1", "rows")
MEASURES = ("precision", "recall", "f1")
SUGGESTION = ("suggested_label", "probability", "change")
"""Columns of a corrected copy, after those of the file."""
PLANS = ("", "backend", "frozen", "tokens", "batch", "rows", "passes", "steps", "memory", "energy", "loss")


def summary_sections(summary: Summary, *, details: bool = False) -> list[Section]:
    """Return the tables printed after a run, empty ones left out; without `details` they fit one screen."""
    per_class = summary.get("per_class") or []
    sections = [
        Section("Result", list(_result(summary))),
        _classes(summary if len(per_class) <= MAX_CLASSES else {}),
        _learners(summary),
        Section("Model", list(_model(summary))),
        Section("Cost", list(_cost(summary))),
        *(_details(summary) if details else ()),
        Section("Warnings", [(str(text),) for text in summary.get("warnings") or []]),
    ]
    return [section for section in sections if section.rows]


def _details(summary: Summary) -> Iterator[Section]:
    yield Section("Run", list(_run(summary)))
    yield Section("Time", list(_time(summary)), right=True)
    yield Section("Plan", list(_plan(summary)), ("", "planned", "actual"), right=True)
    yield Section("Examples", list(_examples(summary)))
    yield Section("Stages", list(_stages(summary)))
    yield Section("Measures", list(_measures(summary)))


def int8_sections(report: dict[str, Any]) -> list[Section]:
    """Return the table of a comparison of int8 with fp32, given as `int8.json` has it."""
    rows: Rows = []
    for name in ("fp32", "int8"):
        one = report[name]
        size = f"{one['n_bytes'] / 1e6:,.1f}"
        rows.append((name, f"{one['accuracy']:.1%}", f"{one['ms_per_text']:.2f}", size))
    where = f"{counted(report['n_rows'], 'row')}, one at a time"
    title = f"int8 is {report['speedup']:.2f} times as fast ({where}; {report['machine']['cpu']})"
    return [Section(title, rows, ("", "accuracy", "ms a text", "MB"), right=True)]


def known_lines(
    summary: Summary, *wanted: tuple[str, str, Callable[[Any], str]]
) -> Iterator[tuple[str, str]]:
    """Say each wanted (key, name, words) whose value is known."""
    for key, name, words in wanted:
        if summary.get(key) is not None:
            yield name, words(summary[key])


def _result(summary: Summary) -> Iterator[tuple[str, str]]:
    accuracy = describe_accuracy(summary)
    yield from known_lines(summary, ("micro_f1", "micro-F1", "{:.4f}".format))
    if accuracy:
        rows = f", {counted(summary['n_eval'], 'row')}" if summary.get("n_eval") is not None else ""
        yield accuracy_name(summary), accuracy + rows
    if (macro_f1 := describe_macro_f1(summary)) is not None:
        yield "macro-F1", macro_f1
    if accuracy:
        yield from known_lines(summary, ("eval_source", "evaluated on", str))
    if summary.get("best_epoch_chosen_on_eval") and summary.get("best_epoch") is not None:
        yield "best epoch", f"{summary['best_epoch']}, chosen on the evaluation rows"
    if summary.get("interrupted"):
        yield "interrupted", "the model was trained only up to that point"


def _classes(summary: Summary) -> Section:
    """Return the figures of each class, with its threshold where rows may have several."""
    rows: Rows = [
        (brief(one["label"], 30), *(f"{one[key]:.3f}" for key in MEASURES), f"{one['support']:,}")
        for one in summary.get("per_class") or []
    ]
    if not (thresholds := summary.get("thresholds")):
        return Section("Classes", rows, CLASSES, right=True)
    shown = [f"{threshold:.2f}" for threshold in thresholds] + [""] * (len(rows) - len(thresholds))
    rows = [(*row, threshold) for row, threshold in zip(rows, shown, strict=True)]
    return Section("Classes", rows, (*CLASSES, "threshold"), right=True)


def _run(summary: Summary) -> Iterator[tuple[str, str]]:
    method = summary.get("method")
    if method:
        preset = f", preset {summary['preset']}" if summary.get("preset") else ""
        backend = f" on {summary['backend']}" if summary.get("backend") else ""
        yield "method", f"{method}{backend}{preset}"
    yield from known_lines(summary, ("model", "model", str), ("dataset", "data", str))
    for one in summary.get("breaks") or []:
        again = f"; steps repeated: {one['n_steps_lost']:,}" if one["n_steps_lost"] else ""
        yield "resumed", f"at step {one['n_steps']:,}{again}"
    if summary.get("n_diverged"):
        times = counted(summary["n_diverged"], "time")
        yield "loss not finite", f"{times}; the learning rate was halved each time"


def _learners(summary: Summary) -> Section:
    """Say what each learner reached alone, and what all of them together reached."""
    several = summary.get("multi_label")
    key, measure = ("micro_f1", "micro-F1") if several else ("accuracy", "accuracy")
    ensemble = summary.get("ensemble")
    learners = [] if ensemble is None else ensemble["learners"]
    rows: Rows = [
        (
            one["name"],
            "" if one[key] is None else percent(one[key]),
            "" if one["held_out"] is None else percent(one["held_out"][key]),
            f"{one['weight']:.2f}" if one["weight"] else "unused",
        )
        for one in learners
    ]
    if ensemble is not None and ensemble[key] is not None and len(learners) > 1:
        rows.append(("ensemble", percent(ensemble[key]), "", ""))
    return Section("Learners", rows, ("learner", measure, "held-out", "weight"), right=True)


def _time(summary: Summary) -> Iterator[tuple[str, ...]]:
    parts = time_split(summary)
    elapsed = summary.get("elapsed_s")
    total = elapsed if elapsed is not None else sum(seconds for _, seconds in parts)
    for name, seconds in parts:
        if seconds < 0.005:
            continue
        share = seconds / total if total else 0.0
        yield name, f"{seconds:.2f} s", percent(share), "█" * round(BAR * share)
    if parts or elapsed is not None:
        yield "elapsed", f"{total:.2f} s", percent(1.0), duration(total) if total >= 60 else ""


def _plan(summary: Summary) -> Iterator[tuple[str, ...]]:
    """Say what was planned beside what came of it."""
    planned = summary.get("planned") or {}
    lines = planned.get("lines") or []
    for line in lines:
        real = line["real_s"]
        yield line["line"], f"{line['planned_s']:.2f} s", "" if real is None else f"{real:.2f} s"
    if not lines:
        return
    if summary.get("method") == LINEAR_PROBE:
        yield "rows of the linear probe", f"{planned['n_rows']:,}", ""
    elif planned["n_rows"] or summary["n_trained"]:
        yield "examples trained", f"{planned['n_rows']:,}", f"{summary['n_trained']:,}"
        if planned.get("revised"):
            yield "… revised after the first steps", f"{planned['revised']['n_rows']:,}", ""
        yield "steps", f"{planned['n_steps']:,}", f"{summary['n_steps']:,}"
    yield "energy", f"{planned['energy_j'] / 1e3:.2f} kJ", f"{summary['energy_j'] / 1e3:.2f} kJ"


def _examples(summary: Summary) -> Iterator[tuple[str, str]]:
    yield from known_lines(summary, ("n_train", "training rows", "{:,}".format))
    for field, rows in (("n_bad_rows", "unusable rows"), ("n_unlabelled_rows", "rows without a label")):
        if summary.get(field):
            yield f"{rows} left out", f"{summary[field]:,}"
    if not summary.get("n_seen"):
        return
    if summary.get("deadline_s") is None:
        yield from known_lines(summary, ("epochs", "epochs", "{:g}".format))
    elif summary.get("n_train"):
        yield "passes", f"{summary['n_seen'] / summary['n_train']:.2f}"
    yield from known_lines(
        summary,
        ("n_seen", "seen", "{:,}".format),
        ("n_scored", "scored", "{:,}".format),
        ("n_trained", "trained", "{:,}".format),
        ("n_steps", "optimizer steps", "{:,}".format),
        ("skipped_backward_rate", "backward pass skipped", percent),
        ("skipped_both_rate", "both passes skipped", percent),
        ("threshold", "threshold", "{:.4f} nats".format),
    )


def _stages(summary: Summary) -> Iterator[tuple[str, str]]:
    stages = summary.get("stages") or []
    if len(stages) > 1 or (stages and stages[0].get("stage") != "all"):
        for stage in stages:
            seen = f"from {counted(stage['n_seen'], 'row')} seen" if stage.get("n_seen") is not None else ""
            reason = str(stage.get("reason") or "")
            yield describe_stage(str(stage["stage"])), ": ".join(part for part in (seen, reason) if part)
    selection = summary.get("selection") or {}
    if selection.get("reached_last_stage") is False and selection.get("why"):
        yield "last stage not reached", str(selection["why"])
    yield from known_lines(
        selection,
        ("predictor_loss", "predictor loss", "{:.4f} nats".format),
        ("explored_hard_rate", "explored rows that were hard", percent),
        ("overlap_rate", "easy rows below the threshold", percent),
        ("predictor_precision", "precision for hard rows", percent),
        ("predictor_recall", "recall for hard rows", percent),
    )


def _cost(summary: Summary) -> Iterator[tuple[str, str]]:
    if summary.get("elapsed_s") is not None:
        used = ""
        if summary.get("deadline_s") is not None:
            used = f" of {duration(summary['deadline_s'])} ({percent(summary['deadline_used_rate'])})"
        yield "time", duration(summary["elapsed_s"]) + used
    yield from known_lines(summary, ("peak_memory_mb", "peak memory", "{:,.0f} MB".format))
    if summary.get("energy_j") is not None:
        how = "measured" if summary.get("energy_measured") else "estimated"
        yield "energy", f"{summary['energy_j'] / 1e3:.2f} kJ, {how}"


def _measures(summary: Summary) -> Iterator[tuple[str, str]]:
    yield from known_lines(
        summary,
        ("mcc", "MCC", "{:.4f}".format),
        ("t_norm_modelled", "T_norm modelled", "{:.3f}".format),
        ("t_norm_measured", "T_norm measured", "{:.3f}".format),
    )
    if summary.get("energy_j") is not None:
        yield "energy from", str(summary["energy_source"])
        yield "energy by equation 6", f"{summary['energy_eq6_kwh']:.5f} kWh, {summary['co2e_lb']:.5f} lb CO2e"
    if summary.get("cache"):
        cache = summary["cache"]
        yield (
            "cache of frozen layers",
            f"{counted(cache['n_hits'], 'row')} found, {cache['n_misses']:,} computed, "
            f"{cache['memory_mb']:,.0f} MB in memory, {cache['file_mb']:,.0f} MB on disk",
        )


def _model(summary: Summary) -> Iterator[tuple[str, str]]:
    folder = summary.get("run_dir")
    if folder:
        yield "run folder", str(folder)
        yield "predict", f'edgetune predict {folder} "some text"'
        yield "details", f"edgetune report {folder} --out report.html"


def evaluation_sections(evaluation: Evaluation) -> list[Section]:
    """Return the tables of an evaluation: figures, classes, confusion matrix."""
    plain = evaluation.to_dict()
    rows: Rows = [(accuracy_name(plain), describe_accuracy(plain) or "")]
    rows += known_lines(plain, ("micro_f1", "micro-F1", "{:.4f}".format))
    rows.append(("macro-F1", describe_macro_f1(plain) or ""))
    rows += known_lines(plain, ("mcc", "MCC", "{:.4f}".format))
    rows += [("loss", f"{evaluation.loss:.4f} nats"), ("rows", f"{evaluation.n:,}")]
    if names := [brief(one.label) for one in evaluation.never_predicted]:
        rows.append(("never predicted", ", ".join(names)))
    cells = [
        (name, *(f"{count:,}" for count in row))
        for name, row in zip(evaluation.label_names, evaluation.confusion, strict=False)
    ]
    unknown = evaluation.unknown_labels
    hint = merge_hint(unknown, [one.label for one in evaluation.known])
    warnings = [(describe_unknown(unknown, evaluation.n) + hint,)] if unknown else []
    confusion = "Confusion matrix (rows: true, columns: predicted)"
    sections = [
        Section("Evaluation", rows),
        _classes(plain),
        Section(confusion, cells, ("", *evaluation.label_names), right=True),
        Section("Warnings", [*warnings]),
    ]
    return [section for section in sections if section.rows]


def plan_sections(plans: Plans, *, explain: bool) -> list[Section]:
    """Return the tables of plans, best first; `explain` adds why, and what was refused."""
    best = plans.best
    distinct: dict[tuple[str, int, str], Plan] = {}  # in more than a batch size or a length limit
    for plan in plans.ranked:
        distinct.setdefault((plan.key, plan.depth, plan.method), plan)
    rows = [_plan_row(number, plan) for number, plan in enumerate([*distinct.values()][:MAX_PLANS], start=1)]
    spent: Rows = [(name, duration(seconds)) for name, seconds in best.lines.items() if seconds >= 0.005]
    spent.append(("total", duration(best.total_s)))
    if best.n_rows:
        low, high = best.rows_interval
        spent.append(("rows trained", f"{best.n_rows:,} ({low:,} to {high:,})"))
    sections = [
        Section("Plans, best first", rows, PLANS, right=True),
        Section("Planned time of the best plan", spent, right=True),
    ]
    if explain:
        refused = [f"{what}: {why}" for what, why in dict.fromkeys(plans.refused)]
        sections += [
            Section("Why this plan", [(reason,) for reason in plans.reasons]),
            Section("Rejected", [(text,) for text in refused[:MAX_REFUSED]]),
        ]
    return [section for section in sections if section.rows]


def _plan_row(number: int, plan: Plan) -> tuple[str, ...]:
    if plan.method == NGRAMS_ALONE:
        return (str(number), plan.key, *[""] * 7, f"{plan.energy_j / 1e3:.1f} kJ", "")
    frozen = counted(plan.depth, "layer") if plan.depth else "embeddings"
    if plan.method == LINEAR_PROBE:
        frozen = "all but the head"
    return (
        *(str(number), plan.key, frozen, str(plan.max_length), str(plan.batch_size), f"{plan.n_rows:,}"),
        *(f"{plan.passes:.2f}", f"{plan.n_steps:,}", f"{plan.memory_mb:,.0f} MB"),
        *(f"{plan.energy_j / 1e3:.1f} kJ", f"{-plan.expected_points:.1f}"),
    )


def print_plans(plans: Plans, console: Console, *, explain: bool) -> None:
    """Print plans; `loss` is the expected distance, in points of accuracy, to training for ever."""
    print_sections(plan_sections(plans, explain=explain), console)
    hint = "" if explain else " Use `--explain` for the reasons."
    source = one_line(plans.device.power_source)
    console.print(
        f"Costs: device profile {one_line(plans.device.name)}; energy: {source}. "
        f"loss: expected accuracy below that of unlimited training, in percentage points.{hint}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def print_inspection(found: Inspection, n_rows: int, console: Console) -> None:
    """Print the labels that are probably wrong, and rows that the run skipped or trained more often."""
    suspects: Rows = []
    for one in found.suspects[:n_rows]:
        probabilities = f"{one.label_probability:.3f}", f"{one.probability:.3f}"
        names = brief(one.label), brief(one.suggested)
        suspects.append((f"{one.line:,}", *names, *probabilities, brief(one.text, SHOWN_CHARS)))
    title = f"{len(found.suspects):,} of {len(found.examined):,} labels are probably wrong"
    if len(found.suspects) > n_rows:
        title += f"; the {n_rows:,} surest"
    header = ("line", "label", "suggested", "p(label)", "p(suggested)", "text") if suspects else ()
    waiting = "Most often seen but not trained: skipped, or waiting for a full batch when the run ended"
    sections = [
        Section(title, suspects or [("none",)], header),
        _visited(waiting, found.skipped),
        _visited("Trained more often than others", found.trained),
    ]
    print_sections([section for section in sections if section.rows], console)


def _visited(title: str, rows: Sequence[VisitedRow]) -> Section:
    cells: Rows = []
    for one in rows:
        loss = "–" if one.mean_loss is None else f"{one.mean_loss:.3f}"
        counts = f"{one.n_seen:,}", f"{one.n_trained:,}"
        cells.append((f"{one.line:,}", brief(one.label), loss, *counts, brief(one.text, SHOWN_CHARS)))
    return Section(title, cells, ("line", "label", "loss", "seen", "trained", "text"))


def inspection_object(found: Inspection, n_rows: int) -> dict[str, Any]:
    """Return what was found as JSON values."""
    return {
        "n_rows": found.n_rows,
        "n_examined": len(found.examined),
        "n_suspects": len(found.suspects),
        "suspects": [asdict(one) for one in found.suspects[:n_rows]],
        "skipped": [asdict(one) for one in found.skipped],
        "trained": [asdict(one) for one in found.trained],
    }


def write_corrected(path: Path, table: CorrectedTable) -> None:
    """Write all rows of the training file with their suggestions as CSV, under a temporary name first.

    A text that a spreadsheet would take for a formula gets an apostrophe; labels do not.
    """
    from edgetune.inference.predictions import csv_value, free_name

    with (
        disk_errors(path),
        atomic_path(path) as scratch,
        scratch.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file)
        taken: set[str] = set()
        writer.writerow(csv_cell(free_name(name, taken)) for name in (*table.columns, *SUGGESTION))
        for values, found in table.rows:
            added: tuple[Any, ...] = ("", "", "")
            if found is not None:
                probability = "" if found.probability is None else f"{found.probability:.4f}"
                added = (visible(found.suggested), probability, "yes" if found.change else "no")
            cells = [
                visible(value) if at == table.label_at and isinstance(value, str) else csv_value(value)
                for at, value in enumerate(values)
            ]
            writer.writerow([*cells, *added])
