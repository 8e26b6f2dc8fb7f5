"""One run: settings → data, model, backend, selector → the loop → a run folder and its summary."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

from edgetune.config.budget import read_budget
from edgetune.config.settings import RunConfig
from edgetune.config.toml_config import dump_config, group_by_section, load_config, make_config
from edgetune.data.in_memory import Data
from edgetune.energy import Sensor, SensorSum, open_sensor
from edgetune.energy.battery import energy_limit_j
from edgetune.learners.progress import automatic_lr
from edgetune.planning.clock import Clock
from edgetune.planning.decision import plan_summary
from edgetune.planning.device_costs import (
    FEWEST_MEASURED_STEPS,
    ObservedRun,
    busy_watts,
    record_observed_run,
)
from edgetune.report.experiment_log import ExperimentLogs
from edgetune.report.live_view import View, in_notebook, make_view
from edgetune.run_files.history import HistoryWriter
from edgetune.run_files.outputs import refuse_own_source
from edgetune.run_files.run_folder import OWN, RunFolder, disk_errors
from edgetune.run_files.summary import RunResult
from edgetune.runs.context import RunContext
from edgetune.runs.deadline import Deadline, NoDeadline, PlanWithoutDeadline
from edgetune.runs.dry_run import settings_of_call
from edgetune.runs.ensembling import EnsembleStage
from edgetune.runs.ngrams_only import run_ngrams, why
from edgetune.runs.resume import Interruption, read_interruption
from edgetune.runs.setup import Prepared, PreparedRows, Usage, only_probes, prepare
from edgetune.runs.timed_training import TimedTraining
from edgetune.runs.training import Training
from edgetune.selection import SELECTORS
from edgetune.utils.errors import Interrupted
from edgetune.utils.formatting import counted, duration
from edgetune.utils.machine import cache_folder
from edgetune.utils.meter import Meter
from edgetune.utils.signals import StopRequest

WARNINGS_SHOWN = 3
"""Sentences on the data, the most important ones, that are shown before training; the summary has all."""
MUCH_LOST_S = 1.0
"""The energy of more lost time than this is an estimate."""


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
    settings = settings_of_call(train, settings, cache)
    config = make_config(group_by_section(read_budget(settings, datetime.now(), meter.elapsed_s())))
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
        context = _set_up(config, folder, cache_dir, meter, view, stop, stack)
        _tell(context.prepared, view)
        folder.create(stack)
        _write_first(folder, context.prepared, config, view)
        return _followed(context, cache_dir)


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
        context = _set_up(config, folder, cache_dir, meter, view, stop, stack, interruption)
        return _followed(context, cache_dir, interruption)


def _set_up(
    config: RunConfig,
    folder: RunFolder,
    cache_dir: Path,
    meter: Meter,
    view: View,
    stop: StopRequest,
    stack: contextlib.ExitStack,
    interruption: Interruption | None = None,
) -> RunContext[PreparedRows]:
    """Open the energy sensor, read the data, open an encoder if there is time, and set the deadline."""
    logs = stack.enter_context(contextlib.closing(ExperimentLogs(config.train.log_to, view.warn)))
    sensor, sensor_since_s = _open_sensor(config, stack), meter.elapsed_s()
    if interruption is not None:
        exact = interruption.state["measured"] and interruption.lost_s < MUCH_LOST_S
        sensor = SensorSum([sensor], interruption.energy_j, exact)
        sensor_since_s = interruption.state["since_s"]
    used = Usage(meter.elapsed_s, sensor.joules, energy_limit_j(config.budget))
    prepared = prepare(config, cache_dir, meter, view.say, used, interruption)
    if isinstance(prepared, Prepared):
        prepared = replace(prepared, config=with_learning_rate(prepared))
    deadline = _deadline(prepared, used)
    return RunContext(prepared, folder, meter, view, stop, sensor, sensor_since_s, deadline, logs)


def _followed(
    run: RunContext[PreparedRows], cache_dir: Path, interruption: Interruption | None = None
) -> RunResult:
    """Follow the plan of a run whose folder exists."""
    run.logs.start(run.folder.path, run.prepared.config)
    if not _has_encoder(run):  # it writes no checkpoint, so it is never resumed
        return _stoppable(partial(_fit_ngrams_first, run, cache_dir), run)
    return _stoppable(partial(_train, run, cache_dir, interruption), run)


def _fit_ngrams_first(run: RunContext[PreparedRows], cache_dir: Path) -> RunResult:
    """Fit n-grams; if they took less time than planned, an encoder follows after all."""
    prepared, deadline, stage = run.prepared, run.deadline, EnsembleStage(run)
    stage.begin()
    if stage.ngrams is not None and not run.stop():
        later = prepared.open_later(stage.ngrams, tuple(deadline.marks))
        if later is not None:
            later = replace(later, config=with_learning_rate(later))
            used = Usage(run.meter.elapsed_s, run.sensor.joules, deadline.clock.energy_j)
            with_encoder = replace(run, prepared=later, deadline=_deadline(later, used))
            assert _has_encoder(with_encoder)
            run.folder.write_text("config.toml", dump_config(_repeatable(later.config, prepared.config)))
            run.view.say(
                f"The n-grams took only {duration(stage.ngrams.took_s)}: there is time for the encoder"
            )
            run.view.say(plan_summary(with_encoder.deadline.plan))
            stage.move_to(with_encoder)
            return _train(with_encoder, cache_dir, ensemble=stage)
    return run_ngrams(run, stage)


def _has_encoder(run: RunContext[PreparedRows]) -> TypeGuard[RunContext[Prepared]]:
    return isinstance(run.prepared, Prepared)


def _open_sensor(config: RunConfig, stack: contextlib.ExitStack) -> Sensor:
    budget = config.budget
    sensor = open_sensor(
        budget.watts,
        device=config.model.device,
        busy_w=busy_watts(),
        prefer_battery=budget.battery_rate is not None,
    )
    return stack.enter_context(contextlib.closing(sensor))


def _stoppable(work: Callable[[], RunResult], run: RunContext[PreparedRows]) -> RunResult:
    """Do the work of a run once its folder exists; a second signal ends it at once, with a message."""
    try:
        with run.meter.phase("other"), run.stop.deferring_first_signal():
            result = work()
            run.logs.finish(result)
            run.view.finished(result)
            return result
    except KeyboardInterrupt:
        out = run.folder.path
        raise Interrupted(
            f"Stopped immediately; {out} contains only what was saved before. If there is a "
            f"checkpoint, resume with `edgetune finetune --resume {out}`."
        ) from None


def _train(
    run: RunContext[Prepared],
    cache_dir: Path,
    interruption: Interruption | None = None,
    ensemble: EnsembleStage | None = None,
) -> RunResult:
    """Train an encoder and the other learners, from the start or from an interruption."""
    try:
        with HistoryWriter(run.folder.path / "history.jsonl", run.logs.record) as history:
            kind = Training if isinstance(run.deadline, NoDeadline) else TimedTraining
            return kind(run, history, interruption, ensemble).run()
    finally:
        _remember_speed(run, cache_dir)


def _repeatable(resolved: RunConfig, asked: RunConfig) -> RunConfig:
    """Return the settings for `config.toml`, with the backend that was asked for.

    The planner may have chosen one that cannot train, for a plan without training.
    """
    if not only_probes(resolved):
        return resolved
    return resolved.model_copy(
        update={"model": resolved.model.model_copy(update={"backend": asked.model.backend})}
    )


def with_learning_rate(prepared: Prepared) -> RunConfig:
    """Fill in the learning rate, which follows from the data and the plan."""
    config, plan = prepared.config, prepared.plan
    train = config.train
    if train.lr is not None:
        return config
    if plan is not None and config.budget.limits_time:
        n_steps = max(1, plan.n_steps)
    else:
        n_rows = len(prepared.data.train) * SELECTORS[config.selection.method].share_trained(config.selection)
        n_steps = max(1, train.epochs * math.ceil(n_rows / train.batch_size))
        n_steps = min(n_steps, train.max_steps or n_steps)
    lr = automatic_lr(prepared.hidden_size, n_steps)
    return config.model_copy(update={"train": train.model_copy(update={"lr": lr})})


def _tell(prepared: PreparedRows, view: View) -> None:
    """Show warnings about the data, a note if measurements are too uncertain to plan with, and the plan."""
    warnings, plans = prepared.data.warnings, prepared.plans
    for warning in warnings[:WARNINGS_SHOWN]:
        view.warn(warning)
    if (n_more := len(warnings) - WARNINGS_SHOWN) > 0:
        view.warn(f"{n_more} more about the data: see the summary, or `edgetune check`.")
    if not isinstance(prepared, Prepared):
        view.warn(why(prepared))
    if plans is not None:
        if plans.device is not None and plans.device.note:
            view.warn(plans.device.note)
        view.say(plan_summary(plans.best))


def _write_first(folder: RunFolder, prepared: PreparedRows, asked: RunConfig, view: View) -> None:
    """Write what is known before training: the settings, and the rows that were left out."""
    folder.write_text("config.toml", dump_config(_repeatable(prepared.config, asked)))
    data = prepared.data
    if not data.bad_rows_files:
        return
    folder.append_bad_rows(data.bad_rows_files)
    for count, kind in (
        (data.n_bad, ("unusable row was", "unusable rows were")),
        (data.n_unlabelled, ("row without a label was", "rows without a label were")),
    ):
        if count:
            view.warn(f"{counted(count, *kind)} left out; see {folder.path / 'bad_rows.jsonl'}.")


def _remember_speed(run: RunContext[Prepared], cache_dir: Path) -> None:
    """Record how long the train steps took relative to the profile, for the next plan.

    Nothing is recorded if the profile prices other steps: if output of frozen layers was found in the cache,
    embeddings were trained, or the user chose the threads.
    """
    prepared, deadline = run.prepared, run.deadline
    plans, cache = prepared.plans, prepared.backend.cache
    if plans is None or plans.device is None or (cache is not None and cache.n_hits):
        return
    if prepared.config.model.freeze == "none" or prepared.config.model.threads != deadline.plan.threads:
        return
    speed = deadline.clock.speed("train")
    if speed.n >= FEWEST_MEASURED_STEPS:
        took = speed.overall * plans.costs(deadline.plan).scale
        record_observed_run(
            cache_dir,
            plans.device.speeds_key,
            deadline.plan.key,
            ObservedRun(time.time(), took, speed.measured_s),
        )


def _deadline(prepared: PreparedRows, used: Usage) -> Deadline:
    """Return what ends the parts of a run: its plan's lines, or `NoDeadline` if it follows no timed plan."""
    plan, plans, budget = prepared.plan, prepared.plans, prepared.config.budget
    n_train = len(prepared.data.train)
    if plan is None or plans is None or not (budget.limits_time or plan.reads_all(n_train)):
        return NoDeadline()
    scale = min(1.0, plan.scale)
    clock = Clock(budget.limit_s, plan.lines, used.elapsed_s, used.most_j, used.joules, scale=scale)
    if not isinstance(prepared, Prepared):
        return Deadline(plan, clock, lambda operation, n_rows, width: 0.0, 0.0, marks=list(prepared.marks))
    train = prepared.config.train
    n_most = train.epochs * n_train
    if train.max_steps is not None:
        n_most = min(n_most, train.max_steps * train.batch_size)
    kind = Deadline if budget.limits_time else PlanWithoutDeadline
    return kind(
        plan,
        clock,
        plans.step_cost(plan, n_train),
        plans.costs(plan).fixed.save_model_s,
        n_most,
        plans.own_score_rate(plan),
        plans.costs(plan).fixed.open_at(plan.depth),
        list(prepared.marks),
    )
