"""The training times of earlier runs relative to the profile, recorded for later plans.

    record_observed_run ─→ speeds.json ─→ load_observed_runs ─→ slowdown_ratio ─→ the costs of a plan

A profile describes a machine at one moment. Since then the machine may have become warmer, busier or slower,
and a model that was not profiled is priced by a fit; a run of some minutes measures the effect of both. The
most recent runs count most.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgetune.utils.cache import read_cached_json, write_cached_json
from edgetune.utils.formatting import duration

FILE = "speeds.json"
MOST_KEPT = 8
FEWEST_MEASURED_STEPS = 9
LONG_S = 30.0
HALF_LIFE_S = 1800.0
OLD_WEIGHT = 0.05
PROFILE_WEIGHT, DOUBTED_WEIGHT = 0.1, 0.01
NOW_WEIGHT = 0.5
"""Weight of a measurement at the start of this run, on the machine that was profiled."""
SURE_WEIGHT = 0.3
WORTH_SAYING = 0.03
MOST_OFF, OWN_MOST_OFF = 1000.0, 5.0  # largest believable factors, the first even for an unprofiled model


@dataclass(frozen=True, slots=True)
class ObservedRun:
    """A run's end (seconds since 1970), training time over the profiled time, and training seconds."""

    at_s: float
    ratio: float
    measured_s: float


Kept = dict[str, dict[str, list[tuple[float, float, float]]]]
"""Contents of the file: by `DeviceCosts.speeds_key` and backend, the three figures of each run."""
Runs = Mapping[str, Sequence[ObservedRun]]
"""By backend, the oldest first."""


def slowdown_ratio(
    runs: Sequence[ObservedRun], now_s: float, profiled: float = 1.0, profile_weight: float = PROFILE_WEIGHT
) -> float:
    """Return how many times as long as profiled training should take now: a mean of logarithms.

    A run of half a minute or more has weight 1 when it has just ended, half of that after half an hour, and
    never less than 0.05; the weight of a shorter run is proportionally smaller.

    Args:
        runs: earlier runs of a backend.
        now_s: seconds since 1970.
        profiled: the ratio assumed without them.
        profile_weight: its weight: 0.1 if the profile is of this machine and model, 0.5 if that was measured
            again just now, else 0.01.
    """
    weights = [_weight(run, now_s) for run in runs]
    logs = [weight * math.log(run.ratio / profiled) for weight, run in zip(weights, runs, strict=True)]
    return profiled * math.exp(sum(logs) / (sum(weights) + profile_weight))


def _weight(run: ObservedRun, now_s: float) -> float:
    fresh: float = 0.5 ** (max(0.0, now_s - run.at_s) / HALF_LIFE_S)
    return max(OLD_WEIGHT, fresh) * min(1.0, run.measured_s / LONG_S)


@dataclass(frozen=True)
class Calibration:
    """What was measured on this machine since it was profiled, by backend, as multiples of the profiled time.

    Attributes:
        probed: measured by a probe at the start of a run; empty if none was made.
        runs: measured by training, the oldest first.
        now_s: seconds since 1970.
        profile_weight: see `slowdown_ratio`.
        own_machine: whether the profile is of this very machine, even if of another model.
    """

    probed: Mapping[str, float]
    runs: Runs
    now_s: float
    profile_weight: float = PROFILE_WEIGHT
    own_machine: bool = False

    def scale(self, key: str) -> float:
        """Return how many times as long training should take now."""
        # What slows one backend down slows the others too.
        drifts = [self._drift(key)] if key in self.runs else [self._drift(other) for other in self.runs]
        return self.probed.get(key, 1.0) * (statistics.geometric_mean(drifts) if drifts else 1.0)

    def _drift(self, key: str) -> float:
        """Return the factor by which the runs of a backend change the ratio assumed without them."""
        before = self.probed.get(key, 1.0)
        return slowdown_ratio(self.runs[key], self.now_s, before, self.profile_weight) / before

    @property
    def slowness(self) -> float:
        """How many times as long everything may take that no probe has timed; at least 1."""
        if self.own_machine or not self.probed:
            return 1.0
        return max(1.0, statistics.fmean(self.probed.values()))

    @property
    def known(self) -> frozenset[str]:
        """Backends that were probed, or ran here recently for more than a moment."""
        sums = {key: sum(_weight(run, self.now_s) for run in runs) for key, runs in self.runs.items()}
        return frozenset(self.probed) | {key for key, weight in sums.items() if weight >= SURE_WEIGHT}

    @property
    def note(self) -> str:
        """Say in a sentence how earlier runs correct the profile; "" if they agree with it."""
        if all(abs(self._drift(key) - 1.0) < WORTH_SAYING for key in self.runs):
            return ""
        last_s = self.now_s - max(run.at_s for runs in self.runs.values() for run in runs)
        times = ", ".join(f"{key} {self.scale(key):.2f}" for key in self.runs)
        return (
            f"Earlier runs on this machine (the last one {duration(max(0.0, last_s))} ago) correct the "
            f"profile; expected training times relative to it: {times}."
        )


NOTHING_SEEN = Calibration({}, {}, 0.0)


def load_observed_runs(cache_dir: Path, key: str, most_off: float = MOST_OFF) -> dict[str, list[ObservedRun]]:
    """Return the runs that are recorded for a `DeviceCosts.speeds_key`, by backend.

    Runs that differ from the profile by more than the factor `most_off` are left out.
    """
    found: dict[str, list[ObservedRun]] = {}
    for backend, runs in read_cached_json(cache_dir / FILE, Kept).get(key, {}).items():
        for at_s, ratio, measured_s in runs:
            if math.isfinite(at_s) and 1 / most_off < ratio < most_off and measured_s > 0:
                found.setdefault(backend, []).append(ObservedRun(at_s, ratio, measured_s))
    return found


def record_observed_run(cache_dir: Path, key: str, backend: str, ran: ObservedRun) -> None:
    """Record the speed of a run; only the last `MOST_KEPT` runs are kept."""
    known = read_cached_json(cache_dir / FILE, Kept)
    mine = known.setdefault(key, {})
    mine[backend] = [*mine.get(backend, []), (ran.at_s, ran.ratio, ran.measured_s)][-MOST_KEPT:]
    write_cached_json(cache_dir / FILE, known)
