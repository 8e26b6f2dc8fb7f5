"""Translates a run's settings, data and budget for the planner, and its answer back into settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgetune.backends.openers import accepting, traits_of
from edgetune.config.settings import RunConfig, freeze_of, frozen_depth
from edgetune.planning.plan import (
    LINEAR_PROBE,
    NGRAMS_ALONE,
    Constraints,
    DataLengths,
    DeviceCosts,
    Limits,
    Plan,
    Plans,
)
from edgetune.planning.planner import make_plans, most_passes
from edgetune.utils.errors import UsageError
from edgetune.utils.formatting import counted, duration

AMPLE_S = 86_400.0
"""A deadline within which a few rows are certainly trained on."""
Exported = Callable[[str, int], bool]
"""(backend key, depth) → whether nothing has to be exported before training."""


@dataclass(frozen=True)
class Decision:
    """Settings with every open choice filled in, and the planner's answer, if it was asked."""

    config: RunConfig
    plans: Plans | None

    @property
    def plan(self) -> Plan | None:
        """The plan that is followed."""
        return None if self.plans is None else self.plans.best

    @property
    def is_ngrams_alone(self) -> bool:
        """Whether there is no time for an encoder."""
        return self.plan is not None and self.plan.method == NGRAMS_ALONE


def constraints_of(config: RunConfig, exported: Exported, usual_passes: int | None = None) -> Constraints:
    """Return what the user fixed; the planner decides the rest. Arguments are as of `decide`."""
    model, train, data, budget = config.model, config.train, config.data, config.budget
    backend = None if model.backend == "auto" else model.backend
    if backend is None and (model.precision == "bf16" or not model.onnx):
        backend = next(accepting(config))
    precisions = () if backend is None else traits_of(backend).precisions
    precision = None if model.precision == "auto" else model.precision
    depth = None if model.freeze == "auto" else frozen_depth(model.freeze)
    timed, few_rows = budget.limits_time, usual_passes is not None
    fixed_length = not timed or "max_length" in data.model_fields_set
    fixed_batch = budget.memory_mb is None or "batch_size" in train.model_fields_set
    return Constraints(
        backend=backend,
        precision=precisions[0] if len(precisions) == 1 else precision,
        depth=0 if depth is None and not timed and not few_rows else depth,
        max_length=data.max_length if fixed_length else None,
        batch_size=train.batch_size if fixed_batch else None,
        passes=train.epochs if "epochs" in train.model_fields_set or not (timed or few_rows) else None,
        usual_passes=usual_passes,
        max_steps=train.max_steps,
        cache_mb=model.cache_mb,
        method=config.selection.method,
        trains="encoder" in train.learners,
        probes="probe" in train.learners,
        exported=exported,
    )


def decide(
    config: RunConfig,
    device: DeviceCosts,
    data: DataLengths,
    exported: Exported,
    already_s: float = 0.0,
    already_j: float = 0.0,
    energy_j: float | None = None,
    usual_passes: int | None = None,
) -> Decision:
    """Plan a run, of which `already_s` and `already_j` are over, and fill in its open choices.

    `usual_passes` over few rows without a deadline are planned for as with `AMPLE_S`; None if there is a
    deadline, or if rows are not few.

    Raises:
        BudgetError: nothing fits.
        UsageError: more layers are to be frozen than there are.
    """
    constraints = constraints_of(config, exported, usual_passes)
    if constraints.depth is not None and constraints.depth > device.n_layers:
        raise UsageError(
            f"--freeze {constraints.depth}: this model has {counted(device.n_layers, 'layer')}; "
            f"give a number from 0 to {device.n_layers}."
        )
    budget = config.budget
    deadline_s = budget.deadline_s if usual_passes is None else AMPLE_S
    limits = Limits(deadline_s, energy_j, budget.memory_mb, already_s, already_j)
    plans = make_plans(device, data, limits, constraints)
    alone = plans.best.method == NGRAMS_ALONE
    return Decision(config if alone else _apply_plan(plans.best, config, constraints), plans)


def _apply_plan(plan: Plan, config: RunConfig, constraints: Constraints) -> RunConfig:
    model, train = config.model, {"batch_size": plan.batch_size}
    if config.budget.limits_time:
        train["epochs"] = most_passes(constraints)
    given = model.cache_mb is not None and config.budget.memory_mb is None
    chosen = {
        "backend": plan.backend,
        "precision": plan.precision,
        "freeze": model.freeze if model.freeze != "auto" else freeze_of(plan.depth),
        "threads": model.threads or plan.threads,
        "cache_mb": model.cache_mb if given else plan.cache_mb,
    }
    return config.model_copy(
        update={
            "model": model.model_copy(update=chosen),
            "train": config.train.model_copy(update=train),
            "data": config.data.model_copy(update={"max_length": plan.max_length}),
        }
    )


def plan_summary(plan: Plan) -> str:
    """Describe a plan in one line."""
    if plan.method == NGRAMS_ALONE:
        return f"Plan: fit n-grams alone, finished after about {duration(plan.total_s)}"
    if plan.method == LINEAR_PROBE:
        what = f"fit a linear probe on {plan.n_probe_rows:,} rows with {plan.key}"
    else:
        passes = f"{plan.passes:.2g} pass{'es'[: 2 * (plan.passes > 1)]}"
        frozen = counted(plan.depth, "layer") if plan.depth else "embeddings"
        steps = f"train {plan.n_rows:,} examples in {counted(plan.n_steps, 'step')} ({passes})"
        what = f"{steps} with {plan.key}, {frozen} frozen"
    return f"Plan: {what}, at most {plan.max_length} tokens, finished after about {duration(plan.total_s)}"
