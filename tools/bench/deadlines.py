"""Plans against real runs, runs beside a busy neighbour, and a deadline against a plain loop.

Every run is a process of its own, timed from outside; `used` is its wall clock over its deadline.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from common import finetune

from edgetune.utils.machine import cache_folder, usable_cores

CONFIGS = {"sst2": "configs/sst2.toml", "ag_news": "configs/ag_news.toml", "qqp": "configs/qqp.toml"}
DEADLINES_S = (45, 75, 120, 300)
EQUAL_S = (60, 120)
BUSY_DEADLINE_S = 45
PLAIN = ("--backend", "ort", "--freeze", "embeddings", "--max-length", "128")


def _run(name: str, deadline_s: int, out: Path, *more: str) -> tuple[dict[str, Any], float]:
    return finetune(
        "--config", CONFIGS[name], "--deadline", f"{deadline_s}s", "--out", str(out), *more,
        cache=cache_folder(),
    )  # fmt: skip


def plans(arguments: argparse.Namespace) -> None:
    """Compare planned and real: three data sets, four deadlines."""
    columns = "data|deadline|plan|rows planned|after the first steps|trained|real / planned|real / revised"
    columns += "|wall clock|used|accuracy"
    print(f"|{columns}|\n|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    ratios, revised, used = [], [], []
    for deadline_s in arguments.deadlines or DEADLINES_S:
        for name in CONFIGS:
            found, wall_s = _run(name, deadline_s, arguments.out / f"plan-{name}-{deadline_s}")
            plan = found["planned"]
            ratio = found["n_trained"] / plan["n_rows"]
            ratios.append(ratio)
            revised.append(found["n_trained"] / (plan["revised"] or plan)["n_rows"])
            used.append(wall_s / deadline_s)
            print(
                f"| {name} | {deadline_s} s | {_words(plan)} "
                f"| {plan['n_rows']:,} | {(plan['revised'] or plan)['n_rows']:,} | {found['n_trained']:,} "
                f"| {ratio:.3f} | {revised[-1]:.3f} | {wall_s:.1f} s "
                f"| {wall_s / deadline_s:.1%} | {_quality(found)} |",
                flush=True,
            )
    inside, later = (sum(abs(ratio - 1) <= 0.1 for ratio in found) for found in (ratios, revised))
    print(
        f"{inside} of {len(ratios)} within 10 % of the plan, {later} of the revised one; "
        f"deadline used {min(used):.1%} to {max(used):.1%}, median {statistics.median(used):.1%}; "
        f"passed {sum(share > 1 for share in used)} times"
    )


def _words(plan: dict[str, Any]) -> str:
    return f"{plan['key']}, depth {plan['depth']}, {plan['max_length']} tokens, {plan['method']}"


def _quality(found: dict[str, Any]) -> str:
    if found["accuracy"] is None:
        return "not evaluated"
    low, high = found["accuracy_interval"]
    return f"{found['accuracy']:.3f} ({low:.3f} to {high:.3f}), {found['n_eval']:,} rows"


def busy(arguments: argparse.Namespace) -> None:
    """Start a process that keeps every core busy at a random moment of a run."""
    rng, late, cut = random.Random(0), [], 0
    behind: list[float] = []
    for number in range(arguments.repeats):
        name = list(CONFIGS)[number % len(CONFIGS)]
        after_s = rng.uniform(0, BUSY_DEADLINE_S)
        neighbour = _Neighbour(after_s)
        try:
            found, wall_s = _run(name, BUSY_DEADLINE_S, arguments.out / "busy")
        finally:
            neighbour.stop()  # also after a run that failed, or it would disturb what is measured next
        late.append(wall_s - BUSY_DEADLINE_S)
        was_cut = found["n_eval"] < found["planned"]["n_eval"] or found["accuracy"] is None
        cut += was_cut
        told = ", cut" if was_cut else ""
        learners = {one["name"]: one["accuracy"] for one in (found["ensemble"] or {}).get("learners", [])}
        if found["accuracy"] is not None and (alone := learners.get("n-grams")) is not None:
            behind.append(100 * (alone - found["accuracy"]))
            told += f"; accuracy {found['accuracy']:.1%}, n-grams alone {alone:.1%}"
        print(
            f"{name}: busy after {after_s:.1f} s; ended {wall_s:.1f} s ({-late[-1]:+.1f} s to spare), "
            f"{found['n_trained']:,} of {found['planned']['n_rows']:,} rows, "
            f"evaluated {found['n_eval']:,} of {found['planned']['n_eval']:,}{told}",
            flush=True,
        )
    worst = f"; at worst {max(behind):+.1f} points behind the n-grams alone" if behind else ""
    print(
        f"{len(late)} runs of {BUSY_DEADLINE_S} s: latest {max(late):+.2f} s, "
        f"passed {sum(s > 0 for s in late)} times, by more than 1 s {sum(s > 1 for s in late)} times; "
        f"evaluation cut {cut} times{worst}"
    )


class _Neighbour:
    """A process per core that computes, from some moment on."""

    def __init__(self, after_s: float) -> None:
        self._children: list[subprocess.Popen[bytes]] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._start, args=(after_s,))
        self._thread.start()

    def _start(self, after_s: float) -> None:
        if self._stopped.wait(after_s):
            return
        for _ in range(usable_cores()):
            self._children.append(subprocess.Popen([sys.executable, "-c", "while True: sum(range(10**5))"]))

    def stop(self) -> None:
        """Stop them all."""
        self._stopped.set()
        self._thread.join()
        for child in self._children:
            child.kill()
            child.wait()


def equal(arguments: argparse.Namespace) -> None:
    """A deadline against a plain loop with the same decay and wall clock, several seeds, whole test sets."""
    columns = "data|time|arm|seed|plan|steps|accuracy on the whole test set"
    print(f"|{columns}|\n|---|---|---|---|---|---|---|")
    for name in ("sst2", "ag_news"):
        for deadline_s in arguments.deadlines or EQUAL_S:
            means: dict[str, list[float]] = {"planned": [], "plain": []}
            for seed in range(arguments.repeats):
                for arm, more in (("planned", ()), ("plain", PLAIN)):
                    out = arguments.out / f"equal-{name}-{deadline_s}-{arm}-{seed}"
                    found, _ = _run(name, deadline_s, out, "--seed", str(seed), *more)
                    accuracy = _whole_accuracy(out, CONFIGS[name])
                    means[arm].append(accuracy)
                    plan = found["planned"]
                    print(
                        f"| {name} | {deadline_s} s | {arm} | {seed} | {_words(plan)} "
                        f"| {found['n_steps']} | {accuracy:.4f} |",
                        flush=True,
                    )
            print(
                f"  {name} {deadline_s} s: planned {statistics.mean(means['planned']):.4f}, "
                f"plain {statistics.mean(means['plain']):.4f}",
                flush=True,
            )


def _whole_accuracy(run: Path, config: str) -> float:
    from edgetune.config.toml_config import load_config

    data = load_config(Path(config))["data"]["eval"]
    done = subprocess.run(
        [sys.executable, "-m", "edgetune", "evaluate", str(run), data, "--json"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    return float(json.loads(done.stdout)["accuracy"])
