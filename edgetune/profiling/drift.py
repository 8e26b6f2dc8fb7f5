"""How far a stored profile has drifted: a few of its points, measured again."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from edgetune.devices.cost_function import same_shape
from edgetune.devices.detect import shape_of
from edgetune.devices.device_profile import BackendProfile, DeviceProfile, MeasuredPoint
from edgetune.devices.profile_store import Match
from edgetune.models.source import resolve_model
from edgetune.profiling.measure import choose_keys
from edgetune.profiling.profile_tables import TimeRatio, ratio_section
from edgetune.profiling.sampling import GridPoint
from edgetune.profiling.session import TimedMeasurement, open_session
from edgetune.utils.errors import ResourceError, UsageError
from edgetune.utils.machine import cache_folder
from edgetune.utils.tables import Section
from edgetune.utils.types import Tell

CHECK_S = 27.0
LONGEST_CALL_S = 1.0
DRIFTED, FAR_OFF = 0.10, 0.30
Verdict = Literal["holds", "has drifted", "is far off"]


@dataclass(frozen=True)
class Drift:
    """What a check found: times now over then, by backend and operation, and what could not be checked."""

    ratios: list[TimeRatio]
    notes: list[str]

    @property
    def worst(self) -> float:
        """Largest relative change of any operation."""
        return max((abs(ratio.mean - 1.0) for ratio in self.ratios), default=0.0)

    @property
    def verdict(self) -> Verdict:
        """What to think of the profile."""
        verdict: Verdict = get_args(Verdict)[(self.worst > DRIFTED) + (self.worst > FAR_OFF)]
        return verdict

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        ratios = [ratio.to_dict() for ratio in self.ratios]
        return {"verdict": self.verdict, "worst": self.worst, "ratios": ratios, "notes": self.notes}


class DriftCheck(TimedMeasurement):
    """One check, from the first worker to the verdict."""

    def __init__(
        self,
        profile: DeviceProfile,
        model: str | None,
        cache_dir: Path | None,
        tell: Tell,
        limit_s: float | None = None,
    ) -> None:
        """Find the model to measure with (None: the one that the profile names).

        Raises:
            EdgetuneError: it is not there, or another one.
        """
        super().__init__(profile.model.n_layers, CHECK_S if limit_s is None else limit_s, tell)
        self._profile, self._source = profile, resolve_model(profile.model.name if model is None else model)
        if not same_shape(shape_of(self._source), profile.model):
            raise UsageError(
                f"The profile {profile.name} was measured with {profile.model.name}, not with "
                f"{self._source.name}; give the same model with --model."
            )
        self._cache = cache_folder() if cache_dir is None else cache_dir

    def run(self) -> Drift:
        """Measure some points again, in half a minute.

        Raises:
            ResourceError: nothing of it could be measured here.
        """
        backends = {backend.key: backend for backend in self._profile.backends}
        keys, self._notes = choose_keys(list(backends), self._profile.machine)
        with contextlib.ExitStack() as stack:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="edgetune-check-"))
            for key in keys:
                with self._leaving_out(key):
                    self._tell(f"opening {key}")
                    session = open_session(stack, self._source, backends[key], (0,), self._cache, scratch)
                    self._sessions[key] = session
                    points = representative_points(backends[key])
                    self._sampler.take(GridPoint.of(key, point) for point in points)
                    self._sampler.hint(GridPoint.of(key, points[-1]), points[-1].s)
            share, crowded = self._rounds()
        if crowded:
            self._notes.append(f"Other processes used {share:.0%} of the processor during the check.")
        then = {GridPoint.of(key, point): point.s for key in backends for point in backends[key].points}
        ratios: dict[tuple[str, str], list[float]] = {}
        for key in backends:
            for point in self._sampler.points(key):
                ratios.setdefault((key, point.op), []).append(point.s / then[GridPoint.of(key, point)])
        if not ratios:
            raise ResourceError(
                f"None of the operations in {self._profile.name} could be measured on this machine. "
                f"{' '.join(self._notes)}"
            )
        return Drift([TimeRatio.of(*where, found) for where, found in ratios.items()], self._notes)


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


def drift_sections(match: Match, drift: Drift) -> list[Section]:
    """Return the tables of a check, the verdict first."""
    says = "still matches this machine" if drift.verdict == "holds" else drift.verdict
    advice = "" if drift.verdict == "holds" else "; measure again with `edgetune profile`"
    worst = f"times differ by up to {100 * drift.worst:.0f} %{advice}"
    sections = [
        Section("Verdict", [(f"{match.profile.name} {says}: {worst}",)]),
        ratio_section("Time now relative to the profile", drift.ratios),
        Section("Remarks", [(remark,) for remark in (*match.reasons, *drift.notes)]),
    ]
    return [section for section in sections if section.rows]
