"""A profile that nobody measured, for an installation in which no profile is stored.

Its operations take their operation count over a constant; a measurement at the start of a run tells how many
times as long they take (`profiling/speed_probe.py`). The constants are rounded from `amd-zen3-2-cores`.
"""

from __future__ import annotations

from itertools import product

from edgetune.devices.cost_function import operation_count
from edgetune.devices.device_profile import (
    BackendProfile,
    DeviceProfile,
    FixedCosts,
    Machine,
    MeasuredPoint,
    Memory,
    ModelShape,
    Operation,
    Power,
)
from edgetune.devices.profile_store import Match

MULTIPLY_ADDS_PER_S, CALL_S, UPDATE_S_PER_WEIGHT = 40e9, 2e-3, 3.5e-9
BACKWARD = 3.5
"""Seconds of a train step over those of a forward pass, the update of the weights left out."""
ORT = FixedCosts(import_s=0.5, open_s=0.6, open_depth_s=1.0, export_s=19, save_s=2, save_model_s=2)
TORCH = FixedCosts(import_s=9, open_s=1.3, open_depth_s=0.3, export_s=0, save_s=1.9, save_model_s=0.3)
OPERATIONS: tuple[Operation, ...] = ("score", "train")
MEMORY = Memory(base_mb=700, score_mb_per_token=0.04, train_mb_per_token=0.25)


def nominal_match(shape: ModelShape, machine: Machine) -> Match:
    """Return a profile of nominal costs for a model."""
    backends = [
        BackendProfile(
            backend=backend,
            precision="fp32",
            threads=machine.cores,
            fixed=fixed,
            memory=MEMORY,
            points=[_point(op, *rows, shape) for op in OPERATIONS for rows in product((4, 32), (16, 128))],
        )
        for backend, fixed in (("ort", ORT), ("torch", TORCH))
    ]
    profile = DeviceProfile(
        name="nominal",
        date="",
        machine=machine,
        versions={},
        model=shape,
        start_s=1.1,
        tokenize_s_per_token=4e-6,
        meta_s_per_example=5e-5,
        report_s=1.1,
        exit_s=2.4,
        spread=0.2,
        power=Power(train_w=20, score_w=20, idle_w=2, source="nominal, not measured", measured=False),
        backends=backends,
    )
    return Match(profile, "other", ["no device profile is stored, and nominal costs take its place"])


def _point(op: Operation, batch: int, length: int, shape: ModelShape) -> MeasuredPoint:
    _, _, products, attention, updated = operation_count(shape, batch, length, shape.n_layers)
    seconds = CALL_S + (products + 2 * attention) / MULTIPLY_ADDS_PER_S
    if op == "train":
        seconds = BACKWARD * seconds + UPDATE_S_PER_WEIGHT * updated
    return MeasuredPoint(
        op=op, batch=batch, length=length, depth=0, s=seconds, low_s=seconds, high_s=seconds, n=1
    )
