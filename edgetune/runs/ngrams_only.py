"""A run whose deadline leaves no time for an encoder: the n-gram classifier is used alone.

rows ─→ n-grams on the training rows ─→ temperature on the held-out rows ─→ n-grams fitted on both
     ─→ ensemble/ ─→ evaluation ─→ summary.json
"""

from __future__ import annotations

from edgetune.energy import Sensor, read_energy
from edgetune.planning.plan import NGRAMS_ALONE
from edgetune.report.live_view import View
from edgetune.run_files.counters import Counters
from edgetune.run_files.history import HistoryWriter
from edgetune.run_files.run_folder import RunFolder
from edgetune.run_files.summary import RunResult
from edgetune.runs.deadline import Deadline
from edgetune.runs.ensembling import EnsembleStage
from edgetune.runs.finalize import derive_costs, fields_of_any_run, warn_of_excess
from edgetune.runs.setup import PreparedRows
from edgetune.utils.errors import Interrupted
from edgetune.utils.meter import Meter
from edgetune.utils.signals import StopRequest

WHY = "There is no time for the encoder; the n-gram classifier is used alone"


def run_ngrams(
    prepared: PreparedRows,
    folder: RunFolder,
    meter: Meter,
    view: View,
    stop: StopRequest,
    sensor: Sensor,
    sensor_since_s: float,
    deadline: Deadline,
) -> RunResult:
    """Fit, save and evaluate n-grams, and write the summary.

    Args:
        prepared: rows, and the plan that has no encoder in it.
        folder: of the run, locked.
        meter: is charged.
        view: is told what happens.
        stop: ends the fit with the rows and passes done so far.
        sensor: of the energy.
        sensor_since_s: when it began to count.
        deadline: plan and clock.

    Raises:
        Interrupted: SIGINT or SIGTERM came; the n-grams fitted so far are in the run folder.
    """
    stage = EnsembleStage(prepared, folder, meter, view, deadline, stop)
    with HistoryWriter(folder.path / "history.jsonl") as history:
        stage.begin()
        if not stop():
            stage.finish_alone()
            deadline.mark("ensemble")
        stopped = stop()  # what comes later finds a run that is complete
        if not stopped:
            stage.evaluate(None)
            deadline.mark("evaluate")
        if (found := stage.evaluation) is not None:
            history.append_evaluation(meter.elapsed_s(), 0, found)
    deadline.mark("report")
    result = _receipt(prepared, folder, meter, sensor, sensor_since_s, deadline, stage, stopped)
    folder.write_json("summary.json", result.to_dict())
    warn_of_excess(result, None, view)
    if stopped:
        raise Interrupted(
            f"Stopped; the n-grams fitted so far are in {folder.path}. To start again, run: "
            f"edgetune finetune --config {folder.path / 'config.toml'} --out {folder.path} --overwrite"
        )
    return result


def _receipt(
    prepared: PreparedRows,
    folder: RunFolder,
    meter: Meter,
    sensor: Sensor,
    sensor_since_s: float,
    deadline: Deadline,
    stage: EnsembleStage,
    stopped: bool,
) -> RunResult:
    """Put the summary together; what belongs to an encoder is empty or 0."""
    split_s = meter.split_s()
    energy = read_energy(sensor, sum(split_s.values()) - sensor_since_s)
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
        **fields_of_any_run(
            prepared,
            folder.path,
            split_s,
            stage.evaluation,
            energy,
            deadline,
            stage.to_dict(),
            None,
            [why(prepared)],
        ),
    )


def why(prepared: PreparedRows) -> str:
    """Say why there is no encoder, and what deadline would do."""
    if prepared.config.train.learners == ("ngrams",):
        return "The n-gram classifier is used alone, as --learners asks."
    reasons = () if prepared.plans is None else prepared.plans.reasons
    return f"{WHY}. {reasons[0]}" if reasons else f"{WHY}."
