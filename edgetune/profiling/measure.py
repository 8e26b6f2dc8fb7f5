"""Measure this machine within a time limit and return its device profile.

start-up and report ─→ exports ─→ per backend: what it pays once ─→ rounds over all points ─→ DeviceProfile
"""

from __future__ import annotations

import contextlib
import datetime
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetune.backends.openers import find_opener, profiled_keys, traits_of
from edgetune.backends.ort.artifacts import ArtifactBuilder, artifacts_cache_key
from edgetune.config.settings import freeze_of
from edgetune.devices.cost_function import same_shape
from edgetune.devices.device_profile import (
    BackendProfile,
    DeviceProfile,
    Machine,
    MeasuredPoint,
    ModelShape,
    Power,
    first_implausible,
    profile_name,
    shape_of,
    this_machine,
)
from edgetune.energy.estimate import CORE_W, IDLE_RATE, tdp_w
from edgetune.models.source import resolve_model
from edgetune.profiling.profile_tables import Drift, time_ratios
from edgetune.profiling.sampling import GridPoint, grid_points
from edgetune.profiling.session import (
    BackendSession,
    TimedMeasurement,
    artifacts_folder,
    make_job,
    open_session,
)
from edgetune.profiling.worker import LABELS, MeasurementJob, WorkerLost, WorkerProcess
from edgetune.utils.cache import cache_subfolder
from edgetune.utils.errors import (
    EdgetuneError,
    MissingDependencyError,
    ProfileError,
    ResourceError,
    UsageError,
)
from edgetune.utils.formatting import counted
from edgetune.utils.machine import cache_folder, versions
from edgetune.utils.types import Tell

FULL_S, QUICK_S = 280.0, 54.0
LEAST_ROUNDS_S = 0.25  # of the limit goes to the rounds, even when everything before them was slow
ENDING_S = 2.0
STRETCH = 0.08
VISIT_S, QUICK_VISIT_S = 0.08, 0.04
IDLE_S = 1.5
TOO_SPREAD = 0.2
TRIAL_LENGTH = 16
MEMORY_SHARE = 0.7  # of what is free may be taken by all backends together
BF16_FEATURES = {"AVX512-BF16", "AMX", "BF16"}


@dataclass(frozen=True)
class MeasureGrid:
    """Tokens, examples and frozen layers (0 first) at which operations are measured, ascending."""

    lengths: tuple[int, ...]
    batches: tuple[int, ...]
    depths: tuple[int, ...]

    @property
    def growing(self) -> list[tuple[int, int]]:
        """Some batches (rows, tokens) from small to large, to see how memory grows."""
        batches, lengths = self.batches, self.lengths
        shapes = {(batches[0], lengths[0]), (batches[-1], lengths[(len(lengths) - 1) // 2])}
        return sorted(shapes | {(batches[-1], lengths[-1])})


def make_measure_grid(shape: ModelShape, max_length: int, quick: bool) -> MeasureGrid:
    """Return the grid for a model."""
    lengths, batches = ((16, 64), (8, 32)) if quick else ((8, 16, 32, 64, 128), (4, 32))
    # To the ends, so that nothing a plan may ask for lies outside: one layer alone is unlike the others.
    depths = {0, round(shape.n_layers / 2)} | (set() if quick else {max(0, shape.n_layers - 1)})
    depths -= {shape.n_layers}
    fitting = tuple(length for length in lengths if length <= max_length)
    return MeasureGrid(fitting or (max(1, max_length),), batches, tuple(sorted(depths)))


def choose_keys(wanted: Sequence[str], machine: Machine) -> tuple[list[str], list[str]]:
    """Return which backends to measure, and notes on those left out.

    Raises:
        UsageError: a wanted backend does not exist.
        MissingDependencyError: nothing that can train is installed.
    """
    for key in wanted:
        if key not in profiled_keys():
            names = ", ".join(profiled_keys())
            raise UsageError(f"--backend {key}: there is no such backend; choose from {names}.")
    has_bf16 = bool(BF16_FEATURES & set(machine.features))
    notes: list[str] = []
    keys: list[str] = []
    for key in wanted or profiled_keys():
        name, _, precision = key.partition("-")
        if find_opener(name).missing():
            notes.append(f"{key} was left out: its packages are not installed.")
        elif key.endswith("cuda") and machine.gpu is None and not wanted:
            continue
        elif precision == "bf16" and not has_bf16 and not wanted:
            notes.append(
                f"{key} was left out: this processor has no bf16 instructions, so bf16 is far slower."
            )
        else:
            keys.append(key)
    if not keys:
        raise MissingDependencyError(
            'No backend that could be measured is installed; run `pip install "edgetune[cpu]"` '
            "(`edgetune doctor` shows what is missing)."
        )
    return keys, notes


class Measurement(TimedMeasurement):
    """One measurement, from the first worker to the profile."""

    def __init__(
        self,
        tell: Tell,
        *,
        name: str | None = None,
        model: str | None = None,
        backends: Sequence[str] = (),
        quick: bool = False,
        watts: float | None = None,
        cache_dir: str | Path | None = None,
    ) -> None:
        """Find the model and the backends.

        Args:
            tell: is told of progress.
            name: of the profile (None: after the processor).
            model: None for the built-in one, a folder or a hub name (see `models.resolve_model`).
            backends: keys such as `ort-fp32` (none: all that make sense here).
            quick: a smaller grid: about a minute when idle, and the time of each export not cached yet.
            watts: what the machine draws, when the user knows it.
            cache_dir: where artifacts are kept.

        Raises:
            EdgetuneError: there is no such model or backend, or nothing is installed that trains.
        """
        self._source = resolve_model(model)
        self._machine, self._shape = this_machine(), shape_of(self._source)
        limit_s, visit_s = (QUICK_S, QUICK_VISIT_S) if quick else (FULL_S, VISIT_S)
        super().__init__(self._shape.n_layers, limit_s, tell, visit_s)
        self._name, self._quick, self._watts = name or profile_name(self._machine), quick, watts
        self._keys, self.notes = choose_keys(backends, self._machine)
        self._grid = make_measure_grid(self._shape, self._source.max_positions, quick)
        self._cache = cache_folder() if cache_dir is None else Path(cache_dir)
        self._tdp = tdp_w() if watts is None else None

    def run(self) -> DeviceProfile:
        """Measure everything.

        Raises:
            ResourceError: no backend could be measured.
            ProfileError: the machine was so busy that the figures contradict each other.
        """
        with contextlib.ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgetune-profile-")))
            self.tell("measuring start-up, plotting and idle power")
            every_run, idle = self._every_run(make_job(self._source, "none-fp32", self._cache, scratch, {}))
            folders, export_s = self._export_all(scratch)
            for key in self._keys:
                with self.leaving_out(key):
                    self._begin(stack, make_job(self._source, key, self._cache, scratch, folders))
            self._grid = self._fitting()
            self._open_depths(folders)
            self.limit_s += max(0.0, LEAST_ROUNDS_S * self.limit_s + ENDING_S - self.left_s())
            others, crowded = self.rounds(ENDING_S, STRETCH * self.limit_s)
            for key in list(self.sessions):
                with self.leaving_out(key):
                    if not self.sampler.has_whole(key):
                        raise WorkerLost("there was not enough time")
            every_run["exit_s"] = max(session.leave() for session in self._alive())
        if crowded:
            self.notes.append(f"Other processes used {others:.0%} of the processor during the measurement.")
        profile = self._assemble(every_run, idle, export_s, crowded)
        nonsense = first_implausible(profile)
        if nonsense is not None:
            raise ProfileError(
                f"The measurements are not plausible ({nonsense}): the machine is too busy. Measure again "
                "when nothing else is running."
            )
        return profile

    def _every_run(self, job: MeasurementJob) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return seconds of starting and of reporting, as a profile names them, and what `Worker.idle` says.

        Measured in fresh workers, so that imports are paid as a run pays them.
        """
        start_s = []
        for _ in range(1 if self._quick else 3):
            with WorkerProcess(job) as child:
                start_s.append(child.ask("start") - child.started_at)
        with WorkerProcess(job) as child:
            every_run = {"start_s": statistics.median(start_s), "report_s": child.ask("report")}
            child.ask("power", watts=self._watts, tdp=self._tdp)
            return every_run, child.ask("idle", seconds=IDLE_S)

    def _export_all(self, scratch: Path) -> tuple[dict[str, str], float]:
        """Get artifacts at every depth, from the cache where they are; time one export.

        A quick measurement takes the time of an export from an earlier one on this machine, if there is one.

        Returns:
            Folders of training artifacts for two labels by depth; seconds of one export.
        """
        if not any(traits_of(key.partition("-")[0]).exports for key in self._keys):
            return {}, 0.0
        source, builder = self._source, ArtifactBuilder(self._source, self._cache)
        key = artifacts_cache_key(source.fingerprint(), freeze_of(0))
        remembered = cache_subfolder(self._cache, "export-seconds") / f"{key}.txt"
        export_s: float | None = None
        if self._quick:
            with contextlib.suppress(OSError, ValueError):
                known_s = float(remembered.read_text(encoding="utf-8"))
                export_s = known_s if 0 < known_s < math.inf else None
        folders: dict[str, str] = {}
        for depth in self._grid.depths:
            frozen = f" with {counted(depth, 'layer')} frozen" if depth else ""
            fresh = builder.cached(len(LABELS), freeze_of(depth)) is None
            if fresh:
                self.tell(f"exporting {source.name}{frozen}")
            started = time.perf_counter()
            try:
                folders[str(depth)] = artifacts_folder(builder, depth)
            except EdgetuneError as error:
                if depth == 0:
                    raise
                self.notes.append(f"ort could not be exported{frozen}: {error}")
            if fresh and depth == 0:
                export_s = time.perf_counter() - started
        if export_s is None:
            self.tell(f"exporting {source.name} to measure how long it takes")
            started = time.perf_counter()
            ArtifactBuilder(source, scratch / "export").get(len(LABELS), freeze_of(0))
            export_s = time.perf_counter() - started
        remembered.write_text(f"{export_s:.3f}\n", encoding="utf-8")
        return folders, export_s

    def _begin(self, stack: contextlib.ExitStack, job: MeasurementJob) -> None:
        """Start a backend's worker and measure what it pays once."""
        grid, quick, key = self._grid, self._quick, job.key
        cores = self._machine.cores
        physical = min(self._machine.physical_cores or cores, cores)
        self.tell(f"{key}: importing and opening")
        session = BackendSession(job, stack.enter_context(WorkerProcess(job)), physical)
        same = (one for one in self.sessions.values() if one.job.parts[::2] == job.parts[::2])
        like = next(same, None) if quick else None  # the same backend and device in another arithmetic
        session.open(self._watts, self._tdp, like)
        self.sessions[key] = session
        self.tell(f"{key}: memory")
        session.weigh(grid.growing, self.sampler, 0.05 * self.limit_s)
        if like is not None:
            return
        self.tell(f"{key}: saving")
        session.save()
        self.tell(f"{key}: threads")
        length = next((length for length in grid.lengths if length >= TRIAL_LENGTH), grid.lengths[-1])
        trial = GridPoint(key, "train", grid.batches[0 if quick else -1], length, 0)
        session.choose_threads(sorted({1, physical, cores}), trial)

    def _alive(self) -> list[BackendSession]:
        if not self.sessions:
            raise ResourceError(f"No backend could be measured. {' '.join(self.notes)}")
        return list(self.sessions.values())

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
            self.notes.append(f"Rows of {lengths.pop()} tokens were left out: there is not enough memory.")
        return MeasureGrid(tuple(lengths), grid.batches, grid.depths)

    def _open_depths(self, folders: dict[str, str]) -> None:
        for session in self._alive():
            key, depths = session.job.key, list(self._grid.depths)
            if traits_of(session.job.parts[0]).exports:
                depths = [depth for depth in depths if str(depth) in folders]
            with self.leaving_out(key):
                self.tell(f"{key}: opening with frozen layers")
                problem = session.open_depths(depths)
                if problem is not None:
                    self.notes.append(f"{key} was measured without frozen layers only: {problem}.")
                    depths = [0]
                self.sampler.take(grid_points([key], self._grid.lengths, self._grid.batches, depths))

    def _power(self, idle: dict[str, Any]) -> Power:
        def mean_w(*ops: str) -> float | None:
            joules = sum(session.joules.get(op, 0.0) for session in self._alive() for op in ops)
            seconds = sum(session.seconds.get(op, 0.0) for session in self._alive() for op in ops)
            return joules / seconds if joules > 0 and seconds > 0 else None

        measured_w = mean_w("train") or mean_w("train", "score", "prefix") or idle["w"]
        train_w = measured_w or CORE_W * self._machine.cores
        return Power(
            train_w=train_w,
            score_w=mean_w("score", "prefix") or train_w,
            idle_w=idle["w"] or IDLE_RATE * train_w,
            source=idle["source"],
            measured=idle["measured"],
        )

    def _assemble(
        self, every_run: dict[str, Any], idle: dict[str, Any], export_s: float, crowded: bool
    ) -> DeviceProfile:
        spread = self.sampler.spread
        n_missing = sum(not found.medians for found in self.sampler.samples.values())
        if n_missing:
            self.notes.append(f"Not enough time for {counted(n_missing, 'point')} of the grid.")
        return DeviceProfile(
            name=self._name,
            date=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            quick=self._quick,
            machine=self._machine,
            versions=versions(),
            model=self._shape,
            **every_run,
            spread=spread,
            noisy=crowded or spread > TOO_SPREAD,
            notes=self.notes,
            power=self._power(idle),
            backends=[session.profile(self.sampler, export_s) for session in self._alive()],
        )


def measure_profile(**request: Any) -> DeviceProfile:
    """Measure this machine, as `edgetune profile` does; `devices.profile_store.save_profile` keeps it.

    Args:
        **request: as of `Measurement`, such as `quick`, `model` or `watts`.

    Raises:
        EdgetuneError: what cannot be measured, and why.
    """
    return Measurement(lambda text, share: None, **request).run()


CHECK_S = 27.0
LONGEST_CALL_S = 1.0


def check_drift(
    profile: DeviceProfile,
    model: str | None,
    cache_dir: Path | None,
    tell: Tell,
    limit_s: float | None = None,
) -> Drift:
    """Measure some points of a profile again, in half a minute, with its own model if `model` is None.

    Raises:
        EdgetuneError: the model is not there, or another one, or nothing of it could be measured here.
    """
    timed = TimedMeasurement(profile.model.n_layers, CHECK_S if limit_s is None else limit_s, tell)
    source = resolve_model(profile.model.name if model is None else model)
    if not same_shape(shape_of(source), profile.model):
        raise UsageError(
            f"The profile {profile.name} was measured with {profile.model.name}, not with "
            f"{source.name}; give the same model with --model."
        )
    cache = cache_folder() if cache_dir is None else cache_dir
    backends = {backend.key: backend for backend in profile.backends}
    keys, timed.notes = choose_keys(list(backends), profile.machine)
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="edgetune-check-"))
        for key in keys:
            with timed.leaving_out(key):
                timed.tell(f"opening {key}")
                timed.sessions[key] = open_session(stack, source, backends[key], (0,), cache, scratch)
                points = representative_points(backends[key])
                timed.sampler.take(GridPoint(key, *point.place) for point in points)
                timed.sampler.hint(GridPoint(key, *points[-1].place), points[-1].s)
        share, crowded = timed.rounds()
    if crowded:
        timed.notes.append(f"Other processes used {share:.0%} of the processor during the check.")
    now = {key: timed.sampler.points(key) for key in backends}
    ratios = time_ratios({key: backend.points for key, backend in backends.items()}, now)
    if not ratios:
        raise ResourceError(
            f"None of the operations in {profile.name} could be measured on this machine. "
            f"{' '.join(timed.notes)}"
        )
    return Drift(ratios, timed.notes)


def representative_points(backend: BackendProfile) -> list[MeasuredPoint]:
    """Choose a cheap point, a middle one and the dearest that is not too long, of `score` and `train`."""
    chosen: list[MeasuredPoint] = []
    for op in ("score", "train"):
        whole = [point for point in backend.points if point.op == op and point.depth == 0]
        found = sorted(whole, key=lambda point: point.s)
        short = [point for point in found if point.s <= LONGEST_CALL_S]
        middle = found[: len(short) // 2 + 1][-1]
        chosen += {id(point): point for point in (found[0], middle, *short[-1:])}.values()
    return chosen
