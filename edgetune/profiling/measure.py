"""Measure this machine within a time limit and return its device profile.

    chores ─→ export ─→ per backend: import, open, memory, save, threads, cut ─→ rounds over all points
                        (one worker process each, all of them kept for the rounds)

Rounds take turns between backends and points, so that a busy moment bends a little of everything.
"""

from __future__ import annotations

import contextlib
import datetime
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgetune.backends.model_loader import ensure_tokenizer
from edgetune.devices.detect import profile_name, shape_of, this_machine
from edgetune.devices.device_profile import DeviceProfile, Machine, ModelShape, Power, first_implausible
from edgetune.energy.estimate import CORE_W, IDLE_RATE, tdp_w
from edgetune.models.source import ModelSource, resolve_model
from edgetune.profiling.backend_session import BackendSession
from edgetune.profiling.fixed_costs import PerRunCosts, measure_per_run_costs
from edgetune.profiling.interference import BusyWatch
from edgetune.profiling.measurement_plan import (
    Exported,
    MeasureGrid,
    choose_keys,
    export_all,
    make_measure_grid,
)
from edgetune.profiling.opened_backend import MeasurementJob
from edgetune.profiling.sampling import GridPoint, Sampler, grid_points
from edgetune.profiling.worker_client import WorkerLost, WorkerProcess
from edgetune.utils.errors import ProfileError, ResourceError
from edgetune.utils.formatting import counted
from edgetune.utils.machine import cache_folder, versions
from edgetune.utils.types import Tell

FULL_S, QUICK_S = 280.0, 54.0
LEAST_ROUNDS_S = 0.25  # of the limit goes to the rounds, even when everything before them was slow
ENDING_S = 2.0
STRETCH = 0.08
VISIT_S, QUICK_VISIT_S = 0.08, 0.04
TOO_SPREAD = 0.2
TRIAL_LENGTH = 16
MEMORY_SHARE = 0.7  # of what is free may be taken by all backends together


@dataclass(frozen=True)
class Request:
    """What to measure.

    Attributes:
        name: of the profile (None: after the processor).
        model: None for the built-in one, a folder or a hub name (see `models.resolve_model`).
        backends: keys such as `ort-fp32` (none: all that make sense here).
        quick: a smaller grid: about a minute when idle, and the time of each export that is not cached yet.
        watts: what the machine draws, when the user knows it.
        cache_dir: where artifacts are kept.
        grid: instead of the usual one.
    """

    name: str | None = None
    model: str | None = None
    backends: tuple[str, ...] = ()
    quick: bool = False
    watts: float | None = None
    cache_dir: Path | None = None
    grid: MeasureGrid | None = None


class Measurement:
    """One measurement, from the first worker to the profile."""

    def __init__(self, request: Request, tell: Tell) -> None:
        """Find the model and the backends.

        Raises:
            EdgetuneError: there is no such model or backend, or nothing is installed that trains.
        """
        self._started = time.perf_counter()
        self._request, self._tell_to = request, tell
        self._limit_s = QUICK_S if request.quick else FULL_S
        self.machine: Machine = this_machine()
        self._source: ModelSource = resolve_model(request.model)
        self.shape: ModelShape = shape_of(self._source)
        self._keys, self._notes = choose_keys(request.backends, self.machine)
        usual = make_measure_grid(self.shape, self._source.max_positions, request.quick)
        self._grid = usual if request.grid is None else request.grid
        self._cache = cache_folder() if request.cache_dir is None else request.cache_dir
        self._sessions: dict[str, BackendSession] = {}
        self._sampler = Sampler(
            self.shape.n_layers, np.random.default_rng(0), QUICK_VISIT_S if request.quick else VISIT_S
        )

    def _left_s(self) -> float:
        return self._limit_s - (time.perf_counter() - self._started)

    def _tell(self, text: str) -> None:
        self._tell_to(text, min(1.0, 1.0 - self._left_s() / self._limit_s))

    def run(self) -> DeviceProfile:
        """Measure everything.

        Raises:
            ResourceError: no backend could be measured.
            ProfileError: the machine was so busy that the figures contradict each other.
        """
        with contextlib.ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgetune-profile-")))
            tdp = tdp_w() if self._request.watts is None else None
            self._tell("measuring start-up, tokenization and plotting")
            idle_job = self._job("none-fp32", scratch, Exported({}, 0.0, []))
            chores = measure_per_run_costs(
                idle_job, 1 if self._request.quick else 3, self._request.watts, tdp
            )
            exported = Exported({}, 0.0, [])
            if any(key.startswith("ort") for key in self._keys):
                exported = export_all(
                    *(self._source, self._grid.depths, self._cache, scratch, self._request.quick, self._tell),
                )
            self._notes += exported.notes
            for key in self._keys:
                self._begin(stack, self._job(key, scratch, exported), tdp)
            self._grid = self._fitting()
            self._open_depths(exported)
            others, crowded = self._rounds()
            self._drop_unmeasured()
            exit_s = max(session.leave() for session in self._alive())
        profile = self._assemble(chores, exported.export_s, exit_s, others, crowded)
        nonsense = first_implausible(profile)
        if nonsense is not None:
            raise ProfileError(
                f"The measurements are not plausible ({nonsense}): the machine is too busy. Measure again "
                "when nothing else is running."
            )
        return profile

    def _job(self, key: str, scratch: Path, exported: Exported) -> MeasurementJob:
        backend, precision, *device = key.split("-")
        tokenizer = ensure_tokenizer(self._source, self._cache).parent.resolve()
        # The folder, not the name: it must mean the same to the worker, and the built-in has no other name.
        model = str(self._source.folder.resolve())
        return MeasurementJob(
            *(backend, precision, device[0] if device else "cpu", model),
            *(exported.folders, str(tokenizer), str(scratch)),
        )

    def _begin(self, stack: contextlib.ExitStack, job: MeasurementJob, tdp: float | None) -> None:
        """Start a backend's worker and measure what it pays once."""
        cores = self.machine.cores
        physical = min(self.machine.physical_cores or cores, cores)
        grid = self._grid
        with self._leaving_out(job.key):
            self._tell(f"{job.key}: importing and opening")
            child = stack.enter_context(WorkerProcess(job))
            session = BackendSession(job, child, self._request.watts, tdp, threads=physical)
            like = self._alike(job) if self._request.quick else None
            session.open(like)
            self._sessions[job.key] = session
            self._tell(f"{job.key}: memory")
            session.weigh(grid.growing, self._sampler, 0.05 * self._limit_s)
            if like is not None:
                return
            self._tell(f"{job.key}: saving")
            session.save()
            self._tell(f"{job.key}: threads")
            length = next((length for length in grid.lengths if length >= TRIAL_LENGTH), grid.lengths[-1])
            trial = GridPoint(job.key, "train", grid.batches[0 if self._request.quick else -1], length, 0)
            session.choose_threads(sorted({1, physical, cores}), trial)

    def _alike(self, job: MeasurementJob) -> BackendSession | None:
        """Find the same backend on the same device in another arithmetic."""
        same = (job.backend, job.device)
        found = (item for item in self._sessions.values() if (item.job.backend, item.job.device) == same)
        return next(found, None)

    @contextlib.contextmanager
    def _leaving_out(self, key: str) -> Iterator[None]:
        """Leave a backend out, with a note, when its worker fails."""
        try:
            yield
        except WorkerLost as error:
            self._notes.append(f"{key} was left out: {error}.")
            self._sessions.pop(key, None)
            self._sampler.drop(key)

    def _alive(self) -> list[BackendSession]:
        if not self._sessions:
            raise ResourceError(f"No backend could be measured. {' '.join(self._notes)}")
        return list(self._sessions.values())

    def _fitting(self) -> MeasureGrid:
        """Leave out the longest rows when all backends together would not fit into memory."""
        import psutil

        grid, free_mb = self._grid, MEMORY_SHARE * psutil.virtual_memory().available / 1e6
        weights = [session.memory for session in self._alive() if session.memory is not None]
        lengths = list(grid.lengths)
        while len(lengths) > 2:
            tokens = lengths[-1] * grid.batches[-1]
            per_depth = sum(weight.base_mb + weight.train_mb_per_token * tokens for weight in weights)
            if per_depth * len(grid.depths) <= free_mb:
                break
            self._notes.append(f"Rows of {lengths.pop()} tokens were left out: there is not enough memory.")
        return MeasureGrid(tuple(lengths), grid.batches, grid.depths)

    def _open_depths(self, exported: Exported) -> None:
        chosen: list[GridPoint] = []
        for session in self._alive():
            depths = list(self._grid.depths)
            if session.job.backend == "ort":
                depths = [depth for depth in depths if str(depth) in exported.folders]
            with self._leaving_out(session.key):
                self._tell(f"{session.key}: opening with frozen layers")
                problem = session.open_depths(depths)
                if problem is not None:
                    self._notes.append(f"{session.key} was measured without frozen layers only: {problem}.")
                    depths = [0]
                chosen += grid_points([session.key], self._grid.lengths, self._grid.batches, depths)
        self._sampler.take(chosen)

    def _rounds(self) -> tuple[float, bool]:
        """Measure in rounds until all is sure or the time is up; return how busy others were."""
        self._limit_s += max(0.0, LEAST_ROUNDS_S * self._limit_s + ENDING_S - self._left_s())
        watch = BusyWatch([session.child.pid for session in self._alive()])
        number = 0
        while batch := self._sampler.next_round(self._left_s() - ENDING_S):
            number += 1
            for place, grid_point in enumerate(batch):
                if grid_point.key not in self._sessions or self._left_s() < self._least_left_s(grid_point):
                    continue
                self._tell(f"round {number}: {place + 1} of {len(batch)} points")
                with self._leaving_out(grid_point.key):
                    n_calls, warm = self._sampler.calls(grid_point)
                    expected_s = self._sampler.call_s(grid_point)
                    seconds = self._sessions[grid_point.key].visit(grid_point, n_calls, warm, expected_s)
                    self._sampler.add(grid_point, seconds)
            if self._left_s() < ENDING_S:
                break
        return watch.others()

    def _least_left_s(self, grid_point: GridPoint) -> float:
        """Return how much time must be left: a spot's first visit may stretch the limit a little."""
        return ENDING_S if self._sampler.samples[grid_point].medians else -STRETCH * self._limit_s

    def _drop_unmeasured(self) -> None:
        for key in list(self._sessions):
            if not self._sampler.has_whole(key):
                with self._leaving_out(key):
                    raise WorkerLost("there was not enough time")

    def _power(self, chores: PerRunCosts) -> Power:
        def mean_w(ops: Sequence[str]) -> float | None:
            joules = sum(session.joules.get(op, 0.0) for session in self._alive() for op in ops)
            seconds = sum(session.seconds.get(op, 0.0) for session in self._alive() for op in ops)
            return joules / seconds if joules > 0 and seconds > 0 else None

        train_w = (
            mean_w(["train"])
            or mean_w(["train", "score", "prefix"])
            or chores.idle_w
            or CORE_W * self.machine.cores
        )
        return Power(
            train_w=train_w,
            score_w=mean_w(["score", "prefix"]) or train_w,
            idle_w=chores.idle_w or IDLE_RATE * train_w,
            source=chores.source,
            measured=chores.measured,
        )

    def _assemble(
        self, chores: PerRunCosts, export_s: float, exit_s: float, others: float, crowded: bool
    ) -> DeviceProfile:
        spread = self._sampler.spread
        missing = [grid_point for grid_point, found in self._sampler.samples.items() if not found.medians]
        if missing:
            self._notes.append(f"Not enough time for {counted(len(missing), 'point')} of the grid.")
        if crowded:
            self._notes.append(f"Other processes used {others:.0%} of the processor during the measurement.")
        backends = [session.profile(self._sampler, export_s) for session in self._alive()]
        return DeviceProfile(
            name=self._request.name or profile_name(self.machine),
            date=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            quick=self._request.quick,
            machine=self.machine,
            versions=versions(),
            model=self.shape,
            start_s=chores.start_s,
            tokenize_s_per_token=chores.tokenize_s_per_token,
            meta_s_per_example=chores.meta_s_per_example,
            report_s=chores.report_s,
            exit_s=exit_s,
            spread=spread,
            noisy=crowded or spread > TOO_SPREAD,
            notes=self._notes,
            power=self._power(chores),
            backends=backends,
        )


def measure(request: Request, tell: Tell) -> DeviceProfile:
    """Measure this machine.

    Raises:
        EdgetuneError: what cannot be measured, and why.
    """
    return Measurement(request, tell).run()


def measure_profile(**request: Any) -> DeviceProfile:
    """Measure this machine, as `edgetune profile` does; `profiles.store.save` keeps what comes out.

    Args:
        **request: fields of `Request`, such as `quick`, `model` or `watts`.
    """
    if request.get("cache_dir") is not None:
        request["cache_dir"] = Path(request["cache_dir"])
    return measure(Request(**request), lambda text, share: None)
