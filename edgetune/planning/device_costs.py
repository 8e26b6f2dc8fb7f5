"""Fits a stored profile to this machine, its installed runtimes, a model and the speed of the moment.

    record_observed_run ─→ speeds.json ─→ load_observed_runs ─→ slowdown_ratio ─→ the costs of a plan

A profile describes a machine at one moment. Since then the machine may have become warmer, busier or slower,
and a model that was not profiled is priced by a fit; a run of some minutes measures the effect of both. The
most recent runs count most.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from edgetune.backends.openers import backend_names, find_opener, traits_of
from edgetune.devices.cost_function import CostFunction, same_shape
from edgetune.devices.device_profile import (
    BackendProfile,
    DeviceProfile,
    FixedCosts,
    Memory,
    ModelShape,
    shape_of,
    this_machine,
)
from edgetune.devices.profile_store import Match, find_for_this_machine, nominal_match
from edgetune.models.source import ModelSource, has_separate_layers
from edgetune.planning.plan import BackendCosts, DeviceCosts
from edgetune.utils.cache import read_cached_json, write_cached_json
from edgetune.utils.errors import ProfileError
from edgetune.utils.formatting import duration
from edgetune.utils.machine import versions

SAME_UNCERTAINTY = 0.10
OTHER_MODEL_UNCERTAINTY = 0.35
PROBED_UNCERTAINTY = 0.2
COPIES_MB_PER_PARAMETER = 16e-6
MEASURED_PARAMETERS = 22_713_728
"""Parameters of the built-in model, with which nominal costs were measured."""

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


class ObservedRun(NamedTuple):
    """A run's end (seconds since 1970), training time over the profiled time, and training seconds."""

    at_s: float
    ratio: float
    measured_s: float


Kept = dict[str, dict[str, list[ObservedRun]]]
"""Contents of the file, by `DeviceCosts.speeds_key` and backend."""
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
        for run in runs:
            if math.isfinite(run.at_s) and 1 / most_off < run.ratio < most_off and run.measured_s > 0:
                found.setdefault(backend, []).append(run)
    return found


def record_observed_run(cache_dir: Path, key: str, backend: str, ran: ObservedRun) -> None:
    """Record the speed of a run; only the last `MOST_KEPT` runs are kept."""
    known = read_cached_json(cache_dir / FILE, Kept)
    mine = known.setdefault(key, {})
    mine[backend] = [*mine.get(backend, []), ran][-MOST_KEPT:]
    write_cached_json(cache_dir / FILE, known)


Scales = dict[str, float]
"""Multiples of the profiled time, by backend."""


def find_device(
    source: ModelSource,
    watts: float | None = None,
    probe: Callable[[Match, ModelShape], Scales] | None = None,
    recall: Callable[[str, float], Runs] | None = None,
    scales: Scales | None = None,
) -> DeviceCosts:
    """Find the stored profile that fits this machine best; a nominal one if none is stored.

    Args:
        source: the model to train.
        watts: what the user says the machine draws.
        probe: measures how many times as long training takes here, by backend; None: it is not measured.
        recall: returns earlier runs, given `DeviceCosts.speeds_key` and the factor they may be off by.
        scales: multiples of the profiled time, by backend, in place of both; those that a resumed run was
            planned with.
    """
    shape = shape_of(source)
    machine = this_machine()
    nominal = {name: traits.nominal for name in backend_names() if (traits := traits_of(name)).trains}
    match = find_for_this_machine(shape, machine) or nominal_match(shape, machine, nominal)
    if scales is not None:
        seen = Calibration(scales, {}, time.time())
    else:
        like_this = match.fit != "other" and same_shape(match.profile.model, shape)
        probed = {} if probe is None else probe(match, shape)
        most_off = OWN_MOST_OFF if like_this else MOST_OFF
        runs = {} if recall is None else recall(speeds_key(match.profile, shape), most_off)
        measured_now = bool(probed) and is_own(match, shape)
        weight = NOW_WEIGHT if measured_now else PROFILE_WEIGHT if like_this else DOUBTED_WEIGHT
        seen = Calibration(probed, runs, time.time(), weight, own_machine=match.fit == "same")
    device = fit_device(match, shape, watts, seen)
    for name in backend_names():
        if not traits_of(name).trains:
            device = _with_forward_only(device, name, source, seen.slowness)
    return device if has_separate_layers(source) else replace(device, depths=(0,))


def _with_forward_only(device: DeviceCosts, name: str, source: ModelSource, slowness: float) -> DeviceCosts:
    """Add a backend that does not train, if it can run the model.

    Its forward pass is priced like that of a training backend, one of the same runtime if there is one.
    """
    opener, likes = find_opener(name), [costs for costs in device.backends if costs.precision == "fp32"]
    if not likes or opener.missing() or not opener.fits(source):
        return device
    runtime, nominal = opener.TRAITS.runtime, opener.TRAITS.nominal
    factor = slowness * max(1.0, shape_of(source).n_parameters / MEASURED_PARAMETERS)
    grown = {line: factor * seconds for line, seconds in nominal.model_dump().items()}
    fixed = FixedCosts(**(grown | {"import_s": slowness * nominal.import_s}))
    like = min(likes, key=lambda costs: traits_of(costs.backend).runtime != runtime)
    costs = replace(
        like, key=name, backend=name, fixed=fixed, available="", trains=False, imports_early=False
    )
    return replace(device, backends=(*device.backends, costs))


def busy_watts() -> tuple[float, str] | None:
    """Return the watts that this machine draws while training, and how that is known; None if unknown."""
    try:
        match = find_for_this_machine(None, this_machine())
    except ProfileError:
        return None
    if match is None or match.fit == "other":
        return None
    power = match.profile.power
    return power.train_w, f"device profile {match.profile.name}, {power.source}"


def profile_key(profile: DeviceProfile) -> str:
    """Name a profile, this machine and what runs on it, so that another measurement gets another name."""
    machine = this_machine()
    runtimes = {name: value for name, value in versions().items() if name.startswith(("onnx", "torch"))}
    return json.dumps(
        [profile.name, profile.date, machine.cpu_model, machine.cores, runtimes], sort_keys=True
    )


def speeds_key(profile: DeviceProfile, shape: ModelShape) -> str:
    """Return the key under which speeds are recorded: profile, this machine, size of the model's layers."""
    sizes = [shape.n_layers, shape.hidden_size, shape.intermediate_size]
    return json.dumps([profile_key(profile), sizes])


def fit_device(
    match: Match, shape: ModelShape, watts: float | None = None, seen: Calibration = NOTHING_SEEN
) -> DeviceCosts:
    """Fit a profile to a model's shape, and to what was measured since then."""
    profile = match.profile
    widen = min(match.widen, PROBED_UNCERTAINTY) if seen.known else match.widen
    uncertainty = max(SAME_UNCERTAINTY, profile.spread) + widen
    if not same_shape(profile.model, shape):
        uncertainty += PROBED_UNCERTAINTY if seen.known & set(seen.runs) else OTHER_MODEL_UNCERTAINTY
    power, slow = profile.power, seen.slowness
    keys = {item.key for item in profile.backends if item.device == "cpu"}
    return DeviceCosts(
        name=profile.name,
        note=describe_misfit(match, shape, seen),
        foreign=match.fit == "other" and not seen.probed and not keys <= seen.known,
        uncertainty=uncertainty,
        n_layers=shape.n_layers,
        hidden_size=shape.hidden_size,
        start_s=slow * profile.start_s,
        report_s=slow * profile.report_s,
        exit_s=slow * profile.exit_s,
        depths=tuple(range(shape.n_layers)),
        busy_w=power.train_w if watts is None else watts,
        power_source=power.source if watts is None else "--watts",
        backends=tuple(_backend(item, match, shape, seen) for item in profile.backends),
        speeds_key=speeds_key(profile, shape),
        speeds_note=" ".join(filter(None, (_speed_now(match, shape, seen), seen.note))),
    )


def describe_misfit(match: Match, shape: ModelShape, seen: Calibration = NOTHING_SEEN) -> str:
    """Say in a sentence what does not fit in a profile; "" if everything does."""
    profile, parts = match.profile, list(match.reasons)
    if not same_shape(profile.model, shape):
        parts.append(f"{shape.name} was not profiled, and its costs are predicted from {profile.model.name}")
    if profile.noisy:
        parts.append("the machine was busy while it was profiled")
    if seen.probed and not is_own(match, shape):
        times = ", ".join(f"{key} {scale:.2f}" for key, scale in seen.probed.items())
        parts.append(
            f"a short measurement on this machine took these multiples of the profiled time: {times}"
        )
    if not parts:
        return ""
    never = match.fit == "other"
    subject = "This machine was never profiled" if never else "The profile does not fit exactly"
    return (
        f"{subject}; estimates from the device profile {profile.name} are rough until the first steps "
        f"correct them ({'; '.join(parts)}). Run `edgetune profile` to measure this machine."
    )


def is_own(match: Match, shape: ModelShape) -> bool:
    """Return whether a profile is of this very machine and model."""
    return match.fit == "same" and same_shape(match.profile.model, shape)


def _speed_now(match: Match, shape: ModelShape, seen: Calibration) -> str:
    """Say how fast the machine of an own profile is at the moment; "" if it is as fast as profiled."""
    times = statistics.fmean(seen.probed.values()) if seen.probed else 1.0
    if not is_own(match, shape) or abs(times - 1.0) < WORTH_SAYING:
        return ""
    return f"By a measurement just now, operations are expected to take {times:.2f} times the profiled time."


def _backend(item: BackendProfile, match: Match, shape: ModelShape, seen: Calibration) -> BackendCosts:
    profile, measured, slow, fixed = match.profile, match.profile.model, seen.slowness, item.fixed
    # Backends of one runtime import the same; the first to be measured found less of it in memory.
    import_s = max(other.fixed.import_s for other in profile.backends if other.backend == item.backend)
    # Opening and saving take longer with more weights, everything takes longer on a slower machine.
    ratio = slow * max(1.0, shape.n_parameters / measured.n_parameters)
    grown = {name: ratio * seconds for name, seconds in fixed.model_dump().items()}
    # Weights, gradients and moments grow with the parameters, activations with layers times width; a model is
    # copied while it is saved, and what reads data takes some more.
    added_mb = COPIES_MB_PER_PARAMETER * max(0, shape.n_parameters - measured.n_parameters)
    added_mb += COPIES_MB_PER_PARAMETER * shape.n_parameters
    wider = (shape.n_layers * shape.hidden_size) / (measured.n_layers * measured.hidden_size)
    scale = seen.scale(item.key)
    return BackendCosts(
        key=item.key,
        backend=item.backend,
        precision=item.precision,
        threads=item.threads if match.fit != "other" else None,
        fixed=FixedCosts(**(grown | {"import_s": slow * import_s})),
        memory=Memory(
            base_mb=item.memory.base_mb + added_mb,
            score_mb_per_token=item.memory.score_mb_per_token * wider,
            train_mb_per_token=item.memory.train_mb_per_token * wider,
        ),
        cost=CostFunction(item, measured, shape, scale),
        available=_unavailable(item, match, seen),
        imports_early=traits_of(item.backend).imports_early,
        most_tokens=traits_of(item.backend).most_tokens,
        scale=scale,
    )


def _unavailable(item: BackendProfile, match: Match, seen: Calibration) -> str:
    if item.device != "cpu":
        return "was measured on a device other than the CPU"
    if missing := find_opener(item.backend).missing():
        return missing
    if item.precision == "bf16" and match.fit == "other" and item.key not in seen.known:
        return "bf16 is used only on machines where it was measured; elsewhere it can be 25 times slower"
    return ""
