"""Device profiles as tables: one profile, or how many times as long operations take on B as on A."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from edgetune.devices.cost_function import same_shape
from edgetune.devices.device_profile import BackendProfile, DeviceProfile, MeasuredPoint
from edgetune.utils.formatting import counted
from edgetune.utils.tables import Section

OPERATIONS = ("score", "train", "prefix")


@dataclass(frozen=True, slots=True)
class TimeRatio:
    """How many times as long an operation takes on a backend.

    Attributes:
        key: backend.
        op: operation.
        mean: geometric mean over points.
        low, high: smallest and largest.
        n: points.
    """

    key: str
    op: str
    mean: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, key: str, op: str, ratios: list[float]) -> TimeRatio:
        """Sum ratios up; there must be one at least."""
        return cls(key, op, statistics.geometric_mean(ratios), min(ratios), max(ratios), len(ratios))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        where = {"backend": self.key, "op": self.op}
        return where | {"ratio": self.mean, "range": [self.low, self.high], "n": self.n}


def ratio_section(title: str, ratios: Iterable[TimeRatio]) -> Section:
    """Return a table with a row per ratio."""
    rows: list[tuple[str, ...]] = [
        (one.key, one.op, f"{one.mean:.2f}", f"{one.low:.2f} to {one.high:.2f}", str(one.n)) for one in ratios
    ]
    return Section(title, rows, ("backend", "operation", "ratio", "range", "points"), right=True)


def compare_profiles(a: DeviceProfile, b: DeviceProfile) -> list[TimeRatio]:
    """Return B over A for every backend and operation with points in common."""
    found: list[TimeRatio] = []
    for one, other in _in_both(a, b):
        theirs = {_place(point): point.s for point in other.points}
        for op in OPERATIONS:
            shared = [p for p in one.points if p.op == op and _place(p) in theirs]
            if shared:
                found.append(TimeRatio.of(one.key, op, [theirs[_place(p)] / p.s for p in shared]))
    return found


def _in_both(a: DeviceProfile, b: DeviceProfile) -> list[tuple[BackendProfile, BackendProfile]]:
    theirs = {backend.key: backend for backend in b.backends}
    return [(backend, theirs[backend.key]) for backend in a.backends if backend.key in theirs]


def _place(point: MeasuredPoint) -> tuple[str, int, int, int]:
    return point.op, point.batch, point.length, point.depth


def compare_sections(a: DeviceProfile, b: DeviceProfile) -> list[Section]:
    """Return the tables of a comparison."""
    title = f"Time of {b.name} relative to {a.name} (below 1: {b.name} is faster)"
    fixed: list[tuple[str, str, Any, Any]] = [
        ("every run", name, a, b) for name in ("start_s", "report_s", "exit_s")
    ]
    fixed += [
        (one.key, name, one.fixed, other.fixed)
        for one, other in _in_both(a, b)
        for name in type(one.fixed).model_fields
    ]
    rows: list[tuple[str, ...]] = [
        (key, name.removesuffix("_s").replace("_", " "), f"{getattr(x, name):.2f}", f"{getattr(y, name):.2f}")
        for key, name, x, y in fixed
    ]
    sections = [
        ratio_section(title, compare_profiles(a, b)),
        Section("One-off costs per run (s)", rows, ("backend", "cost", a.name, b.name), right=True),
        Section("Remarks", [(remark,) for remark in _remarks(a, b)]),
    ]
    return [section for section in sections if section.rows]


def _remarks(a: DeviceProfile, b: DeviceProfile) -> Iterator[str]:
    if not same_shape(a.model, b.model):
        yield f"The profiles were measured with different models: {a.model.name} and {b.model.name}."
    for one, other in ((a, b), (b, a)):
        theirs = {backend.key for backend in other.backends}
        only = [backend.key for backend in one.backends if backend.key not in theirs]
        if only:
            yield f"Only {one.name} has {', '.join(only)}."
        if one.noisy:
            yield f"{one.name} was measured on a busy machine."


_FIXED = {
    "import_s": "import",
    "open_s": "open",
    "open_depth_s": "open, layers frozen",
    "export_s": "export",
    "save_s": "save",
    "save_model_s": "save without ONNX",
}


def profile_sections(profile: DeviceProfile) -> list[Section]:
    """Return everything that a profile says."""
    fixed = [
        (backend.key, *(f"{getattr(backend.fixed, name):.2f}" for name in _FIXED))
        for backend in profile.backends
    ]
    every_run = [
        ("process start-up", f"{profile.start_s:.2f} s"),
        ("plot and model card", f"{profile.report_s:.2f} s"),
        ("process exit", f"{profile.exit_s:.2f} s"),
    ]
    per_token = ("score_mb_per_token", "train_mb_per_token")
    memory = [
        (key, f"{one.base_mb:,.0f}", *(f"{1e3 * getattr(one, name):,.0f}" for name in per_token))
        for key, one in ((backend.key, backend.memory) for backend in profile.backends)
    ]
    in_memory = ("backend", "idle", "score, per 1,000 tokens", "train, per 1,000 tokens")
    sections = [
        Section(f"Profile {profile.name}", list(_about(profile))),
        Section("One-off costs per run (s)", fixed, ("backend", *_FIXED.values()), right=True),
        Section("Costs of every run, whatever the backend", [*every_run]),
        *(section for backend in profile.backends for section in _operations(profile, backend)),
        Section("Memory (MB)", memory, in_memory, right=True),
        Section("Notes", [(note,) for note in profile.notes]),
    ]
    return [section for section in sections if section.rows]


def _about(profile: DeviceProfile) -> Iterator[tuple[str, ...]]:
    machine, model, power = profile.machine, profile.model, profile.power
    memory = "" if machine.memory_mb is None else f", {machine.memory_mb / 1e3:.1f} GB"
    yield "processor", f"{machine.cpu} ({machine.cpu_model}), {counted(machine.cores, 'core')}{memory}"
    yield "instruction sets", ", ".join(machine.features) or "none detected"
    if machine.gpu is not None:
        yield "GPU", machine.gpu
    yield "system", f"{machine.system} {machine.architecture}, power: {machine.power_source}"
    runtimes = ("edgetune", "onnxruntime-training-cpu", "onnxruntime-training", "torch")
    found = (f"{name} {profile.versions[name]}" for name in runtimes if name in profile.versions)
    yield "versions", ", ".join(found)
    yield "model", f"{model.name}: {counted(model.n_layers, 'layer')}, hidden size {model.hidden_size}"
    n_calls = sum(point.n for backend in profile.backends for point in backend.points)
    how = "quick, " if profile.quick else ""
    yield "measured", f"{profile.date} ({how}{n_calls:,} calls, spread ± {100 * profile.spread:.1f} %)"
    if profile.noisy:
        yield "noisy", "the machine was too busy for reliable figures; measure again"
    watts = f"train {power.train_w:.3g} W, score {power.score_w:.3g} W, idle {power.idle_w:.3g} W"
    known = "measured" if power.measured else "estimated"
    yield "power", f"{watts} ({known}: {power.source.removeprefix('estimated: ')})"


def _operations(profile: DeviceProfile, backend: BackendProfile) -> Iterator[Section]:
    """Return a table per frozen depth: a row per batch and length."""
    points = {_place(point): point for point in backend.points}
    header = ("rows × tokens", "T_f score", "train step", "T_b", "T_f/train", "J score", "J train")
    watts = profile.power
    for depth in sorted({point.depth for point in backend.points}):
        rows: list[tuple[str, ...]] = []
        for batch, length in sorted({(p.batch, p.length) for p in backend.points if p.depth == depth}):
            score, train, prefix = (points.get((op, batch, length, depth)) for op in OPERATIONS)
            cells = (
                f"{batch} × {length}",
                _ms(score),
                _ms(train),
                f"{1e3 * (train.s - score.s):.1f}" if score and train else "",
                f"{score.s / train.s:.2f}" if score and train else "",
                "" if score is None else f"{score.s * watts.score_w:.2g}",
                "" if train is None else f"{train.s * watts.train_w:.2g}",
            )
            rows.append((*cells, _ms(prefix)) if depth else cells)
        frozen = f", {counted(depth, 'lowest layer')} frozen" if depth else ""
        title = f"{backend.key}{frozen}: ms per call, {counted(backend.threads, 'thread')}"
        yield Section(title, rows, (*header, "prefix") if depth else header, right=True)


def _ms(point: MeasuredPoint | None) -> str:
    """Say a median with half of its interval."""
    if point is None:
        return ""
    return f"{1e3 * point.s:.1f} ± {1e3 * (point.high_s - point.low_s) / 2:.1f}"
