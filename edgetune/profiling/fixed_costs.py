"""What every run pays besides a backend's operations: its start and its report; and an idle machine's power.

Measured in fresh worker processes, so that imports are paid as a run pays them.
"""

from __future__ import annotations

import importlib
import json
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetune.profiling.worker import MeasurementJob, WorkerProcess

HISTORY_STEPS = 500
IDLE_S = 1.5

_OF_A_RUN = (
    "edgetune.cli.app",
    "edgetune.config.toml_config",
    "edgetune.runs.run",
    "edgetune.report.live_view",
    "edgetune.utils.machine",
    *("tokenizers", "pyarrow", "safetensors", "psutil"),
)


@dataclass(frozen=True)
class PerRunCosts:
    """Seconds of starting and of reporting, and the watts of an idle machine with where they come from."""

    start_s: float
    report_s: float
    idle_w: float
    source: str
    measured: bool


def measure_per_run_costs(
    job: MeasurementJob, n_starts: int, watts: float | None, tdp: float | None
) -> PerRunCosts:
    """Measure in workers, of which `n_starts` are started to see how long that takes."""
    start_s = []
    for _ in range(n_starts):
        with WorkerProcess(job) as child:
            start_s.append(child.ask("start") - child.started_at)
    with WorkerProcess(job) as child:
        report_s = child.ask("report")
        child.ask("power", watts=watts, tdp=tdp)
        idle = child.ask("idle", seconds=IDLE_S)
    return PerRunCosts(statistics.median(start_s), report_s, idle["w"], idle["source"], idle["measured"])


def import_run() -> float:
    """Import what every run imports; return when it was done (seconds since the epoch)."""
    for name in _OF_A_RUN:
        importlib.import_module(name)
    return time.time()


def write_report(folder: Path) -> float:
    """Draw a run that never was and write its card and summary; return the seconds it took."""
    history, summary = synthetic_run()
    started = time.perf_counter()
    from edgetune.report.model_card import model_card
    from edgetune.report.run_plot import draw_run

    draw_run(history, summary, folder / "run.png")
    (folder / "README.md").write_text(model_card(summary), encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return time.perf_counter() - started


def synthetic_run() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the history and summary of an imagined run, to be drawn."""
    of_step = {"kind": "step", "epoch": 1, "stage": "all", "lr": 1e-4, "n": 32, "width": 32}
    of_step |= dict.fromkeys(("n_scored", "n_skipped_backward", "n_skipped_both"), 0)
    steps: list[dict[str, Any]] = [
        of_step
        | {"t_s": 2.0 + 0.2 * i, "step": i, "loss": 0.1 + 0.6 * math.exp(-i / 150), "train_s": 0.15 * i}
        | {"n_seen": 32 * i, "n_trained": 32 * i}
        for i in range(1, HISTORY_STEPS + 1)
    ]
    stage = {"kind": "stage", "t_s": 2.0, "stage": "all", "n_seen": 0, "reason": "trains everything"}
    end_s = steps[-1]["t_s"]
    found = {"accuracy": 0.9, "macro_f1": 0.9}
    evaluation = {"kind": "eval", "t_s": end_s, "epoch": 1, "loss": 0.3, "n": 1000, **found}
    summary = {
        **{"method": "train-all", "backend": "ort", "model": "built-in", "dataset": "tickets.csv"},
        **{"label_names": ["a", "b"], "accuracy_interval": [0.88, 0.92], **found},
        **{"elapsed_s": end_s + 2.0, "time_split_s": {"load": 2.0, "train": end_s - 2.0, "save": 2.0}},
        **{"n_train": 16000, "n_eval": 1000, "n_seen": 16000, "n_trained": 16000, "n_steps": HISTORY_STEPS},
    }
    return [stage, *steps, evaluation], summary
