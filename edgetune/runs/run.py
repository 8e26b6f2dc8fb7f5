"""One run: settings → data, model, backend, selector → the loop → a run folder and its summary."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

from edgetune.config.settings import RunConfig
from edgetune.config.toml_config import dump_config, load_config, make_config
from edgetune.data.in_memory import Data
from edgetune.planning.decision import plan_summary
from edgetune.planning.device_costs import FEWEST_MEASURED_STEPS, ObservedRun, record_observed_run
from edgetune.report.live_view import View, in_notebook, make_view
from edgetune.run_files.history import HistoryWriter
from edgetune.run_files.outputs import refuse_own_source
from edgetune.run_files.run_folder import OWN, RunFolder, disk_errors
from edgetune.run_files.summary import RunResult
from edgetune.runs.dry_run import config_of, settings_of_call
from edgetune.runs.ensembling import EnsembleStage
from edgetune.runs.finalize import summarize_ngrams, warn_of_excess
from edgetune.runs.open_choices import only_probes
from edgetune.runs.recovery import read_interruption
from edgetune.runs.setup import RunContext, open_later, set_up
from edgetune.runs.training import Training
from edgetune.utils.errors import Interrupted
from edgetune.utils.formatting import counted, duration
from edgetune.utils.machine import cache_folder
from edgetune.utils.meter import Meter
from edgetune.utils.signals import StopRequest

WARNINGS_SHOWN = 3
"""Sentences on the data, the most important ones, that are shown before training; the summary has all."""


def default_run_folder(train: str) -> Path:
    """Name a run after its data: `runs/reviews` for `data/reviews.csv.gz`."""
    name = train.removeprefix("hub:").rstrip("/\\").replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    stem = parts[-1].split(".")[0] if parts else "run"
    if stem in ("train", "data", "training") and len(parts) > 1:
        stem = parts[-2]
    return Path("runs") / (stem or "run").replace(":", "-")


def finetune(
    train: Data,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    cache_dir: str | Path | None = None,
    **settings: Any,
) -> RunResult:
    """Train a classifier on labelled text; the whole command `edgetune finetune` as one call.

    Args:
        train: file, folder or `hub:NAME`, or rows in memory: a list of (text, label) pairs or of dicts, a
            dict of columns, a pandas `DataFrame`, or a `datasets.Dataset`.
        out: run folder; by default `runs/` and the data's name, `runs/data` for rows in memory.
        overwrite: replace an earlier run in that folder.
        cache_dir: where artifacts and tokens are kept, and a copy of rows in memory.
        **settings: any field of the sections in `edgetune.config.settings`, such as `method`, `epochs`,
            `eval` (of the same kinds as `train`), `text`, `label`, `backend`, `freeze`, `lr`, `seed`; and
            `deadline="10m"`, `energy="20kJ"`, `battery="5%"`, `memory="2GB"`, `cache_size="500MB"`,
            `checkpoint_every="5m"` in the words of the command line.

    Raises:
        EdgetuneError: what is wrong and what to do, in a sentence.
        Interrupted: a stop was requested. After one signal, a usable model is in the run folder; after a
            second one, only what was saved before.
    """
    meter = Meter()
    cache = Path(cache_dir) if cache_dir is not None else cache_folder()
    config = config_of(settings_of_call(train, settings, cache), meter.elapsed_s())
    name = str(train) if isinstance(train, str | os.PathLike) else "data"
    stop = StopRequest()
    with stop.handling_signals():
        return run(
            config,
            Path(out) if out is not None else default_run_folder(name),
            overwrite=overwrite,
            cache_dir=cache,
            meter=meter,
            view=make_view(quiet=not in_notebook()),
            stop=stop,
        )


def run(
    config: RunConfig,
    out: Path,
    *,
    overwrite: bool,
    cache_dir: Path,
    meter: Meter,
    view: View,
    stop: StopRequest,
) -> RunResult:
    """Train as configured and leave a run folder.

    Raises:
        EdgetuneError: nothing was written, or what was written is complete.
        Interrupted: a stop was requested; see `finetune`.
    """
    folder = RunFolder(out, overwrite)
    source = (config.data.train, config.data.eval, config.model.model, config.model.artifacts)
    refuse_own_source(out, OWN, source)
    with disk_errors(out), contextlib.ExitStack() as stack:
        context = RunContext(config, folder, cache_dir, meter, view, stop)
        set_up(context, stack)
        _tell(context)
        folder.create(stack)
        _write_config(context)
        _write_bad_rows(context)
        return _learn(context)


def resume(run_dir: str | Path, *, cache_dir: str | Path | None = None) -> RunResult:
    """Resume an interrupted run; `edgetune finetune --resume` as one call.

    Args:
        run_dir: its folder.
        cache_dir: where artifacts and tokens are kept.

    Raises:
        EdgetuneError: there is no checkpoint to resume from, or the rows are not those of the run.
        Interrupted: a stop was requested. After one signal, a usable model is in the run folder; after a
            second one, only what was saved before.
    """
    stop = StopRequest()
    cache = Path(cache_dir) if cache_dir is not None else cache_folder()
    view = make_view(quiet=not in_notebook())
    with stop.handling_signals():
        return resume_run(Path(run_dir), cache_dir=cache, meter=Meter(), view=view, stop=stop)


def resume_run(out: Path, *, cache_dir: Path, meter: Meter, view: View, stop: StopRequest) -> RunResult:
    """Resume an interrupted run from its newest checkpoint.

    Without a deadline, weights and history are those of an uninterrupted run; with one, the time used before
    the interruption counts.

    Raises:
        EdgetuneError: there is no checkpoint to resume from, or the rows are not those of the run.
        Interrupted: a stop was requested; see `finetune`.
    """
    folder = RunFolder.reopened(out)
    with disk_errors(out), contextlib.ExitStack() as stack:
        folder.lock(stack)
        interruption = read_interruption(out)
        config = make_config(load_config(out / "config.toml"))
        meter.resume_from(interruption.state["spent_s"], interruption.lost_s)
        context = RunContext(config, folder, cache_dir, meter, view, stop, interruption)
        set_up(context, stack)
        return _learn(context)


def _learn(run: RunContext) -> RunResult:
    """Train what was planned, once the folder exists; a second signal ends it at once, with a message."""
    out = run.folder.path
    run.logs.start(out, run.config)
    try:
        with run.meter.phase("other"), run.stop.deferring_first_signal():
            ensemble = EnsembleStage(run)
            # A run without an encoder writes no checkpoint, so there are no n-grams to restore here.
            trains = run.encoder is not None or _finds_time_for_encoder(run, ensemble)
            result = _train(run, ensemble) if trains else _use_ngrams(run, ensemble)
            run.logs.finish(result)
            run.view.finished(result)
            return result
    except KeyboardInterrupt:
        raise Interrupted(
            f"Stopped immediately; {out} contains only what was saved before. If there is a "
            f"checkpoint, resume with `edgetune finetune --resume {out}`."
        ) from None


def _finds_time_for_encoder(run: RunContext, ensemble: EnsembleStage) -> bool:
    """Fit the n-grams; if they took less time than planned, open an encoder after all."""
    ensemble.begin()
    if ensemble.ngrams is None or run.stop() or not open_later(run, ensemble.ngrams):
        return False
    _write_config(run)
    took = duration(ensemble.ngrams.took_s)
    run.view.say(f"The n-grams took only {took}: there is time for the encoder")
    run.view.say(plan_summary(run.deadline.plan))
    return True


def _train(run: RunContext, ensemble: EnsembleStage) -> RunResult:
    """Train an encoder and the other learners, from the start or from an interruption."""
    try:
        with HistoryWriter(run.folder.path / "history.jsonl", run.logs.record) as history:
            return Training(run, history, ensemble).run()
    finally:
        _remember_speed(run)


def _use_ngrams(run: RunContext, ensemble: EnsembleStage) -> RunResult:
    """Use the n-grams alone: refit them on all rows if that pays, save, evaluate, and write the summary."""
    out, deadline = run.folder.path, run.deadline
    with HistoryWriter(out / "history.jsonl", run.logs.record) as history:
        if not run.stop():
            ensemble.finish_alone()
            deadline.mark("ensemble")
        stopped = run.stop()  # a later request does not matter: the run counts as complete
        if not stopped:
            ensemble.evaluate_ngrams()
            deadline.mark("evaluate")
        if (found := ensemble.evaluation) is not None:
            history.append_evaluation(run.meter.elapsed_s(), 0, found)
    deadline.mark("report")
    result = summarize_ngrams(run, ensemble, stopped, _why_no_encoder(run))
    run.folder.write_json("summary.json", result.to_dict())
    warn_of_excess(result, None, run.view)
    if stopped:
        raise Interrupted(
            f"Stopped; the n-grams fitted so far are in {out}. To start again, run: "
            f"edgetune finetune --config {out / 'config.toml'} --out {out} --overwrite"
        )
    return result


def _why_no_encoder(run: RunContext) -> str:
    """Say why there is no encoder; if it is for want of time, also what deadline it would need."""
    train = run.config.train
    if not {"probe", "encoder"} & {*train.learners}:
        if train.text_learners:
            others = " and ".join(train.text_learners)
            return f"No encoder takes part beside n-grams and {others}, as --learners asks."
        return "The n-gram classifier is used alone, as --learners asks."
    why = "There is no time for the encoder; the n-gram classifier is used alone."
    return " ".join([why, *(() if run.plans is None else run.plans.reasons[:1])])


def _tell(run: RunContext) -> None:
    """Show warnings about the data, how well the device profile fits this machine, and the plan."""
    warnings, plans, view = run.data.warnings, run.plans, run.view
    for warning in warnings[:WARNINGS_SHOWN]:
        view.warn(warning)
    if (n_more := len(warnings) - WARNINGS_SHOWN) > 0:
        view.warn(f"{n_more} more about the data: see the summary, or `edgetune check`.")
    if run.encoder is None:
        view.warn(_why_no_encoder(run))
    if plans is not None:
        if plans.device.note:
            view.warn(plans.device.note)
        view.say(plan_summary(plans.best))


def _write_config(run: RunContext) -> None:
    """Write the settings, with the backend that was asked for if the planner chose one that cannot train."""
    config = run.config
    if only_probes(config):
        config = config.changed(model={"backend": run.asked_backend})
    run.folder.write_text("config.toml", dump_config(config))


def _write_bad_rows(run: RunContext) -> None:
    """List the rows that were left out."""
    data = run.data
    if not data.bad_rows_files:
        return
    run.folder.append_bad_rows(data.bad_rows_files)
    for count, kind in (
        (data.n_bad, ("unusable row was", "unusable rows were")),
        (data.n_unlabelled, ("row without a label was", "rows without a label were")),
    ):
        if count:
            where = run.folder.path / "bad_rows.jsonl"
            run.view.warn(f"{counted(count, *kind)} left out; see {where}.")


def _remember_speed(run: RunContext) -> None:
    """Record how long the train steps took relative to the profile, for the next plan.

    Nothing is recorded after too few steps, or if the profile prices other steps: if output of frozen layers
    was found in the cache, embeddings were trained, or the user chose the threads.
    """
    plans, plan, cache, model = run.plans, run.deadline.plan, run.backend.cache, run.config.model
    if plans is None or (cache is not None and cache.n_hits):
        return
    speed = run.deadline.clock.speed("train")
    if model.freeze == "none" or model.threads != plan.threads or speed.n < FEWEST_MEASURED_STEPS:
        return
    ran = ObservedRun(time.time(), speed.overall * plans.costs(plan).scale, speed.measured_s)
    record_observed_run(run.cache_dir, plans.device.speeds_key, plan.key, ran)
