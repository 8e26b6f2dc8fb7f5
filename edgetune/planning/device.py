"""A stored profile, fitted to this machine, its installed runtimes and a model → what the planner reads."""

from __future__ import annotations

import importlib.util

from edgetune.backends.ort_runtime import has_training_build
from edgetune.models import ModelSource
from edgetune.planning.types import BackendCosts, Device
from edgetune.profiles.cost import CostFunction, same_shape
from edgetune.profiles.device_profile import BackendProfile, DeviceProfile, FixedCosts, Memory, ModelShape
from edgetune.profiles.here import shape_of, this_machine
from edgetune.profiles.match import Match, find_for_this_machine

SAME_UNCERTAINTY = 0.10
OTHER_MODEL_UNCERTAINTY = 0.35


def find_device(source: ModelSource, watts: float | None = None) -> Device | None:
    """Find the stored profile that fits this machine best; None if none is stored.

    Args:
        source: the model to train.
        watts: what the user says the machine draws.
    """
    shape = shape_of(source)
    match = find_for_this_machine(shape, this_machine())
    return None if match is None else fit_device(match, shape, watts)


def busy_watts() -> tuple[float, str] | None:
    """Return the watts that this machine draws while training, and how that is known; None if unknown."""
    match = find_for_this_machine(None, this_machine())
    if match is None or match.fit == "other":
        return None
    power = match.profile.power
    return power.train_w, f"device profile {match.profile.name}, {power.source}"


def fit_device(match: Match, shape: ModelShape, watts: float | None = None) -> Device:
    """Fit a profile to a model's shape."""
    profile = match.profile
    uncertainty = max(SAME_UNCERTAINTY, profile.spread) + match.widen
    if not same_shape(profile.model, shape):
        uncertainty += OTHER_MODEL_UNCERTAINTY
    power = profile.power
    return Device(
        name=profile.name,
        note=_note(match, shape),
        foreign=match.fit == "other",
        uncertainty=uncertainty,
        n_layers=shape.n_layers,
        hidden_size=shape.hidden_size,
        start_s=profile.start_s,
        report_s=profile.report_s,
        exit_s=profile.exit_s,
        tokenize_s_per_token=profile.tokenize_s_per_token,
        busy_w=watts if watts is not None else power.train_w,
        power_source="--watts" if watts is not None else power.source,
        backends=tuple(_backend(item, profile, shape, match) for item in profile.backends),
    )


def _note(match: Match, shape: ModelShape) -> str:
    """Say what does not fit, in a sentence; "" when everything does."""
    profile = match.profile
    parts = list(match.reasons)
    if not same_shape(profile.model, shape):
        parts.append(f"{shape.name} was not profiled and is predicted from {profile.model.name}")
    if profile.noisy:
        parts.append("the machine was busy while it was profiled")
    if not parts:
        return ""
    return (
        f"The device profile {profile.name} does not quite fit ({'; '.join(parts)}): intervals are wider and "
        "the first steps correct it; `edgetune profile` measures this machine."
    )


def _backend(item: BackendProfile, profile: DeviceProfile, shape: ModelShape, match: Match) -> BackendCosts:
    here = match.fit != "other"
    return BackendCosts(
        key=item.key,
        backend=item.backend,
        precision=item.precision,
        threads=item.threads if here else None,
        fixed=_scaled(item.fixed, shape, profile.model),
        memory=_grown(item.memory, shape, profile.model),
        cost=CostFunction(item, profile.model, shape, widen=match.widen),
        available=_unavailable(item, match),
    )


def _scaled(fixed: FixedCosts, shape: ModelShape, measured: ModelShape) -> FixedCosts:
    """Opening and saving grow with the number of weights."""
    ratio = shape.n_parameters / measured.n_parameters
    grown = {
        name: getattr(fixed, name) * max(1.0, ratio)
        for name in ("open_s", "open_depth_s", "export_s", "save_s", "save_model_s")
    }
    return fixed.model_copy(update=grown)


def _grown(memory: Memory, shape: ModelShape, measured: ModelShape) -> Memory:
    """Weights, gradients and moments grow with the parameters, activations with layers times width."""
    added_mb = 16e-6 * max(0, shape.n_parameters - measured.n_parameters)
    wider = (shape.n_layers * shape.hidden_size) / (measured.n_layers * measured.hidden_size)
    return Memory(
        base_mb=memory.base_mb + added_mb,
        score_mb_per_token=memory.score_mb_per_token * wider,
        train_mb_per_token=memory.train_mb_per_token * wider,
    )


def _unavailable(item: BackendProfile, match: Match) -> str:
    if item.device != "cpu":
        return "was measured on another device than the CPU"
    if item.backend == "ort" and not has_training_build():
        return 'its training build is not installed (`pip install "edgetune[cpu]"`)'
    if item.backend == "torch" and importlib.util.find_spec("torch") is None:
        return 'PyTorch is not installed (`pip install "edgetune[cpu]"`)'
    if item.precision == "bf16" and match.fit == "other":
        return "bf16 is trusted only where it was measured: elsewhere it can be 25 times slower"
    return ""
