"""Explains in words and numbers why the first plan was chosen, and why a filter is planned or not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgetune.planning.plan import LINEAR_PROBE, Constraints, DataLengths, Plan, Plans
from edgetune.selection import FILTERS
from edgetune.utils.formatting import counted, duration
from edgetune.utils.types import IntArray


def explain(plans: Plans, data: DataLengths, constraints: Constraints) -> Iterator[str]:
    """Yield one sentence per choice, the deciding one first."""
    best, device = plans.best, plans.device
    yield from filter(None, (device.note, device.speeds_note))
    if best.method == LINEAR_PROBE:
        yield _probe(plans, data)
    else:
        yield _rows(best)
        yield from _backend(plans)
        if constraints.depth is None:
            yield from _depth(plans)
        if constraints.max_length is None and data.lengths.max(initial=1) > 32:
            yield _length(best, data)
        if best.depth:
            yield _cache(best)
        yield filter_reason(plans, data.lengths)
    if best.n_eval < len(data.eval_lengths):
        yield (
            f"The model is evaluated on {best.n_eval:,} of {len(data.eval_lengths):,} rows, drawn at random, "
            f"which takes {duration(best.lines['evaluate'])}; run `edgetune evaluate` afterwards to use all "
            "of them."
        )


def _probe(plans: Plans, data: DataLengths) -> str:
    """Say why a linear probe is fitted, and what training would achieve in the same time."""
    best, trained = plans.best, _alternative(plans)
    apart = data.pair and not plans.costs(best).trains
    what = "compares the two texts of a pair, encoded apart, and" if apart else "on the untouched encoder"
    instead = (
        "There is no time to train the encoder."
        if trained is None
        else f"Training would make {counted(trained.n_steps, 'step')}, with an expected loss of "
        f"{-trained.expected_points:.1f} points (see docs/deadlines.md)."
    )
    if not best.grows:
        instead = unreadable(data.unknown_rate)
    if trained is not None and round(trained.expected_points - best.expected_points, 2) > 0:
        instead += f" So few rows for {data.n_classes:,} classes seldom reach that."
    return (
        f"A linear probe {what} is fitted on {best.n_probe_rows:,} rows{' or more' * best.grows}, with an "
        f"expected loss of {-best.expected_points:.1f} accuracy points. {instead}"
    )


def unreadable(unknown_rate: float) -> str:
    """Say that the encoder is not trained, because so many of the tokens are unknown to it."""
    return (
        f"The encoder's vocabulary does not have {unknown_rate:.0%} of the tokens, so the encoder is not "
        "trained; choose one for this language with --model."
    )


def _rows(best: Plan) -> str:
    low, high = best.rows_interval
    share = (
        f"{best.passes:.1f} passes" if best.passes > 1 else f"{best.passes:.0%} of the rows, drawn at random"
    )
    if low == high == best.n_rows:
        share += "; --epochs or --max-steps allows no more, so time is left over"
    return (
        f"{best.n_rows:,} examples ({low:,} to {high:,}) fit into {duration(best.lines['train'])} of "
        f"training: {counted(best.n_steps, 'step')} with batch size {best.batch_size}, {share}."
    )


def _alternative(plans: Plans, key: str | None = None, depth: int | None = None) -> Plan | None:
    """Return the best plan that trains, with a backend and a depth if they are given."""
    found = (plan for plan in plans.ranked if key in (None, plan.key) and depth in (None, plan.depth))
    return next(filter(lambda plan: plan.trains, found), None)


def _backend(plans: Plans) -> Iterator[str]:
    best = plans.best
    for key in dict.fromkeys(plan.key for plan in plans.ranked if plan.key != best.key):
        other = _alternative(plans, key, best.depth)
        if other is None:
            continue
        pair = (best, other)
        start = [duration(sum(plan.lines[name] for name in ("export", "open", "save"))) for plan in pair]
        rates = [plan.n_rows / plan.lines["train"] if plan.lines["train"] else 0.0 for plan in pair]
        yield (
            f"{best.key} was chosen over {key}: {rates[0]:.1f} examples per second versus {rates[1]:.1f}, "
            f"and {start[0]} to export, open and save versus {start[1]}."
        )


def _depth(plans: Plans) -> Iterator[str]:
    best = plans.best
    others = {plan.depth for plan in plans.ranked if plan.key == best.key and plan.depth != best.depth}
    for depth in sorted(others, key=lambda depth: abs(depth - best.depth))[:2]:
        other = _alternative(plans, best.key, depth)
        if other is not None:
            yield (
                f"Freezing {counted(best.depth, 'layer')} was chosen over {depth}: {best.n_steps:,} steps "
                f"versus {other.n_steps:,}, and an expected loss of {-best.expected_points:.1f} accuracy "
                f"points versus {-other.expected_points:.1f} (see docs/deadlines.md)."
            )


def _length(best: Plan, data: DataLengths) -> str:
    n_cut = int((data.lengths > best.max_length).sum())
    if not n_cut:
        longest = int(data.lengths.max(initial=1))
        return f"No text is truncated: the longest has {longest} tokens, and the limit is {best.max_length}."
    cut = 1 - np.minimum(data.lengths, best.max_length).sum() / max(1, data.lengths.sum())
    return (
        f"Texts are truncated to {best.max_length} tokens, which removes {cut:.1%} of all tokens "
        f"({counted(n_cut, 'row')} affected)."
    )


def _cache(best: Plan) -> str:
    if best.cache_mb:
        why = f"rows are seen {best.passes:.1f} times"
        if best.passes <= 1:
            why = "a linear probe reads the same rows before and after training"
        return f"The output of the frozen layers is cached ({best.cache_mb:,.0f} MB), because {why}."
    why = "" if best.passes > 1 else ", because no row is seen twice"
    return f"The output of the frozen layers is not cached{why}."


def filter_reason(plans: Plans, lengths: IntArray) -> str:
    """Say that scoring rows before training them pays only if more than T_s / T_u is skipped."""
    plan = plans.best
    width = int(np.median(np.minimum(lengths, plan.max_length))) if len(lengths) else 32
    cost = plans.costs(plan).cost
    score_s, train_s = (cost.seconds(op, plan.batch_size, width, plan.depth) for op in ("score", "train"))
    if plan.depth and not plan.cache_mb:
        prefix_s = cost.seconds("prefix", plan.batch_size, width, plan.depth)
        score_s, train_s = score_s + prefix_s, train_s + prefix_s
    must = (
        f"scoring a row costs {score_s / train_s:.0%} of training on it, so a filter pays off only if it "
        "skips a larger share of the rows"
    )
    if plan.method in FILTERS:
        return (
            f"{plan.method} is used as requested: {must}. The plan assumes that it skips no rows; it is "
            "switched off if it costs more than it saves."
        )
    return f"No filter: {must}; so far, none has beaten a random subset in equal time (see docs/log.md)."
