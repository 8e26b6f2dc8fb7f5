"""Fits a stored profile to this machine, its installed runtimes and a model, for the planner."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

from edgetune.backends.openers import backend_names, find_opener, traits_of
from edgetune.devices.cost_function import CostFunction, same_shape
from edgetune.devices.detect import shape_of, this_machine
from edgetune.devices.device_profile import (
    BackendProfile,
    DeviceProfile,
    FixedCosts,
    Machine,
    Memory,
    ModelShape,
)
from edgetune.devices.profile_store import Match, find_for_this_machine, nominal_match
from edgetune.models.source import ModelSource, has_separate_layers
from edgetune.planning.calibration import (
    DOUBTED_WEIGHT,
    MOST_OFF,
    NOTHING_SEEN,
    NOW_WEIGHT,
    OWN_MOST_OFF,
    PROFILE_WEIGHT,
    WORTH_SAYING,
    Calibration,
    Runs,
)
from edgetune.planning.plan import BackendCosts, DeviceCosts
from edgetune.utils.errors import ProfileError
from edgetune.utils.machine import versions

Scales = dict[str, float]

SAME_UNCERTAINTY = 0.10
OTHER_MODEL_UNCERTAINTY = 0.35
PROBED_UNCERTAINTY = 0.2
COPIES_MB_PER_PARAMETER = 16e-6
MEASURED_PARAMETERS = 22_713_728
"""Parameters of the built-in model, with which nominal costs were measured."""


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


def profile_key(profile: DeviceProfile, machine: Machine) -> str:
    """Name a profile, this machine and what runs on it, so that another measurement gets another name."""
    runtimes = {name: value for name, value in versions().items() if name.startswith(("onnx", "torch"))}
    return json.dumps(
        [profile.name, profile.date, machine.cpu_model, machine.cores, runtimes], sort_keys=True
    )


def speeds_key(profile: DeviceProfile, shape: ModelShape) -> str:
    """Return the key under which speeds are recorded: profile, this machine, size of the model's layers."""
    sizes = [shape.n_layers, shape.hidden_size, shape.intermediate_size]
    return json.dumps([profile_key(profile, this_machine()), sizes])


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
