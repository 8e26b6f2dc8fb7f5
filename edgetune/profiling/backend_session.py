"""One backend in its worker: opened, weighed, given its best number of threads, saved; then ready for rounds.

import ─→ open ─→ memory, by growing batches ─→ save ─→ threads tried ─→ open again ─→ open cut above layers
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgetune.devices.cost_function import nnls
from edgetune.devices.device_profile import BackendProfile, FixedCosts, Memory
from edgetune.profiling.opened_backend import MeasurementJob
from edgetune.profiling.sampling import GridPoint, Sampler
from edgetune.profiling.worker_client import WorkerLost, WorkerProcess

LIMIT_S = 180.0
SLOW = 12.0  # times the expected seconds, and LEAST_LIMIT_S, after which a worker is given up
LEAST_LIMIT_S = 15.0
CLEARLY_FASTER = 0.95
TRIALS = 3


@dataclass
class BackendSession:
    """A backend that is being measured.

    Attributes:
        job: what is measured.
        child: its worker.
        watts: what the user says the machine draws, None to look for a sensor.
        tdp: watts of the processor, for an estimate where there is no sensor.
        threads: that it is measured with.
        threads_tried: seconds of a train step by number of threads.
        fixed: seconds of what is paid once.
        memory: megabytes by tokens.
        joules, seconds: of all timed calls, by operation.
    """

    job: MeasurementJob
    child: WorkerProcess
    watts: float | None
    tdp: float | None
    threads: int
    threads_tried: dict[str, float] = field(default_factory=dict)
    fixed: dict[str, float] = field(default_factory=dict)
    memory: Memory | None = None
    joules: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    _import_s: float = 0.0
    _first_s: float = 0.0
    _cut_depths: list[int] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Name of the backend."""
        return self.job.key

    def open(self, like: BackendSession | None = None) -> None:
        """Import the runtime and open the whole model.

        Args:
            like: the same backend in another arithmetic, whose fixed costs and threads are taken over.
        """
        self.child.ask("power", LIMIT_S, watts=self.watts, tdp=self.tdp)
        self._import_s = self.child.ask("import", LIMIT_S)["s"]
        if like is not None:
            self.threads, self.threads_tried = like.threads, dict(like.threads_tried)
            self.fixed = dict(like.fixed)
        self._first_s = self._open(0, self.threads)

    def _open(self, depth: int, threads: int, onnx: bool = True) -> float:
        found: float = self.child.ask("open", LIMIT_S, depth=depth, threads=threads, onnx=onnx)["s"]
        return found

    def visit(self, grid_point: GridPoint, n: int, warm: bool, expected_s: float) -> list[float]:
        """Time calls at one spot."""
        limit_s = max(LEAST_LIMIT_S, SLOW * expected_s * (n + warm))
        answer = self._run(grid_point, n, warm, limit_s)
        seconds: list[float] = answer["s"]
        self.joules[grid_point.op] = self.joules.get(grid_point.op, 0.0) + answer["j"]
        self.seconds[grid_point.op] = self.seconds.get(grid_point.op, 0.0) + sum(seconds)
        return seconds

    def _run(self, grid_point: GridPoint, n: int, warm: bool, limit_s: float) -> dict[str, Any]:
        where = {
            "op": grid_point.op,
            "batch": grid_point.batch,
            "length": grid_point.length,
            "depth": grid_point.depth,
        }
        return self.child.ask("run", limit_s, n=n, warm=warm, **where)

    def weigh(self, shapes: Sequence[tuple[int, int]], sampler: Sampler, most_s: float) -> None:
        """Measure memory on growing batches, first scored, then trained, as an arena never shrinks.

        Args:
            shapes: rows and tokens to try, smallest first.
            sampler: is told what calls cost.
            most_s: longer calls are left out, but for two.
        """
        peaks: dict[str, list[tuple[float, float]]] = {}
        for op in ("score", "train"):
            for batch, length in shapes:
                grid_point = GridPoint(self.key, op, batch, length, 0)
                if len(peaks.get(op, ())) >= 2 and sampler.call_s(grid_point) > most_s:
                    break
                answer = self._run(grid_point, 1, False, LIMIT_S)
                sampler.hint(grid_point, answer["s"][0])
                peaks.setdefault(op, []).append((grid_point.tokens, answer["peak_mb"]))
        score, train = _line(peaks["score"]), _line(peaks["train"])
        self.memory = Memory(
            base_mb=round(train[0], 1), score_mb_per_token=score[1], train_mb_per_token=train[1]
        )

    def save(self) -> None:
        """Measure writing the model, with ONNX and, where it can be left out, without; open again.

        What only the first opening pays (parts imported when they are needed) is a part of the import.
        """
        self.fixed["save_s"] = self.fixed["save_model_s"] = self.child.ask("save", LIMIT_S, depth=0)["s"]
        self.fixed["open_s"] = self._open(0, self.threads, onnx=False)
        self.fixed["import_s"] = self._import_s + max(0.0, self._first_s - self.fixed["open_s"])
        if self.job.backend == "torch":
            self.fixed["save_model_s"] = self.child.ask("save", LIMIT_S, depth=0)["s"]

    def choose_threads(self, candidates: Sequence[int], grid_point: GridPoint) -> None:
        """Try numbers of threads at one spot; the one that the backend was opened with wins a draw."""
        if self.job.device != "cpu" or len(candidates) < 2:
            return
        for threads in candidates:
            self._open(0, threads)
            seconds = self._run(grid_point, TRIALS, True, LIMIT_S)["s"]
            self.threads_tried[str(threads)] = statistics.median(seconds)
        fastest = min(candidates, key=lambda threads: self.threads_tried[str(threads)])
        if self.threads_tried[str(fastest)] < CLEARLY_FASTER * self.threads_tried[str(self.threads)]:
            self.threads = fastest
        if candidates[-1] != self.threads:
            self._open(0, self.threads)

    def open_depths(self, depths: Sequence[int]) -> str | None:
        """Open the model cut above layers; return why it cannot be, None if it can."""
        known = "open_depth_s" in self.fixed  # taken over
        self.fixed.setdefault("open_depth_s", self.fixed["open_s"])
        for number, depth in enumerate(depth for depth in depths if depth > 0):
            try:
                seconds = self._open(depth, self.threads)
            except WorkerLost as error:
                if not self.child.alive:
                    raise
                return str(error)
            self._cut_depths.append(depth)
            if number == 0 and not known:
                self.fixed["open_depth_s"] = seconds
                self._save_cut(depth)
        return None

    def _save_cut(self, depth: int) -> None:
        """On `ort`, saving a cut model opens the whole one first: a run must expect the dearer of the two."""
        if self.job.backend == "ort":
            cut_s = self.child.ask("save", LIMIT_S, depth=depth)["s"]
            self.fixed["save_s"] = self.fixed["save_model_s"] = max(cut_s, self.fixed["save_s"])

    def leave(self) -> float:
        """End the worker as a run ends, with one backend open; return the seconds it took."""
        for depth in self._cut_depths:
            self.child.ask("close", LIMIT_S, depth=depth)
        return self.child.leave()

    def profile(self, sampler: Sampler, export_s: float) -> BackendProfile:
        """Put everything that was found together."""
        assert self.memory is not None
        return BackendProfile(
            backend=self.job.backend,
            precision=self.job.precision,
            device=self.job.device,
            threads=self.threads,
            threads_tried=self.threads_tried,
            fixed=FixedCosts(export_s=export_s if self.job.backend == "ort" else 0.0, **self.fixed),
            memory=self.memory,
            points=sampler.points(self.key),
        )


def _line(peaks: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return megabytes at no token, and per token, neither below zero."""
    tokens = np.array([tokens for tokens, _ in peaks])
    megabytes = np.array([peak for _, peak in peaks])
    if len(peaks) < 2:
        return float(megabytes[0]), 0.0
    base, slope = nnls(np.column_stack([np.ones(len(tokens)), tokens]), megabytes)
    return float(base), float(slope)
