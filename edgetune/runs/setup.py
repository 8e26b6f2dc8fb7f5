"""What every part of one run works with, and how it follows from the settings.

On the `ort` backend, a child process imports torch and exports while this one reads and tokenizes; with
artifacts that are cached or given by the user, there is no child process, and torch is not imported.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgetune.backends.backend_contract import Backend
from edgetune.backends.hidden_cache import HiddenCache
from edgetune.backends.model_loader import ModelLoader, find_model_loader
from edgetune.config.settings import RunConfig, frozen_depth
from edgetune.data.splits import Splits
from edgetune.energy import Sensor, SensorSum, open_sensor
from edgetune.energy.battery import energy_limit_j
from edgetune.learners.progress import automatic_lr
from edgetune.planning.clock import Clock
from edgetune.planning.decision import Decision
from edgetune.planning.device_costs import busy_watts, find_device
from edgetune.planning.plan import FittedNgrams, Plan, Plans
from edgetune.planning.planner import DEFAULT_CACHE_MB
from edgetune.report.experiment_log import ExperimentLogs
from edgetune.report.live_view import View
from edgetune.run_files.run_folder import RunFolder
from edgetune.runs.deadline import Deadline, NoDeadline, PlanWithoutDeadline
from edgetune.runs.open_choices import OpenChoices, Usage, only_probes, read_rows
from edgetune.selection import FILTERS, SELECTORS
from edgetune.utils.cache import private_folder
from edgetune.utils.errors import UsageError
from edgetune.utils.machine import free_memory_mb
from edgetune.utils.meter import Meter
from edgetune.utils.signals import StopRequest

if TYPE_CHECKING:
    from edgetune.runs.recovery import Interruption

CACHE_MEMORY_RATE = 0.25
"""Share of the free memory that the cache of hidden states may take; the rest of it is kept in a file."""
NO_CLASS_WEIGHT = "--class-weight balanced has no effect: there are too few rows to combine several learners."
MUCH_LOST_S = 1.0
"""If an interruption lost more seconds of work than this, the energy before it counts as estimated."""


@dataclass
class RunContext:
    """One run; `set_up` adds all fields that are not given.

    Attributes:
        config: settings; open choices about the encoder are filled in if there is one.
        folder: folder of the run, locked as soon as it is written to.
        cache_dir: where tokens, artifacts and earlier runs' speeds are kept.
        meter: records the seconds of every phase.
        view: shows what happens.
        stop: says whether the run was asked to end.
        interruption: where the run was interrupted; None if it is not resumed.
        asked_backend: the backend in the settings before the set-up.
        logs: logs of other programs.
        sensor: measures the energy.
        sensor_since_s: elapsed seconds when the sensor began to count.
        used: time and energy so far, and the energy that may be used.
        model_loader: the model that is finetuned.
        data: rows and labels.
        plans: what was planned, and why; None if nothing was.
        deadline: says when each part has to end.
        encoder: ready to train; None if there is no time for one (which `open_later` may change), or if it
            takes no part.
    """

    config: RunConfig
    folder: RunFolder
    cache_dir: Path
    meter: Meter
    view: View
    stop: StopRequest
    interruption: Interruption | None = None
    asked_backend: str = field(init=False)
    logs: ExperimentLogs = field(init=False)
    sensor: Sensor = field(init=False)
    sensor_since_s: float = field(init=False)
    used: Usage = field(init=False)
    model_loader: ModelLoader = field(init=False)
    data: Splits = field(init=False)
    plans: Plans | None = field(init=False)
    deadline: Deadline = field(init=False)
    encoder: Backend | None = field(init=False, default=None)

    @property
    def plan(self) -> Plan | None:
        """The plan that was chosen; None if nothing was planned."""
        return None if self.plans is None else self.plans.best

    @property
    def model_name(self) -> str:
        """Name of the model that is finetuned."""
        return self.model_loader.source.name

    @property
    def backend(self) -> Backend:
        """The encoder of a run that has one."""
        assert self.encoder is not None
        return self.encoder

    def open_backend(self, cache: HiddenCache | None = None) -> Backend:
        """Open the encoder with its initial weights."""
        n_labels, several = len(self.data.label_names), self.data.multi_label
        return self.model_loader.open(
            self.config, n_labels, cache, self.meter, self.view.say, multi_label=several
        )


def set_up(run: RunContext, stack: contextlib.ExitStack) -> None:
    """Open the energy sensor, read the data, open an encoder if there is time, and set the deadline.

    Args:
        run: gets all of these.
        stack: closes the sensor and the logs of other programs.

    Raises:
        EdgetuneError: whatever is wrong, before anything is trained or written into the run folder.
    """
    config, meter, interruption = run.config, run.meter, run.interruption
    run.asked_backend = config.model.backend
    run.logs = stack.enter_context(contextlib.closing(ExperimentLogs(config.train.log_to, run.view.warn)))
    run.sensor = open_sensor(
        config.budget.watts,
        device=config.model.device,
        busy_w=busy_watts(),
        prefer_battery=config.budget.battery_rate is not None,
    )
    stack.enter_context(contextlib.closing(run.sensor))
    run.sensor_since_s = meter.elapsed_s()
    if interruption is not None:
        exact = interruption.state["measured"] and interruption.lost_s < MUCH_LOST_S
        run.sensor = SensorSum([run.sensor], interruption.energy_j, exact)
        run.sensor_since_s = interruption.state["since_s"]
    run.used = Usage(meter.elapsed_s, run.sensor.joules, energy_limit_j(config.budget))
    _refuse_impossible(config)
    with contextlib.ExitStack() as exporting:
        run.model_loader = find_model_loader(config, run.cache_dir, exporting)
        run.config = run.model_loader.fixed(config)
        decision = _decide(run) if interruption is None else _as_before(run, interruption)
        if run.data.multi_label:
            _refuse_for_several(config)
        if config.train.class_weight == "balanced" and run.data.held_out is None:
            run.data = replace(run.data, warnings=(*run.data.warnings, NO_CLASS_WEIGHT))
        _follow(run, decision, [("start", meter.elapsed_s())])


def _decide(run: RunContext) -> Decision:
    """Read the rows, and decide what the user left open."""
    run.data, config = read_rows(
        run.config, run.model_loader, run.cache_dir, run.meter, run.view.say, run.used
    )
    return _choices(run).decide(config)


def _as_before(run: RunContext, interruption: Interruption) -> Decision:
    """Read the rows as they were read when the run began, and follow the plan that it followed."""
    as_read = run.config.changed(data={"max_length": int(interruption.state["of"]["read_length"])})
    run.data, _ = read_rows(as_read, run.model_loader, run.cache_dir, run.meter, run.view.say)
    plan, budget = interruption.plan, run.config.budget
    if plan is None:
        return Decision(run.config, None)
    device = find_device(run.model_loader.source, budget.watts, scales={plan.key: plan.scale})
    return Decision(run.config, Plans((plan,), deadline_s=budget.limit_s, device=device))


def _choices(run: RunContext) -> OpenChoices:
    return OpenChoices(run.model_loader, run.data, run.used, run.cache_dir, run.view.say)


def open_later(run: RunContext, ngrams: FittedNgrams) -> bool:
    """Open an encoder after all if the n-grams took less time than planned; return whether there is time."""
    decision = _choices(run).decide_later(Decision(run.config, run.plans), ngrams)
    if decision is not None:
        _follow(run, decision, run.deadline.marks)
    return decision is not None


def _refuse_impossible(config: RunConfig) -> None:
    """Refuse settings that contradict each other, before any row is read."""
    train = config.train
    if train.class_weight == "balanced" and not train.fits_ngrams:
        raise UsageError(
            "--class-weight balanced corrects the combined answer and cannot be used without n-grams; remove "
            "it, or remove --no-ngrams and add ngrams to --learners."
        )
    if train.text_learners and not train.fits_ngrams:
        raise UsageError(
            f"The learner {train.text_learners[0]} is combined with the n-grams; add ngrams to "
            "--learners, and remove --no-ngrams."
        )
    if "encoder" not in train.learners and not config.budget.limits_time:
        raise UsageError(
            "Without a deadline the encoder is trained; add the encoder to --learners, or give a --deadline."
        )
    if only_probes(config) and not {"probe", "ngrams"} & {*train.learners}:
        raise UsageError(
            f"--backend {config.model.backend} fits a linear probe and trains nothing; add the probe to "
            "--learners, or use another backend."
        )


def _refuse_for_several(config: RunConfig) -> None:
    """Refuse settings that have no meaning if rows may have several labels."""
    if config.train.class_weight == "balanced":
        option = "--class-weight balanced"
    elif config.train.metric == "macro-f1":
        option = "--metric macro-f1"
    else:
        return
    raise UsageError(
        f"{option} is for one label a row; where there may be several, learners are compared by log loss, "
        "and each label has its own threshold, with the best F1. Remove it."
    )


def _follow(run: RunContext, decision: Decision, marks: list[tuple[str, float]]) -> None:
    """Open the encoder of a decision, if there is one in it, and set the deadline.

    `marks` are the parts of the run that have ended, with the elapsed seconds at their end.
    """
    run.config, run.plans = decision.config, decision.plans
    if not decision.is_ngrams_alone:
        before_s, began_s = run.meter.split_s()["export"], run.meter.elapsed_s()
        if run.config.data.max_length < run.data.train.longest:
            run.data = run.data.cut(run.config.data.max_length)
        with run.meter.phase("open"):
            run.encoder = run.open_backend(_hidden_cache(run.config, run.cache_dir))
        export_s = run.meter.split_s()["export"] - before_s
        marks = [*marks, ("export", began_s + export_s), ("open", run.meter.elapsed_s())]
        run.config = _with_learning_rate(run)
    run.deadline = _deadline(run, marks)


def _hidden_cache(config: RunConfig, cache_dir: Path) -> HiddenCache | None:
    """Return a cache for the output of the frozen layers, if rows are used more than once."""
    again = config.train.epochs > 1 or config.selection.method in FILTERS
    room_mb = DEFAULT_CACHE_MB if config.model.cache_mb is None else config.model.cache_mb
    if not frozen_depth(config.model.freeze) or not again or not room_mb:
        return None
    memory_mb = min(room_mb, CACHE_MEMORY_RATE * free_memory_mb())
    private_folder(cache_dir)
    return HiddenCache(memory_mb, room_mb - memory_mb, cache_dir)


def _with_learning_rate(run: RunContext) -> RunConfig:
    """Fill in the learning rate, which follows from the encoder's width and the number of steps."""
    config, train = run.config, run.config.train
    if train.lr is not None:
        return config
    if run.plan is not None and config.budget.limits_time:
        n_steps = max(1, run.plan.n_steps)
    else:
        n_rows = len(run.data.train) * SELECTORS[config.selection.method].share_trained(config.selection)
        n_steps = max(1, train.epochs * math.ceil(n_rows / train.batch_size))
        n_steps = min(n_steps, train.max_steps or n_steps)
    return config.changed(train={"lr": automatic_lr(run.model_loader.source.hidden_size, n_steps)})


def _deadline(run: RunContext, marks: list[tuple[str, float]]) -> Deadline:
    """Return what ends the parts of a run.

    That is `NoDeadline` if nothing was planned, or if the time is not limited and the plan trains without a
    probe of all rows.
    """
    plans, budget, used, n_train = run.plans, run.config.budget, run.used, len(run.data.train)
    if plans is None or not (budget.limits_time or plans.best.reads_all(n_train) or not plans.best.trains):
        return NoDeadline()
    plan, train = plans.best, run.config.train
    scale = min(1.0, plan.scale)
    clock = Clock(budget.limit_s, plan.lines, used.elapsed_s, used.most_j, used.joules, scale=scale)
    if run.encoder is None:
        return Deadline(plan, clock, marks=marks)
    n_most = train.epochs * n_train
    if train.max_steps is not None:
        n_most = min(n_most, train.max_steps * train.batch_size)
    fixed = plans.costs(plan).fixed
    kind = Deadline if budget.limits_time else PlanWithoutDeadline
    return kind(
        plan,
        clock,
        plans.step_cost(plan, n_train),
        fixed.save_model_s,
        n_most,
        plans.own_score_rate(plan),
        fixed.open_at(plan.depth),
        marks,
    )
