"""Device profiles made up for tests; no figure in them was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    shape_of,
    this_machine,
)
from edgetune.devices.profile_store import save_profile
from edgetune.models.source import resolve_model

SHAPE = ModelShape(name="m", n_layers=6, hidden_size=384, intermediate_size=1536, n_parameters=22_000_000)
MACHINE = Machine(
    cpu="Some CPU",
    cpu_model="Vendor 1 2",
    cores=4,
    physical_cores=4,
    features=["AVX2"],
    memory_mb=8000.0,
    system="Linux 6",
    architecture="x86_64",
)
VERSIONS = {"edgetune": "0.1.0", "onnxruntime-training-cpu": "1.19.2", "torch": "2.13.0"}


def seconds(op: str, batch: int, length: int, depth: int) -> float:
    """Invent a cost: affine in everything."""
    layers = depth if op == "prefix" else 6 - depth
    return (0.001 + 1e-5 * batch * length * layers) * (3 if op == "train" else 1)


def make_points(lengths: tuple[int, ...] = (16, 64), factor: float = 1.0) -> list[MeasuredPoint]:
    """Return a grid of batches 8 and 32, depths 0 and 3."""
    ops: tuple[Operation, ...] = ("prefix", "score", "train")
    cells = [
        (op, b, n, d) for op in ops for b in (8, 32) for n in lengths for d in (0, 3) if d or op != "prefix"
    ]
    return [
        MeasuredPoint(
            op=op,
            batch=b,
            length=n,
            depth=d,
            s=factor * (s := seconds(op, b, n, d)),
            low_s=factor * 0.97 * s,
            high_s=factor * 1.03 * s,
            n=4,
        )
        for op, b, n, d in cells
    ]


def save_guess(model: Path, fixed: FixedCosts) -> None:
    """Store a profile of this machine and a model, with these fixed costs and invented speeds."""
    guessed = make_backend()
    points = [point for point in guessed.points if point.depth == 0]
    backend = guessed.model_copy(update={"fixed": fixed, "threads": 1, "points": points})
    shape = shape_of(resolve_model(str(model)))
    save_profile(make_profile("here", machine=this_machine(), versions={}, model=shape, backends=[backend]))


def make_backend(backend: Any = "ort", factor: float = 1.0) -> BackendProfile:
    """Return one backend's costs."""
    return BackendProfile(
        backend=backend,
        precision="fp32",
        threads=4,
        threads_tried={"1": 0.4, "4": 0.1},
        fixed=FixedCosts(
            import_s=0.3, open_s=0.4, open_depth_s=0.6, export_s=8.0, save_s=1.0, save_model_s=0.2
        ),
        memory=Memory(base_mb=400, score_mb_per_token=0.03, train_mb_per_token=0.2),
        points=make_points(factor=factor),
    )


def make_profile(name: str = "some", **changes: Any) -> DeviceProfile:
    """Return a whole profile."""
    values: dict[str, Any] = {
        "name": name,
        "date": "2026-11-21T15:00:00+00:00",
        "machine": MACHINE,
        "versions": VERSIONS,
        "model": SHAPE,
        "start_s": 0.3,
        "report_s": 0.6,
        "exit_s": 0.1,
        "spread": 0.02,
        "power": Power(train_w=20.0, score_w=15.0, idle_w=3.0, source="RAPL", measured=True),
        "backends": [make_backend()],
    }
    return DeviceProfile(**(values | changes))
