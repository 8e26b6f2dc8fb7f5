"""The end of a run: summary, warnings, model card and picture, derived from what was counted and measured."""

from __future__ import annotations

import dataclasses
import math
from datetime import datetime, timezone
from typing import Any

import numpy as np

from edgetune.config.settings import RunConfig
from edgetune.data.batches import bucket_of
from edgetune.energy import read_energy
from edgetune.energy.estimate import MEMORY_W_PER_MB
from edgetune.learners.loop import Loop
from edgetune.planning.plan import LINEAR_PROBE, NGRAMS_ALONE
from edgetune.report.live_view import View
from edgetune.run_files.counters import Counters
from edgetune.run_files.example_stats import rates_by_label, rates_by_length
from edgetune.run_files.history import read_history
from edgetune.run_files.run_folder import INTERRUPTED, RunFolder
from edgetune.run_files.summary import RunResult
from edgetune.runs.deadline import Deadline
from edgetune.runs.ensembling import EnsembleStage
from edgetune.runs.model_saver import ModelSaver
from edgetune.runs.open_choices import only_probes
from edgetune.runs.recovery import Recovery
from edgetune.runs.setup import RunContext
from edgetune.utils.failpoints import failpoint
from edgetune.utils.files import write_atomic
from edgetune.utils.machine import machine_info, memory_mb, peak_memory_mb, versions
from edgetune.utils.metrics import Evaluation, paper_co2e_lb, paper_energy_kwh, t_norm_modelled
from edgetune.utils.multi_label import micro_f1
from edgetune.utils.sanitize import brief

MOST_NAMED = 5
"""Classes named in a warning."""
LEAST_OF_PLAN = 0.5
"""A run that processed a smaller share of the planned rows says so."""
GROWN_PROBE = 2
"""A linear probe on this many times as many rows as planned is the reason."""


def summarize_training(
    run: RunContext, loop: Loop, saver: ModelSaver, recovery: Recovery, ensemble: EnsembleStage
) -> RunResult:
    """Put together the summary of a run with an encoder, up to now."""
    config, data, deadline, selector = run.config, run.data, run.deadline, loop.selector
    train, report = config.train, selector.report()
    assert train.lr is not None
    warnings = _short_of_plan(config, deadline, loop, ensemble.n_probe_rows)
    keeps_best = config.budget.patience is not None if deadline.has_plan else train.keep == "best"
    return RunResult(
        method=config.selection.method if deadline.trains else LINEAR_PROBE,
        preset=config.selection.preset if deadline.trains else "",
        backend=run.backend.name,
        model=run.model_name,
        stages=[dataclasses.asdict(change) for change in selector.stages],
        threshold=report.get("threshold"),
        selection=report,
        epochs=train.epochs,
        best_epoch=saver.best_epoch,
        best_epoch_chosen_on_eval=data.held_out is None and train.epochs > 1 and keeps_best,
        batch_size=train.batch_size,
        lr=train.lr,
        precision=config.model.precision,
        freeze=config.model.freeze,
        frozen_depth=run.backend.depth,
        texts_apart=config.data.pair and only_probes(config),
        n_parameters_trained=run.backend.n_parameters,
        breaks=recovery.breaks,
        n_diverged=recovery.n_diverged,
        n_left=loop.counts.n_left + loop.n_waiting,
        by_label=rates_by_label(loop.row_stats, data.train.rows, data.train.labels, data.label_names),
        by_length=rates_by_length(loop.row_stats, data.train.rows, data.train.lengths),
        **_derive_costs(loop.counts, run.meter.split_s(), _unfiltered_row_s(run, loop)),
        **_fields_of_any_run(run, ensemble, ensemble.evaluation or saver.best, loop.stopped, warnings),
    )


def summarize_ngrams(run: RunContext, ensemble: EnsembleStage, interrupted: bool, why: str) -> RunResult:
    """Put together the summary of a run without an encoder; `why` says why there is none."""
    fields = _fields_of_any_run(run, ensemble, ensemble.evaluation, interrupted, [why])
    return RunResult(method=NGRAMS_ALONE, model="n-grams alone", **fields)


def _fields_of_any_run(
    run: RunContext, ensemble: EnsembleStage, best: Evaluation | None, interrupted: bool, warnings: list[str]
) -> dict[str, Any]:
    """Return the fields of a summary that every run has, with or without an encoder."""
    config, data, split_s = run.config, run.data, run.meter.split_s()
    elapsed_s, cache = sum(split_s.values()), None if run.encoder is None else run.encoder.cache
    return {
        "dataset": config.data.train,
        "label_names": list(data.label_names),
        "multi_label": data.multi_label,
        "eval_source": data.eval_source,
        "elapsed_s": elapsed_s,
        "time_split_s": split_s,
        "n_train": len(data.train),
        "n_bad_rows": data.n_bad,
        "n_unlabelled_rows": data.n_unlabelled,
        "peak_memory_mb": peak_memory_mb(),
        "run_dir": str(run.folder.path),
        "seed": config.train.seed,
        "max_length": config.data.max_length,
        "interrupted": interrupted,
        "ensemble": ensemble.to_dict(),
        "machine": machine_info(),
        "versions": versions(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cache": None
        if cache is None
        else {
            "n_hits": cache.n_hits,
            "n_misses": cache.n_misses,
            "memory_mb": cache.memory_mb_used,
            "file_mb": cache.file_mb_used,
        },
        **_figures(run, best, warnings),
        **_energy(run),
        **_budget(run, elapsed_s),
    }


def _figures(run: RunContext, best: Evaluation | None, warnings: list[str]) -> dict[str, Any]:
    """Return what was measured on the evaluation rows (None for what was not), and what to say of it."""
    found = {} if best is None else best.to_dict()
    worse, majority = compare_with_majority(best)
    return {
        "n_eval": found.get("n_eval", 0),
        **{name: found.get(name) for name in ("accuracy", "macro_f1", "micro_f1", "mcc")},
        "accuracy_interval": None if best is None else best.interval,
        "eval_loss": None if best is None else best.loss,
        **{name: found.get(name, []) for name in ("per_class", "thresholds", "confusion")},
        "worse_than_majority": worse,
        "warnings": [*majority, *run.data.warnings, *warnings],
    }


def compare_with_majority(best: Evaluation | None) -> tuple[bool, list[str]]:
    """Compare with always predicting the class of the model that most evaluation rows have.

    Returns:
        Whether the model is significantly worse (95 %), and warnings, also about classes never predicted.
    """
    if best is None or not best.n:
        return False, []
    never = _never_predicted(best)
    most = max(best.known, key=lambda one: one.support)
    if (f1 := micro_f1(best)) is not None:
        guess = 2 * most.support / (best.n + sum(one.support for one in best.per_class))
        text = f'The model is worse than always predicting "{brief(most.label)}" alone: its micro-F1 is '
        return f1 < guess, [f"{text}{f1:.3f}, and {guess:.3f} for that.", *never] if f1 < guess else never
    share = most.support / best.n
    if best.interval[1] < share:
        return True, [
            f'The model is worse than always predicting "{brief(most.label)}", which is right for '
            f"{share:.1%} of the evaluation rows. Check that the labels belong to the texts, "
            "or train longer.",
            *never,
        ]
    counts = np.array(best.confusion).sum(axis=0)
    if len(counts) > 1 and int(counts.max()) == best.n:
        name = brief(best.label_names[int(counts.argmax())])
        same = f'Every evaluation row is predicted "{name}"; the classes are not told apart.'
        return False, [same, *never]
    return False, never


def _never_predicted(best: Evaluation) -> list[str]:
    """Say which classes the model did not find once."""
    never = best.never_predicted
    if not never:
        return []
    shown = ", ".join(f'"{brief(one.label)}" ({one.support:,})' for one in never[:MOST_NAMED])
    more = f" and {len(never) - MOST_NAMED} more" if len(never) > MOST_NAMED else ""
    advice = "use --metric macro-f1 or --class-weight balanced, or add rows of them"
    if micro_f1(best) is not None:  # each class has its threshold already
        advice = "add rows of them"
    return [
        f"Never predicted, by number of evaluation rows: {shown}{more}. If these classes matter, {advice}."
    ]


def _short_of_plan(config: RunConfig, deadline: Deadline, loop: Loop, n_probe_rows: int) -> list[str]:
    """Say that a run under a deadline processed less than half of the planned rows, or trained nothing.

    `n_probe_rows` is the number of rows that the linear probe was fitted on.
    """
    if loop.stopped or not deadline.trains or config.budget.patience is not None:
        return []
    n_rows, n_seen = deadline.plan.n_rows, loop.counts.n_seen
    if n_rows and not loop.counts.n_trained:
        return [
            "No rows were trained before the deadline; the encoder is a linear probe on untouched features."
        ]
    if n_seen >= LEAST_OF_PLAN * n_rows:
        return []
    short = f"Only {n_seen:,} of about {n_rows:,} planned rows were processed"
    if n_probe_rows >= GROWN_PROBE * max(1, deadline.plan.n_probe_rows):
        return [
            f"{short}: the linear probe still gained from more rows, so it was given most of their time "
            f"({n_probe_rows:,} rows). Allow more time for more training."
        ]
    return [
        f"{short}: the machine was busy, or slower than its profile. Run the command again when the machine "
        "is idle, or allow more time."
    ]


def _energy(run: RunContext) -> dict[str, Any]:
    """Return the joules, how they were obtained, and the value of the paper's equation."""
    energy = read_energy(run.sensor, run.meter.elapsed_s() - run.sensor_since_s)
    memory_w = MEMORY_W_PER_MB * (memory_mb() or 0.0)
    by_paper_kwh = paper_energy_kwh(energy.elapsed_s, energy.mean_w or 0.0, memory_w)
    return {
        "energy_j": energy.joules,
        "energy_measured": energy.measured,
        "energy_source": energy.how,
        "energy_eq6_kwh": by_paper_kwh,
        "co2e_lb": paper_co2e_lb(by_paper_kwh),
    }


def _budget(run: RunContext, elapsed_s: float) -> dict[str, Any]:
    """Return the plan beside the actual figures."""
    plans, limit_s, planned = run.plans, run.deadline.clock.limit_s(), None
    is_limited = limit_s < math.inf
    if plans is not None:
        planned = plans.best.to_dict() | {
            "lines": run.deadline.lines(),
            "revised": run.deadline.revised,
            "profile": plans.device.name,
            "profile_note": plans.device.note,
            "reasons": list(plans.reasons),
        }
    return {
        "deadline_s": limit_s if is_limited else None,
        "deadline_used_rate": elapsed_s / limit_s if is_limited else None,
        "planned": planned,
    }


def _unfiltered_row_s(run: RunContext, loop: Loop) -> float | None:
    """Return the mean seconds that a row seen would have taken without a filter; None if unknown."""
    rows, lengths = run.data.train.rows, run.data.train.lengths
    n_seen = np.bincount(bucket_of(lengths), loop.row_stats.n_seen[rows], len(loop.prices.n))
    return loop.prices.mean_s_of(n_seen)


def _derive_costs(counts: Counters, split_s: dict[str, float], row_s: float | None) -> dict[str, Any]:
    """Derive skip shares and normalised times from counts and seconds by phase.

    `row_s` are the seconds that a row would have taken without a filter, if that is known.
    """
    seen = max(1, counts.n_seen)
    a_b, a_fb = counts.n_skipped_backward / seen, counts.n_skipped_both / seen
    score_s = split_s["score"] / counts.n_scored if counts.n_scored else None
    n_trained = counts.n_trained - counts.n_trained_reference
    train_s = split_s["train"] / n_trained if n_trained and split_s["train"] else None
    modelled = measured = None
    if row_s is not None:
        forward_s = score_s if score_s is not None else 0.0
        modelled = t_norm_modelled(a_b, a_fb, forward_s, max(row_s - forward_s, 0.0)) if a_b + a_fb else 1.0
        spent = split_s["prepare"] + split_s["score"] + split_s["train"] + split_s["select"]
        measured = spent / (seen * row_s)
    return {
        "n_seen": counts.n_seen,
        "n_scored": counts.n_scored,
        "n_trained": counts.n_trained,
        "n_steps": counts.n_steps,
        "skipped_backward_rate": a_b,
        "skipped_both_rate": a_fb,
        "t_norm_modelled": modelled,
        "t_norm_measured": measured,
        "score_ms_per_example": None if score_s is None else 1e3 * score_s,
        "train_ms_per_example": None if train_s is None else 1e3 * train_s,
        "first_step_s": counts.first_step_s,
    }


def write_summary(
    run: RunContext, loop: Loop, saver: ModelSaver, recovery: Recovery, ensemble: EnsembleStage
) -> RunResult:
    """Write the summary and the model card, and draw the picture of the training if there is time for it."""
    folder, view, deadline = run.folder, run.view, run.deadline
    parts = run, loop, saver, recovery, ensemble
    with run.meter.phase("save"):
        if deadline.trains and deadline.clock.picture_fits():
            _draw(summarize_training(*parts), folder, view)
        elif deadline.trains:
            view.warn("There was no time left to draw run.png.")
    deadline.mark("report")
    result = summarize_training(*parts)
    warnings = _short_of_plan(run.config, deadline, loop, ensemble.n_probe_rows)
    of_encoder = result.model_copy(update=_figures(run, saver.best, warnings))  # alone, without n-grams
    _write_card(of_encoder, folder)
    folder.write_json("summary.json", result.to_dict())
    failpoint("summary-written")
    warn_of_excess(result, run.config.budget.memory_mb, view)
    return result


def warn_of_excess(result: RunResult, limit_mb: float | None, view: View) -> None:
    """Say that a run took more time or memory than it was given."""
    if result.deadline_s is not None and result.elapsed_s > result.deadline_s:
        late_s = result.elapsed_s - result.deadline_s
        view.warn(f"The deadline was exceeded by {late_s:.1f} s: the machine was slower than planned.")
    used_mb = result.peak_memory_mb or 0.0
    if limit_mb is not None and used_mb > limit_mb:
        view.warn(f"The run used {used_mb:,.0f} MB of memory; the planned limit was {limit_mb:,.0f} MB.")


def _write_card(draft: RunResult, folder: RunFolder) -> None:
    """Write the model card beside each model that the run left."""
    from edgetune.report.model_card import model_card

    card = model_card(draft.to_dict())
    for home in (folder.path, folder.path / INTERRUPTED):
        if (home / "model").is_dir():
            write_atomic(home / "model" / "README.md", card)


def _draw(draft: RunResult, folder: RunFolder, view: View) -> None:
    """Draw the picture of the run; if that fails, the summary is still written."""
    from edgetune.report.run_plot import draw_run

    try:
        draw_run(read_history(folder.path / "history.jsonl"), draft.to_dict(), folder.path / "run.png")
    except Exception as error:  # a full disk, a font that cannot be read, …: matplotlib raises many kinds
        view.warn(f"run.png was not drawn: {brief(str(error) or type(error).__name__, 200).rstrip('.')}.")
