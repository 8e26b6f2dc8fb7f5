"""A run whose deadline leaves no time for an encoder: the n-gram classifier is used alone.

rows ─→ n-grams on the training rows ─→ temperature on the held-out rows ─→ n-grams fitted on both
     ─→ ensemble/ ─→ evaluation ─→ summary.json
"""

from __future__ import annotations

from edgetune.planning.plan import NGRAMS_ALONE
from edgetune.run_files.counters import Counters
from edgetune.run_files.history import HistoryWriter
from edgetune.run_files.summary import RunResult
from edgetune.runs.context import RunContext
from edgetune.runs.ensembling import EnsembleStage
from edgetune.runs.finalize import derive_costs, fields_of_any_run, warn_of_excess
from edgetune.runs.setup import PreparedRows
from edgetune.utils.errors import Interrupted

WHY = "There is no time for the encoder; the n-gram classifier is used alone"


def run_ngrams(run: RunContext[PreparedRows], stage: EnsembleStage) -> RunResult:
    """Fit the n-grams on all rows, save and evaluate them, and write the summary.

    Args:
        run: with a plan that has no encoder in it.
        stage: with n-grams fitted on the training rows.

    Raises:
        Interrupted: SIGINT or SIGTERM came; the n-grams fitted so far are in the run folder.
    """
    folder, stop, deadline = run.folder, run.stop, run.deadline
    with HistoryWriter(folder.path / "history.jsonl", run.logs.record) as history:
        if not stop():
            stage.finish_alone()
            deadline.mark("ensemble")
        stopped = stop()  # what comes later finds a run that is complete
        if not stopped:
            stage.evaluate_ngrams()
            deadline.mark("evaluate")
        if (found := stage.evaluation) is not None:
            history.append_evaluation(run.meter.elapsed_s(), 0, found)
    deadline.mark("report")
    result = _summary(run, stage, stopped)
    folder.write_json("summary.json", result.to_dict())
    warn_of_excess(result, None, run.view)
    if stopped:
        raise Interrupted(
            f"Stopped; the n-grams fitted so far are in {folder.path}. To start again, run: "
            f"edgetune finetune --config {folder.path / 'config.toml'} --out {folder.path} --overwrite"
        )
    return result


def _summary(run: RunContext[PreparedRows], stage: EnsembleStage, stopped: bool) -> RunResult:
    """Put the summary together; what belongs to an encoder is empty or 0."""
    split_s = run.meter.split_s()
    return RunResult(
        method=NGRAMS_ALONE,
        preset="",
        backend="",
        model="n-grams alone",
        stages=[],
        threshold=None,
        selection={},
        epochs=0,
        best_epoch=None,
        best_epoch_chosen_on_eval=False,
        batch_size=0,
        lr=0.0,
        precision="fp32",
        freeze="",
        frozen_depth=0,
        n_parameters_trained=0,
        interrupted=stopped,
        n_left=0,
        **derive_costs(Counters(), split_s, None),
        **fields_of_any_run(run, split_s, stage.evaluation, stage.to_dict(), None, [why(run.prepared)]),
    )


def why(prepared: PreparedRows) -> str:
    """Say why there is no encoder, and what deadline it would need."""
    if not {"probe", "encoder"} & {*prepared.config.train.learners}:
        if others := prepared.config.train.text_learners:
            return f"No encoder takes part beside n-grams and {' and '.join(others)}, as --learners asks."
        return "The n-gram classifier is used alone, as --learners asks."
    reasons = () if prepared.plans is None else prepared.plans.reasons
    return f"{WHY}. {reasons[0]}" if reasons else f"{WHY}."
