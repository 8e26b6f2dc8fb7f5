"""The receipt: everything a run hands back, derived from its counts, its meter and its best evaluation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from edgetune.config import RunConfig
from edgetune.loop import Counts, Loop
from edgetune.machine import machine_info, peak_memory_mb, versions
from edgetune.metrics import Evaluation, t_norm_modelled
from edgetune.prepare import Prepared
from edgetune.result import RunResult
from edgetune.selection.base import Selector


def make_receipt(
    config: RunConfig,
    prepared: Prepared,
    run_dir: Path,
    loop: Loop,
    selector: Selector,
    split_s: dict[str, float],
    best: Evaluation | None,
    best_epoch: int | None,
) -> RunResult:
    """Put a run's receipt together.

    Args:
        config: resolved settings.
        prepared: data and model.
        run_dir: where the run lies.
        loop: counts, and whether it was stopped.
        selector: stages and report.
        split_s: seconds by phase.
        best: evaluation of the model that was kept, None when there was none.
        best_epoch: which epoch that was.
    """
    data, train, report = prepared.data, config.train, selector.report()
    assert train.lr is not None
    return RunResult(
        method=config.selection.method,
        preset=config.selection.preset,
        backend=prepared.backend.name,
        model=prepared.model_name,
        dataset=config.data.train,
        label_names=list(data.label_names),
        n_eval=best.n if best else len(data.evaluation),
        eval_source=data.eval_source,
        elapsed_s=sum(split_s.values()),
        time_split_s=split_s,
        n_train=len(data.train),
        n_bad_rows=data.n_bad,
        stages=[dataclasses.asdict(change) for change in selector.stages],
        threshold=report.get("threshold"),
        selection=report,
        peak_memory_mb=peak_memory_mb(),
        run_dir=str(run_dir),
        epochs=train.epochs,
        best_epoch=best_epoch,
        best_epoch_chosen_on_eval=train.epochs > 1,
        batch_size=train.batch_size,
        lr=train.lr,
        seed=train.seed,
        freeze=prepared.freeze,
        max_length=prepared.max_length,
        n_parameters_trained=prepared.backend.n_parameters,
        interrupted=loop.stopped,
        warnings=list(data.warnings),
        machine=machine_info(),
        versions=versions(),
        **_quality(best),
        **costs(loop.counts, split_s),
    )


def _quality(best: Evaluation | None) -> dict[str, Any]:
    """Return what was measured on the evaluation rows, None where nothing was."""
    found = best.to_dict() if best is not None else {}
    return {
        "accuracy": best.accuracy if best else None,
        "accuracy_interval": best.interval if best else None,
        "macro_f1": best.macro_f1 if best else None,
        "mcc": best.mcc if best else None,
        "eval_loss": best.loss if best else None,
        "per_class": found.get("per_class", []),
        "confusion": found.get("confusion", []),
    }


def costs(counts: Counts, split_s: dict[str, float]) -> dict[str, Any]:
    """Derive skip shares and normalised times from counts and measured seconds."""
    seen = max(1, counts.n_seen)
    a_b, a_fb = counts.n_skipped_backward / seen, counts.n_skipped_both / seen
    score_s = split_s["score"] / counts.n_scored if counts.n_scored else None
    train_s = split_s["train"] / counts.n_trained if counts.n_trained else None
    plain_s = counts.train_s_warmup / counts.n_trained_warmup if counts.n_trained_warmup else None
    modelled = measured = None
    if plain_s is not None:
        forward_s = score_s if score_s is not None else 0.0
        modelled = t_norm_modelled(a_b, a_fb, forward_s, max(plain_s - forward_s, 0.0)) if a_b + a_fb else 1.0
        spent = split_s["score"] + split_s["train"] + split_s["select"]
        measured = spent / (seen * plain_s)
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
