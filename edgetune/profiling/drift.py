"""How far a stored profile has drifted: a few of its points, measured again.

Per backend: the cheapest and a dear point of `score` and `train` at depth 0, in rounds, against the profile.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgetune.backends.model_loader import ensure_tokenizer
from edgetune.backends.ort.artifacts import ArtifactBuilder
from edgetune.config.settings import freeze_of
from edgetune.devices.cost_function import same_shape
from edgetune.devices.detect import shape_of
from edgetune.devices.device_profile import BackendProfile, DeviceProfile, MeasuredPoint, Operation
from edgetune.devices.profile_store import Match
from edgetune.models.source import ModelSource, resolve_model
from edgetune.profiling.backend_session import LIMIT_S, BackendSession
from edgetune.profiling.interference import BusyWatch
from edgetune.profiling.measurement_plan import choose_keys
from edgetune.profiling.opened_backend import LABELS, MeasurementJob
from edgetune.profiling.profile_tables import TimeRatio, make_time_ratio, ratio_rows
from edgetune.profiling.sampling import GridPoint, Sampler
from edgetune.profiling.worker_client import WorkerLost, WorkerProcess
from edgetune.utils.errors import ResourceError, UsageError
from edgetune.utils.machine import cache_folder
from edgetune.utils.tables import Section
from edgetune.utils.types import Tell

CHECK_S = 27.0
LONGEST_CALL_S = 1.0
DRIFTED, FAR_OFF = 0.10, 0.30
Verdict = Literal["holds", "has drifted", "is far off"]
_IN_WORDS: dict[Verdict, str] = {
    "holds": "still matches this machine",
    "has drifted": "has drifted",
    "is far off": "is far off",
}


@dataclass(frozen=True)
class Drift:
    """What a check found.

    Attributes:
        ratios: now over then, by backend and operation.
        notes: what could not be checked.
    """

    ratios: list[TimeRatio]
    notes: list[str]

    @property
    def worst(self) -> float:
        """Largest relative change of any operation."""
        return max((abs(ratio.mean - 1.0) for ratio in self.ratios), default=0.0)

    @property
    def verdict(self) -> Verdict:
        """What to think of the profile."""
        if self.worst > FAR_OFF:
            return "is far off"
        return "has drifted" if self.worst > DRIFTED else "holds"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        ratios = [ratio.to_dict() for ratio in self.ratios]
        return {"verdict": self.verdict, "worst": self.worst, "ratios": ratios, "notes": self.notes}


class DriftCheck:
    """One check, from the first worker to the verdict."""

    def __init__(
        self,
        profile: DeviceProfile,
        model: str | None,
        cache_dir: Path | None,
        tell: Tell,
        limit_s: float | None = None,
    ) -> None:
        """Find the model.

        Args:
            profile: what was measured once.
            model: the one to measure with (None: the one that the profile names).
            cache_dir: where artifacts are kept.
            tell: is told of progress.
            limit_s: how long it may take (None: `CHECK_S`).

        Raises:
            EdgetuneError: it is not there, or another one.
        """
        self._limit_s = CHECK_S if limit_s is None else limit_s
        self._started = time.perf_counter()
        self._profile, self._tell_to = profile, tell
        self._source = resolve_model(profile.model.name if model is None else model)
        if not same_shape(shape_of(self._source), profile.model):
            raise UsageError(
                f"The profile {profile.name} was measured with {profile.model.name}, not with "
                f"{self._source.name}; give the same model with --model."
            )
        self._cache = cache_folder() if cache_dir is None else cache_dir
        self._sampler = Sampler(profile.model.n_layers, np.random.default_rng(0))
        self._sessions: dict[str, BackendSession] = {}
        self._notes: list[str] = []

    def _left_s(self) -> float:
        return self._limit_s - (time.perf_counter() - self._started)

    def _tell(self, text: str) -> None:
        self._tell_to(text, min(1.0, 1.0 - self._left_s() / self._limit_s))

    def run(self) -> Drift:
        """Measure some points again, in half a minute.

        Raises:
            ResourceError: nothing of it could be measured here.
        """
        backends = [backend.key for backend in self._profile.backends]
        keys, self._notes = choose_keys(backends, self._profile.machine)
        with contextlib.ExitStack() as stack:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="edgetune-check-"))
            for key in keys:
                with self._leaving_out(key):
                    self._begin(stack, key, scratch)
            self._rounds()
        ratios = self._ratios()
        if not ratios:
            raise ResourceError(
                f"None of the operations in {self._profile.name} could be measured on this machine. "
                f"{' '.join(self._notes)}"
            )
        return Drift(ratios, self._notes)

    @contextlib.contextmanager
    def _leaving_out(self, key: str) -> Iterator[None]:
        try:
            yield
        except WorkerLost as error:
            self._notes.append(f"{key} could not be checked: {error}.")
            self._sessions.pop(key, None)
            self._sampler.drop(key)

    def _begin(self, stack: contextlib.ExitStack, key: str, scratch: str) -> None:
        backend = self._profile.backend(key)
        assert backend is not None
        self._tell(f"opening {key}")
        self._sessions[key] = open_session(stack, self._source, backend, (0,), self._cache, scratch)
        points = representative_points(backend)
        self._sampler.take(GridPoint.of(key, point) for point in points)
        self._sampler.hint(GridPoint.of(key, points[-1]), points[-1].s)

    def _rounds(self) -> None:
        watch = BusyWatch([session.child.pid for session in self._sessions.values()])
        while grid_points := self._sampler.next_round(self._left_s()):
            for grid_point in grid_points:
                if grid_point.key not in self._sessions or self._left_s() < 0:
                    continue
                self._tell("measuring")
                with self._leaving_out(grid_point.key):
                    n_calls, warm = self._sampler.calls(grid_point)
                    expected_s = self._sampler.call_s(grid_point)
                    self._sampler.add(
                        grid_point,
                        self._sessions[grid_point.key].visit(grid_point, n_calls, warm, expected_s),
                    )

        share, crowded = watch.others()
        if crowded:
            self._notes.append(f"Other processes used {share:.0%} of the processor during the check.")

    def _ratios(self) -> list[TimeRatio]:
        found = []
        for backend in self._profile.backends:
            then = {GridPoint.of(backend.key, point): point.s for point in backend.points}
            for op in ("score", "train"):
                now = {
                    GridPoint.of(backend.key, p): p.s for p in self._sampler.points(backend.key) if p.op == op
                }
                if now:
                    found.append(
                        make_time_ratio(
                            backend.key, op, [now[grid_point] / then[grid_point] for grid_point in now]
                        )
                    )
        return found


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
    folders = {}
    if backend.backend == "ort":
        builder = ArtifactBuilder(source, cache)
        for depth in depths:
            folders[str(depth)] = str(builder.get(len(LABELS), freeze_of(depth)).folder.resolve())
    tokenizer = str(ensure_tokenizer(source, cache).parent.resolve())
    job = MeasurementJob(
        *(backend.backend, backend.precision, backend.device, str(source.folder.resolve())),
        *(folders, tokenizer, scratch),
    )
    child = stack.enter_context(WorkerProcess(job))
    child.ask("import", LIMIT_S)
    for depth in depths:
        child.ask("open", LIMIT_S, depth=depth, threads=backend.threads)
    return BackendSession(job, child, None, None, backend.threads)


def representative_points(backend: BackendProfile) -> list[MeasuredPoint]:
    """Choose a cheap point, a middle one and the dearest that is not too long, of `score` and `train`."""
    chosen: list[MeasuredPoint] = []
    ops: tuple[Operation, ...] = ("score", "train")
    for op in ops:
        found = sorted(
            (point for point in backend.points if point.op == op and point.depth == 0), key=lambda p: p.s
        )
        short = [point for point in found if point.s <= LONGEST_CALL_S]
        middle = found[: len(short) // 2 + 1][-1]
        chosen += {id(point): point for point in (found[0], middle, *short[-1:])}.values()
    return chosen


def drift_sections(match: Match, drift: Drift) -> list[Section]:
    """Return the tables of a check, the verdict first."""
    profile = match.profile
    advice = "" if drift.verdict == "holds" else "; measure again with `edgetune profile`"
    says = (
        f"{profile.name} {_IN_WORDS[drift.verdict]}: times differ by up to {100 * drift.worst:.0f} %{advice}"
    )
    remarks = [*match.reasons, *drift.notes]
    sections = [
        Section("Verdict", [(says,)]),
        Section(
            "Time now relative to the profile",
            ratio_rows(drift.ratios),
            ("backend", "operation", "ratio", "range", "points"),
            True,
        ),
        Section("Remarks", [(remark,) for remark in remarks]),
    ]
    return [section for section in sections if section.rows]
