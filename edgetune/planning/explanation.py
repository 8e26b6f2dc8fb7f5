"""Why the first plan is first, in words and numbers; and why a filter is planned or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from edgetune.config.settings import FILTERS
from edgetune.planning.plan import LINEAR_PROBE, Constraints, DataLengths, DeviceCosts, Plan, Plans
from edgetune.utils.formatting import counted, duration
from edgetune.utils.types import IntArray


def explain(plans: Plans, data: DataLengths, constraints: Constraints) -> Iterator[str]:
    """Yield one sentence per choice, the deciding one first."""
    best, device = plans.best, plans.device
    assert device is not None
    if device.note:
        yield device.note
    if device.speeds_note:
        yield device.speeds_note
    if best.method == LINEAR_PROBE:
        yield _probe(plans, data)
    else:
        yield from _rows(best)
        yield from _backend(plans)
        yield from _depth(plans, constraints)
        yield from _length(plans, data, constraints)
        yield from _cache(best)
        yield filter_reason(device, best, data.lengths)
    if best.n_eval < len(data.eval_lengths):
        yield (
            f"The model is evaluated on {best.n_eval:,} of {len(data.eval_lengths):,} rows, drawn at random, "
            f"which takes {duration(best.lines['evaluate'])}; run `edgetune evaluate` afterwards to use all "
            "of them."
        )


def _probe(plans: Plans, data: DataLengths) -> str:
    """Say why a linear probe is fitted, and what training would make of the time."""
    best = plans.best
    apart = data.pair and not plans.costs(best).trains
    what = "compares the two texts of a pair, encoded apart, and" if apart else "on the untouched encoder"
    trained = _alternative(plans, lambda plan: True)
    instead = (
        "There is no time to train the encoder."
        if trained is None
        else f"Training would make {counted(trained.n_steps, 'step')}, with an expected loss of "
        f"{-trained.expected_points:.1f} points (see docs/deadlines.md)."
    )
    return (
        f"A linear probe {what} is fitted on {best.n_probe_rows:,} rows or more, with an expected loss of "
        f"{-best.expected_points:.1f} accuracy points. {instead}"
    )


def _rows(best: Plan) -> Iterator[str]:
    low, high = best.rows_interval
    share = (
        f"{best.passes:.1f} passes" if best.passes > 1 else f"{best.passes:.0%} of the rows, drawn at random"
    )
    if low == high == best.n_rows:
        share += "; --epochs or --max-steps allows no more, so time is left over"
    train_s = best.lines["train"]
    yield (
        f"{best.n_rows:,} examples ({low:,} to {high:,}) fit into {duration(train_s)} of training: "
        f"{counted(best.n_steps, 'step')} with batch size {best.batch_size}, {share}."
    )


def _alternative(plans: Plans, same: Callable[[Plan], bool]) -> Plan | None:
    """Return the best plan that satisfies a condition and trains."""
    return next((plan for plan in plans.ranked if plan.trains and same(plan)), None)


def _rate(plan: Plan) -> float:
    return plan.n_rows / plan.lines["train"] if plan.lines["train"] else 0.0


def _backend(plans: Plans) -> Iterator[str]:
    best = plans.best
    for key in dict.fromkeys(plan.key for plan in plans.ranked if plan.key != best.key):
        other = _alternative(plans, lambda plan, key=key: plan.key == key and plan.depth == best.depth)  # type: ignore[misc]
        if other is None:
            continue
        start_s = [sum(plan.lines[name] for name in ("export", "open", "save")) for plan in (best, other)]
        yield (
            f"{best.key} was chosen over {key}: {_rate(best):.1f} examples per second versus "
            f"{_rate(other):.1f}, and {duration(start_s[0])} to export, open and save versus "
            f"{duration(start_s[1])}."
        )


def _depth(plans: Plans, constraints: Constraints) -> Iterator[str]:
    best = plans.best
    if constraints.depth is not None:
        return
    others = {plan.depth for plan in plans.ranked if plan.key == best.key and plan.depth != best.depth}
    near = sorted(others, key=lambda depth: abs(depth - best.depth))[:2]
    for depth in near:
        other = _alternative(plans, lambda plan, depth=depth: plan.key == best.key and plan.depth == depth)  # type: ignore[misc]
        if other is not None:
            yield (
                f"Freezing {counted(best.depth, 'layer')} was chosen over {depth}: {best.n_steps:,} steps "
                f"versus {other.n_steps:,}, and an expected loss of {-best.expected_points:.1f} accuracy "
                f"points versus {-other.expected_points:.1f} (see docs/deadlines.md)."
            )


def _length(plans: Plans, data: DataLengths, constraints: Constraints) -> Iterator[str]:
    best = plans.best
    longest = int(data.lengths.max(initial=1))
    if constraints.max_length is not None or longest <= 32:
        return
    cut = 1 - np.minimum(data.lengths, best.max_length).sum() / max(1, data.lengths.sum())
    n_cut = int((data.lengths > best.max_length).sum())
    if not n_cut:
        yield f"No text is truncated: the longest has {longest} tokens, and the limit is {best.max_length}."
        return
    yield (
        f"Texts are truncated to {best.max_length} tokens, which removes {cut:.1%} of all tokens "
        f"({counted(n_cut, 'row')} affected)."
    )


def _cache(best: Plan) -> Iterator[str]:
    if not best.depth:
        return
    if best.cache_mb:
        yield (
            f"The output of the frozen layers is cached ({best.cache_mb:,.0f} MB), because rows are seen "
            f"{best.passes:.1f} times."
        )
    else:
        why = "" if best.passes > 1 else ", because no row is seen twice"
        yield f"The output of the frozen layers is not cached{why}."


def break_even(device: DeviceCosts, plan: Plan, lengths: IntArray) -> float:
    """Return the share of rows that must skip training before scoring them first pays: T_s / T_u."""
    costs = next(item for item in device.backends if item.key == plan.key)
    typical = int(np.median(np.minimum(lengths, plan.max_length))) if len(lengths) else 32
    score_s = costs.cost.seconds("score", plan.batch_size, typical, plan.depth)
    train_s = costs.cost.seconds("train", plan.batch_size, typical, plan.depth)
    if plan.depth and not plan.cache_mb:
        prefix_s = costs.cost.seconds("prefix", plan.batch_size, typical, plan.depth)
        return (score_s + prefix_s) / (train_s + prefix_s)
    return score_s / train_s


def filter_reason(device: DeviceCosts, plan: Plan, lengths: IntArray) -> str:
    """Say when scoring rows before training them would pay at this depth."""
    share = break_even(device, plan, lengths)
    must = (
        f"scoring a row costs {share:.0%} of training on it, so a filter pays off only if it skips a larger "
        "share of the rows"
    )
    if plan.method in FILTERS:
        return (
            f"{plan.method} is used as requested: {must}. The plan assumes that it skips no rows; it is "
            "switched off if it costs more than it saves."
        )
    return f"No filter: {must}; so far, none has beaten a random subset in equal time (see docs/log.md)."
