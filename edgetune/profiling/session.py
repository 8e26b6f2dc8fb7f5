"""Backends measured in turns within a time limit, each in its own worker.

    import ─→ open ─→ memory, by growing batches ─→ save ─→ threads tried ─→ open cut above layers ─→ rounds

Rounds take turns between backends and points, so that a busy moment bends a little of everything.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from edgetune.backends.model_loader import ensure_tokenizer
from edgetune.backends.openers import traits_of
from edgetune.backends.ort.artifacts import ArtifactBuilder
from edgetune.config.settings import freeze_of
from edgetune.data.batches import rows_at_once
from edgetune.devices.cost_function import nnls
from edgetune.devices.device_profile import BackendProfile, FixedCosts, Memory
from edgetune.models.source import ModelSource
from edgetune.profiling.sampling import VISIT_S, BusyWatch, GridPoint, Sampler
from edgetune.profiling.worker import LABELS, MeasurementJob, WorkerLost, WorkerProcess
from edgetune.utils.types import Tell

SLOW, LEAST_LIMIT_S = 12.0, 15.0  # times the expected seconds, and seconds, after which a worker is given up
CLEARLY_FASTER = 0.95
TRIALS = 3


def make_job(
    source: ModelSource, key: str, cache: Path, scratch: str | Path, artifacts: Mapping[str, str]
) -> MeasurementJob:
    """Return the job of measuring a backend with a model."""
    tokenizer = ensure_tokenizer(source, cache).parent.resolve()
    # The folder, not the name: it must mean the same to the worker, and the built-in has no other name.
    return MeasurementJob(key, str(source.folder.resolve()), artifacts, str(tokenizer), str(scratch))


def artifacts_folder(builder: ArtifactBuilder, depth: int) -> str:
    """Return the folder of training artifacts at a depth, which are exported if they are not cached."""
    return str(builder.get(len(LABELS), freeze_of(depth)).folder.resolve())


class BackendSession:
    """A backend that is being measured; `joules` and `seconds` of its timed calls are kept by operation."""

    def __init__(self, job: MeasurementJob, child: WorkerProcess, threads: int) -> None:
        self.job, self.child, self.threads = job, child, threads
        self.memory: Memory | None = None
        self.joules: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self._fixed: dict[str, float] = {}
        self._threads_tried: dict[str, float] = {}
        self._import_s = self._first_s = 0.0
        self._cut_depths: list[int] = []

    def open(self, watts: float | None, tdp: float | None, like: BackendSession | None) -> None:
        """Import the runtime and open the whole model.

        Fixed costs and threads are taken over from the same backend in another arithmetic, `like`.
        """
        self.child.ask("power", watts=watts, tdp=tdp)
        self._import_s = self.child.ask("import_runtime")
        if like is not None:
            self.threads, self._threads_tried = like.threads, dict(like._threads_tried)
            self._fixed = dict(like._fixed)
        self._first_s = self._open(0)

    def _open(self, depth: int, onnx: bool = True) -> float:
        seconds: float = self.child.ask("open", depth=depth, threads=self.threads, onnx=onnx)
        return seconds

    def visit(self, point: GridPoint, n: int, warm: bool, expected_s: float) -> list[float]:
        """Time `n` calls, after one that is not timed where `warm`."""
        limit_s = max(LEAST_LIMIT_S, SLOW * expected_s * (n + warm))
        answer = self.child.ask("run", limit_s, n=n, warm=warm, **point.place)
        seconds: list[float] = answer["s"]
        self.joules[point.op] = self.joules.get(point.op, 0.0) + answer["j"]
        self.seconds[point.op] = self.seconds.get(point.op, 0.0) + sum(seconds)
        return seconds

    def weigh(self, shapes: Sequence[tuple[int, int]], sampler: Sampler, most_s: float) -> None:
        """Measure memory on growing batches, first scored, then trained, as an arena never shrinks.

        A train step whose rows do not go through the model at once needs what those do that go together.

        Calls longer than `most_s` are left out, but for two; the sampler is told what calls cost.
        """
        lines: list[tuple[float, float]] = []
        most_tokens = traits_of(self.job.parts[0]).most_tokens if self.job.parts[2] == "cpu" else None
        for op in ("score", "train"):
            peaks: list[tuple[int, float]] = []
            for batch, length in shapes:
                point = GridPoint(self.job.key, op, batch, length, 0)
                if len(peaks) >= 2 and sampler.call_s(point) > most_s:
                    break
                answer = self.child.ask("run", n=1, warm=False, **point.place)
                sampler.hint(point, answer["s"][0])
                at_once = batch if op == "score" else rows_at_once(batch, length, most_tokens)
                peaks.append((at_once * length, answer["peak_mb"]))
            lines.append(_line(peaks))
        (_, score), (base, train) = lines
        self.memory = Memory(base_mb=round(base, 1), score_mb_per_token=score, train_mb_per_token=train)

    def save(self) -> None:
        """Measure writing the model, with ONNX and, where it can be left out, without; open again.

        What only the first opening pays (parts imported when they are needed) is a part of the import.
        """
        fixed = self._fixed
        fixed["save_s"] = fixed["save_model_s"] = self.child.ask("save", depth=0)
        fixed["open_s"] = self._open(0, onnx=False)
        fixed["import_s"] = self._import_s + max(0.0, self._first_s - fixed["open_s"])
        if not traits_of(self.job.parts[0]).exports:
            fixed["save_model_s"] = self.child.ask("save", depth=0)

    def choose_threads(self, candidates: Sequence[int], point: GridPoint) -> None:
        """Try numbers of threads at one point; the one that the backend was opened with wins a draw."""
        if self.job.parts[2] != "cpu" or len(candidates) < 2:
            return
        usual, tried = self.threads, {}
        for self.threads in candidates:
            self._open(0)
            answer = self.child.ask("run", n=TRIALS, warm=True, **point.place)
            tried[self.threads] = statistics.median(answer["s"])
        self._threads_tried = {str(threads): seconds for threads, seconds in tried.items()}
        fastest = min(tried, key=lambda threads: tried[threads])
        self.threads = fastest if tried[fastest] < CLEARLY_FASTER * tried[usual] else usual
        if candidates[-1] != self.threads:
            self._open(0)

    def open_depths(self, depths: Sequence[int]) -> str | None:
        """Open the model cut above layers; return why it cannot be, None if it can."""
        fixed, known = self._fixed, "open_depth_s" in self._fixed  # taken over
        fixed.setdefault("open_depth_s", fixed["open_s"])
        for depth in filter(None, depths):
            try:
                seconds = self._open(depth)
            except WorkerLost as error:
                if not self.child.alive:
                    raise
                return str(error)
            self._cut_depths.append(depth)
            if len(self._cut_depths) > 1 or known:
                continue
            fixed["open_depth_s"] = seconds
            if traits_of(self.job.parts[0]).exports:
                # Saving opens the whole model first: expect the dearer of the two.
                cut_s = self.child.ask("save", depth=depth)
                fixed["save_s"] = fixed["save_model_s"] = max(cut_s, fixed["save_s"])
        return None

    def leave(self) -> float:
        """End the worker as a run ends, with one backend open; return the seconds it took."""
        for depth in self._cut_depths:
            self.child.ask("close", depth=depth)
        return self.child.leave()

    def profile(self, sampler: Sampler, export_s: float) -> BackendProfile:
        """Put everything that was found together."""
        assert self.memory is not None
        backend, precision, device = self.job.parts
        export_s = export_s if traits_of(backend).exports else 0.0
        return BackendProfile(
            backend=backend,
            precision=precision,
            device=device,
            threads=self.threads,
            threads_tried=self._threads_tried,
            fixed=FixedCosts(export_s=export_s, **self._fixed),
            memory=self.memory,
            points=sampler.points(self.job.key),
        )


def _line(peaks: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return megabytes at no token, and per token, neither below zero."""
    if len(peaks) < 2:
        return peaks[0][1], 0.0
    tokens, megabytes = np.array(peaks).T
    base, slope = nnls(np.column_stack([np.ones(len(tokens)), tokens]), megabytes)
    return float(base), float(slope)


def open_session(
    stack: contextlib.ExitStack,
    source: ModelSource,
    backend: BackendProfile,
    depths: Sequence[int],
    cache: Path,
    scratch: str,
) -> BackendSession:
    """Start a worker and open a backend as its profile had it, whole and cut above layers.

    Raises:
        WorkerLost: it does not work here.
    """
    builder, folders = ArtifactBuilder(source, cache), {}
    if traits_of(backend.backend).exports:
        folders = {str(depth): artifacts_folder(builder, depth) for depth in depths}
    job = make_job(source, backend.key, cache, scratch, folders)
    child = stack.enter_context(WorkerProcess(job))
    child.ask("import_runtime")
    for depth in depths:
        child.ask("open", depth=depth, threads=backend.threads)
    return BackendSession(job, child, backend.threads)


class TimedMeasurement:
    """Sessions, their samples and the time left; a session whose worker fails is left out, with a note."""

    def __init__(self, n_layers: int, limit_s: float, tell: Tell, visit_s: float = VISIT_S) -> None:
        """Start the clock: all of it may take `limit_s`, the calls of a visit should last `visit_s`."""
        self._started = time.perf_counter()
        self.limit_s, self._tell_to = limit_s, tell
        self.sampler = Sampler(n_layers, np.random.default_rng(0), visit_s)
        self.sessions: dict[str, BackendSession] = {}
        self.notes: list[str] = []

    def left_s(self) -> float:
        """Return the seconds left."""
        return self.limit_s - (time.perf_counter() - self._started)

    def tell(self, text: str) -> None:
        """Say what is being measured."""
        self._tell_to(text, min(1.0, 1.0 - self.left_s() / self.limit_s))

    @contextlib.contextmanager
    def leaving_out(self, key: str) -> Iterator[None]:
        """Leave a backend out, with a note, when its worker fails."""
        try:
            yield
        except WorkerLost as error:
            self.notes.append(f"{key} could not be measured: {error}.")
            self.sessions.pop(key, None)
            self.sampler.drop(key)

    def rounds(self, ending_s: float = 0.0, stretch_s: float = 0.0) -> tuple[float, bool]:
        """Measure in rounds until all is sure or the time is up; return how busy others were.

        `ending_s` must be left at the end; the first visit of a point may be late by `stretch_s`.
        """
        watch = BusyWatch([session.child.pid for session in self.sessions.values()])
        number = 0
        while points := self.sampler.next_round(self.left_s() - ending_s):
            number += 1
            for place, point in enumerate(points, start=1):
                seen = self.sampler.samples.get(point)
                if seen is None or self.left_s() < (ending_s if seen.medians else -stretch_s):
                    continue
                self.tell(f"round {number}: {place} of {len(points)} points")
                with self.leaving_out(point.key):
                    n_calls, warm = self.sampler.calls(point)
                    expected_s = self.sampler.call_s(point)
                    seconds = self.sessions[point.key].visit(point, n_calls, warm, expected_s)
                    self.sampler.add(point, seconds)
            if self.left_s() < ending_s:
                break
        return watch.others()
