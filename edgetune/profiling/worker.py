"""The process that measures one backend: a JSON line asks, a JSON line answers.

    WorkerProcess.ask ─ {"do": "open", "depth": 0, …} ─→ Worker.open ─ {"answer": 1.3} or {"error": "…"} ─→

One process per backend keeps memory clean and the cost of importing real, lets the parent take turns
between backends, and can be killed when an operation takes far too long. It ends when its stdin does.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import gc
import importlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgetune.backends.backend_contract import Backend
from edgetune.backends.hidden_cache import HiddenCache
from edgetune.backends.openers import Opening, find_opener
from edgetune.backends.ort.artifacts import Artifacts, load_artifacts
from edgetune.config.settings import ModelSettings, freeze_of
from edgetune.data.batches import Batch
from edgetune.energy import Sensor, open_sensor
from edgetune.energy.estimate import ConstantPower, estimate_by_use
from edgetune.models.source import resolve_model
from edgetune.utils.errors import EdgetuneError, UsageError
from edgetune.utils.isolation import module_command, no_network

LABELS = ("no", "yes")
SEED = 0
CACHE_MB = 400.0
LIMIT_S = 180.0
_FIRST_WORD = 5  # ids below are special tokens in most vocabularies
HISTORY_STEPS = 500
_OF_A_RUN = (
    "edgetune.cli.app",
    "edgetune.config.toml_config",
    "edgetune.runs.run",
    "edgetune.report.live_view",
    "edgetune.utils.machine",
    *("tokenizers", "pyarrow", "safetensors", "psutil"),
)


@dataclass(frozen=True)
class MeasurementJob:
    """What one worker measures.

    Attributes:
        key: the backend as profiles name it, such as `torch-bf16` or `torch-fp32-cuda`.
        model: folder of the model.
        artifacts: folder of training artifacts by depth, for a backend that exports.
        tokenizer: folder of the fast tokenizer.
        scratch: folder for files that are thrown away.
    """

    key: str
    model: str
    artifacts: Mapping[str, str]
    tokenizer: str
    scratch: str

    @property
    def parts(self) -> tuple[str, str, str]:
        """Backend (`ort` or `torch`), precision (`fp32` or `bf16`) and device (`cpu` or `cuda`)."""
        backend, precision, *device = self.key.split("-")
        return backend, precision, device[0] if device else "cpu"


class WorkerLost(EdgetuneError):
    """A worker died, was too slow, or said what was wrong; its backend is left out."""


class WorkerProcess:
    """The parent's end of a worker; a context manager that leaves no process behind."""

    def __init__(self, job: MeasurementJob) -> None:
        self.started_at = time.time()
        self._process = subprocess.Popen(
            module_command("edgetune.profiling.worker", json.dumps(dataclasses.asdict(job))),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then kills
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._reader = concurrent.futures.ThreadPoolExecutor(1)
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def ask(self, do: str, limit_s: float = LIMIT_S, **given: Any) -> Any:
        """Call a method of the worker and return its answer; after `limit_s` seconds the worker is killed.

        Raises:
            WorkerLost: it was killed, died, or answered that it failed.
        """
        try:
            print(json.dumps({"do": do, **given}), file=self._stdin, flush=True)
            line = self._reader.submit(self._stdout.readline).result(limit_s)
        except concurrent.futures.TimeoutError:
            self.kill()
            raise WorkerLost(f"`{do}` took more than {limit_s:.0f} s") from None
        except (OSError, ValueError):  # it is gone, and its pipe closed
            line = ""
        if not line:
            self.kill()
            raise WorkerLost(f"its process died during `{do}` (exit code {self._process.returncode})")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerLost(answer["error"])
        return answer["answer"]

    def leave(self, limit_s: float = 20.0) -> float:
        """Let the worker end; return how many seconds that took."""
        started = time.perf_counter()
        with contextlib.suppress(OSError):
            self._stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(limit_s)
        seconds = time.perf_counter() - started
        self.kill()
        return seconds

    def kill(self) -> None:
        """End the worker at once."""
        self._process.kill()
        self._process.wait()
        self._reader.shutdown()
        with contextlib.suppress(OSError):  # what it did not read is lost
            self._stdin.close()
        self._stdout.close()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def peak_mb() -> float:
    """Return the largest resident memory since `forget_peak` (MB, 10^6 bytes)."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import psutil

        found = psutil.Process().memory_info()
        return float(getattr(found, "peak_wset", found.rss)) / 1e6
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def forget_peak() -> None:
    """Let the largest resident memory start anew, where the system allows it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


class Worker:
    """The child's end: backends by depth, opened as a run opens them, and batches to measure them on.

    Every public method answers a request; what it returns is JSON.
    """

    def __init__(self, job: MeasurementJob) -> None:
        self._job = job
        self._name, self._precision, self._device = job.parts
        self._sensor: Sensor = ConstantPower(0.0, "not measured")
        self._backends: dict[int, Backend] = {}
        self._batches: dict[tuple[int, int], Batch] = {}
        self._filled: set[tuple[int, int, int]] = set()
        self._n_words = 0
        self._rng = np.random.default_rng(SEED)

    def power(self, watts: float | None, tdp: float | None) -> None:
        """Open a sensor here, where the work is done: estimates go by the use of their own process."""
        self._sensor = open_sensor(watts, device=self._device)
        if watts is None and tdp is not None and not self._sensor.measured and self._device == "cpu":
            self._sensor = estimate_by_use(tdp)

    def idle(self, seconds: float) -> dict[str, Any]:
        """Measure the power of doing nothing."""
        started, before_j = time.perf_counter(), self._sensor.joules()
        time.sleep(seconds)
        watts = (self._sensor.joules() - before_j) / (time.perf_counter() - started)
        return {"w": watts, "source": self._sensor.source, "measured": self._sensor.measured}

    def import_runtime(self) -> float:
        """Import what the backend needs; return the seconds it took."""
        started = time.perf_counter()
        find_opener(self._name).import_runtime()
        return time.perf_counter() - started

    def open(self, depth: int, threads: int | None, onnx: bool = True) -> float:
        """Open a backend at a depth, in place of one that was open there; return the seconds it took."""
        self.close(depth)
        started = time.perf_counter()
        source = resolve_model(self._job.model)
        settings = ModelSettings(
            freeze=freeze_of(depth),
            device=self._device,
            precision=self._precision,
            threads=threads,
            onnx=onnx,
        )

        def artifacts() -> Artifacts:
            source.fingerprint()  # a run needs it to find its artifacts
            return load_artifacts(Path(self._job.artifacts[str(depth)]), len(LABELS))

        cache = HiddenCache(CACHE_MB, 0.0, None) if depth > 0 else None
        tokenizer = Path(self._job.tokenizer)
        asked = Opening(source, settings, len(LABELS), SEED, tokenizer, cache, artifacts)
        backend = find_opener(self._name).open_backend(asked)
        seconds = time.perf_counter() - started
        if backend.depth != depth:
            raise UsageError(f"{source.name} cannot be split above layer {depth}")
        self._backends[depth] = backend
        self._n_words = int(source.config.get("vocab_size") or 1000)
        return seconds

    def close(self, depth: int) -> None:
        """Let a backend go, if it is open."""
        self._backends.pop(depth, None)
        self._filled = {key for key in self._filled if key[0] != depth}
        gc.collect()

    def run(self, op: str, batch: int, length: int, depth: int, n: int, warm: bool) -> dict[str, Any]:
        """Time `n` calls one by one, where `warm` after one that is not timed; add energy and memory."""
        forget_peak()
        backend, rows = self._backends[depth], self._batch(batch, length)
        calls: dict[str, Callable[[Batch], object]] = {
            "prefix": backend.prefix,
            "score": backend.score,
            "train": lambda batch: backend.train_step(batch, 0.0),
        }
        if depth > 0 and op != "prefix" and (depth, batch, length) not in self._filled:
            backend.score(rows)  # so that its hidden states are at hand
            self._filled.add((depth, batch, length))
        if warm:
            calls[op](rows)
        before_j, seconds = self._sensor.joules(), []
        for _ in range(n):
            started = time.perf_counter()
            calls[op](rows)
            seconds.append(time.perf_counter() - started)
        return {"s": seconds, "j": self._sensor.joules() - before_j, "peak_mb": peak_mb()}

    def _batch(self, size: int, length: int) -> Batch:
        """Return random rows of one length, the same ones every time; no two shapes share a row."""
        if (size, length) not in self._batches:
            first = sum(n_rows for n_rows, _ in self._batches)
            self._batches[size, length] = Batch(
                rows=np.arange(first, first + size),
                labels=self._rng.integers(0, len(LABELS), size),
                tokens=self._rng.integers(min(_FIRST_WORD, self._n_words - 1), self._n_words, size * length),
                offsets=np.arange(size + 1) * length,
                first_lengths=np.full(size, length),
                scored=np.zeros(size, dtype=np.bool_),
            )
        return self._batches[size, length]

    def save(self, depth: int) -> float:
        """Return the seconds of writing a model."""
        with tempfile.TemporaryDirectory(dir=self._job.scratch) as folder:
            started = time.perf_counter()
            self._backends[depth].save(Path(folder), LABELS)
            return time.perf_counter() - started

    def start(self) -> float:
        """Import what every run imports; return when it was done (seconds since the epoch)."""
        for name in _OF_A_RUN:
            importlib.import_module(name)
        return time.time()

    def report(self) -> float:
        """Draw a run that never was and write its card and summary; return the seconds it took."""
        folder, (history, summary) = Path(self._job.scratch), synthetic_run()
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


def main() -> None:
    """Answer until stdin ends; whatever libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    no_network()
    worker = Worker(MeasurementJob(**json.loads(sys.argv[1])))
    for line in sys.stdin:
        given = json.loads(line)
        try:
            answer = {"answer": getattr(worker, given.pop("do"))(**given)}
        except EdgetuneError as error:
            answer = {"error": str(error)}
        except Exception as error:  # the parent leaves this backend out and says why
            answer = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
