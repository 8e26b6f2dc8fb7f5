"""What every run pays besides a backend's operations: start, tokenizing, the meta predictor, the report.

Measured in fresh worker processes, so that imports are paid as a run pays them; idle watts too.
"""

from __future__ import annotations

import importlib
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgetune.profiling.backend_session import LIMIT_S
from edgetune.profiling.opened_backend import MeasurementJob
from edgetune.profiling.worker_client import WorkerProcess

MAX_LENGTH = 128
TOKENIZED_ROWS = 4000
META_BATCHES = 60
BATCH = 32
HISTORY_STEPS = 500

_OF_A_RUN = (
    *(
        "edgetune.cli.app",
        "edgetune.config.toml_config",
        "edgetune.runs.run",
        "edgetune.report.live_view",
        "edgetune.utils.machine",
    ),
    *("tokenizers", "pyarrow", "safetensors", "psutil"),
)


def start(tokenizer: Path, scratch: Path) -> dict[str, Any]:
    """Import what every run imports; return when it was done (seconds since the epoch)."""
    for name in _OF_A_RUN:
        importlib.import_module(name)
    return {"done_at": time.time()}


def _tokens(tokenizer: Path, scratch: Path, n_rows: int, seed: int) -> Any:
    from edgetune.data.demo import write_demo
    from edgetune.data.examples import DataOptions
    from edgetune.data.token_format import TokenizerSpec
    from edgetune.data.tokens import open_tokens

    path = scratch / f"tickets-{n_rows}-{seed}.csv"
    write_demo(path, n_rows, seed)
    spec = TokenizerSpec(tokenizer / "tokenizer.json", MAX_LENGTH, 0)
    started = time.perf_counter()
    store = open_tokens(str(path), DataOptions(), spec, scratch / "tokens", 0.01)
    return store, time.perf_counter() - started


def tokenize(tokenizer: Path, scratch: Path) -> dict[str, Any]:
    """Read and tokenize generated rows with the real loader; return seconds per token."""
    _tokens(tokenizer, scratch, 200, 1)  # imports and the tokenizer itself
    store, seconds = _tokens(tokenizer, scratch, TOKENIZED_ROWS, 0)
    return {"s_per_token": seconds / max(1, int(np.sum(store.lengths)))}


def meta(tokenizer: Path, scratch: Path) -> dict[str, Any]:
    """Predict and learn on generated rows; return median seconds per example."""
    from edgetune.selection.meta_predictor import MetaPredictor
    from edgetune.selection.three_stage import ThreeStageSettings

    store, _ = _tokens(tokenizer, scratch, TOKENIZED_ROWS, 0)
    rng = np.random.default_rng(0)
    predictor = MetaPredictor.over_hashes(4, calibrated=True, recall=ThreeStageSettings().recall)
    seconds = []
    for _ in range(META_BATCHES):
        batch = store.batch(rng.choice(len(store.labels), BATCH, replace=False))
        hard = rng.random(BATCH) < 0.4
        started = time.perf_counter()
        predictor.predict(batch)
        predictor.learn(batch, hard, np.ones(BATCH), after_fit=False)
        seconds.append((time.perf_counter() - started) / BATCH)
    return {"s_per_example": float(np.median(seconds))}


def report_chore(tokenizer: Path, scratch: Path) -> dict[str, Any]:
    """Draw a run that never was and write its card and summary; return the seconds it took."""
    history, summary = synthetic_run()
    started = time.perf_counter()
    from edgetune.report.model_card import model_card
    from edgetune.report.run_plot import draw_run

    draw_run(history, summary, scratch / "run.png")
    (scratch / "README.md").write_text(model_card(summary), encoding="utf-8")
    (scratch / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return {"s": time.perf_counter() - started}


def synthetic_run() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the history and summary of an imagined run, to be drawn."""
    steps = [
        {
            **{"kind": "step", "t_s": 2.0 + 0.2 * i, "step": i, "epoch": 1, "stage": "all", "lr": 1e-4},
            **{"loss": 0.1 + 0.6 * math.exp(-i / 150), "n": 32, "width": 32, "train_s": 0.15 * i},
            **{"n_seen": 32 * i, "n_scored": 0, "n_trained": 32 * i},
            **{"n_skipped_backward": 0, "n_skipped_both": 0},
        }
        for i in range(1, HISTORY_STEPS + 1)
    ]
    stage = {
        "kind": "stage",
        "t_s": 2.0,
        "stage": "all",
        "n_seen": 0,
        "reason": "train-all trains everything",
    }
    end_s = 2.0 + 0.2 * HISTORY_STEPS
    evaluation = {
        **{"kind": "eval", "t_s": end_s, "epoch": 1, "accuracy": 0.9, "macro_f1": 0.9, "loss": 0.3, "n": 1000}
    }
    summary = {
        **{"method": "train-all", "backend": "ort", "model": "built-in", "dataset": "tickets.csv"},
        **{"label_names": ["a", "b"], "accuracy": 0.9, "accuracy_interval": [0.88, 0.92], "macro_f1": 0.9},
        **{"elapsed_s": end_s + 2.0, "time_split_s": {"load": 2.0, "train": end_s - 2.0, "save": 2.0}},
        **{"n_train": 16000, "n_eval": 1000, "n_seen": 16000, "n_trained": 16000, "n_steps": HISTORY_STEPS},
    }
    return [stage, *steps, evaluation], summary


CHORES: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "start": start,
    "tokenize": tokenize,
    "meta": meta,
    "report": report_chore,
}

IDLE_S = 1.5


@dataclass(frozen=True)
class PerRunCosts:
    """Seconds as in `DeviceProfile`.

    Attributes:
        idle_w: mean power while nothing is computed.
        source: where that comes from.
        measured: whether a sensor gave it.
    """

    start_s: float
    tokenize_s_per_token: float
    meta_s_per_example: float
    report_s: float
    idle_w: float
    source: str
    measured: bool


def measure_per_run_costs(
    job: MeasurementJob, n_starts: int, watts: float | None, tdp: float | None
) -> PerRunCosts:
    """Measure.

    Args:
        job: without a backend.
        n_starts: processes that are started to see how long that takes.
        watts: what the user says the machine draws.
        tdp: watts of the processor, for an estimate.
    """
    start_s = []
    for _ in range(n_starts):
        with WorkerProcess(job) as child:
            done_at = child.ask("chores", LIMIT_S, name="start")["done_at"]
            start_s.append(done_at - child.started_at)
    with WorkerProcess(job) as child:
        report_s = child.ask("chores", LIMIT_S, name="report")["s"]
        tokenize = child.ask("chores", LIMIT_S, name="tokenize")["s_per_token"]
        meta = child.ask("chores", LIMIT_S, name="meta")["s_per_example"]
        child.ask("power", LIMIT_S, watts=watts, tdp=tdp)
        idle = child.ask("idle", LIMIT_S, seconds=IDLE_S)
    return PerRunCosts(
        *(statistics.median(start_s), tokenize, meta, report_s),
        *(idle["j"] / idle["s"], idle["source"], idle["measured"]),
    )
