"""Methods side by side on one data set, one run each, and random at the amount that three-stage trained."""

from __future__ import annotations

import argparse
from typing import Any

from common import finetune

from edgetune.utils.machine import cache_folder

COLUMNS = (
    "| method | accuracy | trained | scored | skipped backward / both | T_norm modelled | T_norm in the run "
    "| score + train + select | T_norm to train-all | elapsed |\n|---|---|---|---|---|---|---|---|---|---|"
)


def main(arguments: argparse.Namespace) -> None:
    """Print a Markdown table; T_norm to train-all is the measured time of the loop over that of train-all."""
    if arguments.data is None or arguments.eval is None:
        raise SystemExit("methods needs --data and --eval")
    print(
        f"# {arguments.data}, {arguments.epochs} epochs, best of them by the evaluation rows\n{COLUMNS}",
        flush=True,
    )
    base = _row("train-all", arguments, None)
    kept = []
    for preset in ("paper", "default"):
        found = _row("three-stage", arguments, base, "--preset", preset)
        kept.append(found["n_trained"] / found["n_seen"])
        print(
            f"  stages ({preset}): {[(s['stage'], s['n_seen'], s['reason']) for s in found['stages']]}",
            flush=True,
        )
        audit = found["selection"].get("explored_hard_rate")
        print(
            f"  overlap {found['selection'].get('overlap_rate')}, explored rows that were hard {audit}",
            flush=True,
        )
    for share in kept:
        _row("random", arguments, base, "--keep-rate", f"{share:.4f}")
    _row("auto-threshold", arguments, base)


def _row(
    method: str, arguments: argparse.Namespace, base: dict[str, Any] | None, *more: str
) -> dict[str, Any]:
    out = arguments.out / "-".join([method, *(item.lstrip("-") for item in more)])
    result, elapsed_s = finetune(
        arguments.data, "--eval", arguments.eval, "--method", method, "--epochs", str(arguments.epochs),
        "--out", str(out), *more, cache=cache_folder(),
    )  # fmt: skip
    spent, plain = _loop_s(result), _loop_s(base if base is not None else result)
    low, high = result["accuracy_interval"]
    print(
        f"| {' '.join([method, *more])} | {result['accuracy']:.4f} ({low:.3f} to {high:.3f}) "
        f"| {result['n_trained']:,} | {result['n_scored']:,} "
        f"| {result['skipped_backward_rate']:.1%} / {result['skipped_both_rate']:.1%} "
        f"| {result['t_norm_modelled']:.2f} | {result['t_norm_measured']:.2f} | {spent:.0f} s "
        f"| {spent / plain:.2f} | {elapsed_s:.0f} s |",
        flush=True,
    )
    return result


def _loop_s(result: dict[str, Any]) -> float:
    split: dict[str, float] = result["time_split_s"]
    return split["score"] + split["train"] + split["select"]
