"""A run's settings, its data and its budget → what the planner is asked, and settings with its answer in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgetune.errors import UsageError
from edgetune.freezing import freeze_of, frozen_depth
from edgetune.planning.planner import make_plans, most_passes
from edgetune.planning.types import DataShape, Device, Limits, Plan, Plans, Wishes
from edgetune.report.words import duration
from edgetune.settings import RunConfig
from edgetune.types import IntArray

Exported = Callable[[str, int], bool]
"""(backend key, depth) → whether nothing has to be exported before training."""


@dataclass(frozen=True)
class Decision:
    """What was decided, and why.

    Attributes:
        config: settings with every open choice filled in.
        plans: the planner's answer; None when nothing was left to decide or nothing is measured here.
    """

    config: RunConfig
    plans: Plans | None

    @property
    def plan(self) -> Plan | None:
        """The plan that is followed; None without one."""
        return None if self.plans is None else self.plans.best


def wishes_of(config: RunConfig, exported: Exported) -> Wishes:
    """Return what the user fixed; the rest is the planner's to decide."""
    model, train, data, budget = config.model, config.train, config.data, config.budget
    backend = None if model.backend == "auto" else model.backend
    if model.precision == "bf16" or not model.onnx:
        backend = "torch"
    precision = None if model.precision == "auto" else model.precision
    depth = None if model.freeze == "auto" else frozen_depth(model.freeze)
    timed = budget.limits_time
    fixed_length = not timed or "max_length" in data.model_fields_set
    fixed_batch = budget.memory_mb is None or "batch_size" in train.model_fields_set
    return Wishes(
        backend=backend,
        precision="fp32" if backend == "ort" else precision,
        depth=0 if depth is None and not timed else depth,
        max_length=data.max_length if fixed_length else None,
        batch_size=train.batch_size if fixed_batch else None,
        passes=train.epochs if not timed or "epochs" in train.model_fields_set else None,
        max_steps=train.max_steps,
        cache_mb=model.cache_mb,
        method=config.selection.method,
        exported=exported,
    )


def decide(
    config: RunConfig,
    device: Device,
    data: DataShape,
    exported: Exported,
    already_s: float = 0.0,
    already_j: float = 0.0,
    energy_j: float | None = None,
) -> Decision:
    """Plan a run and fill its open choices in.

    Args:
        config: settings, some of them open.
        device: measured costs.
        data: lengths of the rows.
        exported: see `Wishes`.
        already_s: seconds used.
        already_j: joules used.
        energy_j: joules that may be used, from `--energy` or `--battery`.

    Raises:
        BudgetError: nothing fits.
        UsageError: more layers are to be frozen than there are.
    """
    wishes = wishes_of(config, exported)
    if wishes.depth is not None and wishes.depth > device.n_layers:
        raise UsageError(
            f"--freeze {wishes.depth}: this model has {device.n_layers} layers; "
            f"give a number from 0 to {device.n_layers}."
        )
    budget = config.budget
    limits = Limits(budget.deadline_s, energy_j, budget.memory_mb, already_s, already_j)
    plans = make_plans(device, data, limits, wishes)
    return Decision(apply(plans.best, config, data.lengths, wishes), plans)


def apply(plan: Plan, config: RunConfig, lengths: IntArray, wishes: Wishes) -> RunConfig:
    """Fill a plan's choices into the settings."""
    room_mb = plan.cache_mb
    if config.model.cache_mb is not None and config.budget.memory_mb is None:
        room_mb = config.model.cache_mb
    model = config.model.model_copy(
        update={
            "backend": plan.backend,
            "precision": plan.precision,
            "freeze": config.model.freeze if config.model.freeze != "auto" else freeze_of(plan.depth),
            "threads": config.model.threads or plan.threads,
            "cache_mb": room_mb,
        }
    )
    train = config.train.model_copy(update={"batch_size": plan.batch_size})
    if config.budget.limits_time:
        passes = most_passes(len(lengths), plan.batch_size, wishes)
        train = train.model_copy(update={"epochs": passes})
    data = config.data.model_copy(update={"max_length": plan.max_length})
    return config.model_copy(update={"model": model, "train": train, "data": data})


def summary(plan: Plan) -> str:
    """Say in a line what is planned."""
    if plan.method == "head":
        what = f"fit the head alone on {plan.n_floor:,} rows"
    else:
        what = (
            f"train {plan.n_rows:,} examples in {plan.n_steps:,} steps "
            f"({plan.passes:.2g} pass{'es'[: 2 * (plan.passes > 1)]})"
        )
    frozen = f"{plan.depth} layers frozen" if plan.depth else "embeddings frozen"
    return (
        f"Plan: {what} by {plan.key}, {frozen}, at most {plan.max_length} tokens, done after about "
        f"{duration(plan.total_s)}"
    )
