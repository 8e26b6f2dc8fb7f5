"""Device profiles as tables for people: one profile, or how many times as long operations take on B as on A.

profile ─→ sections: machine, fixed costs, per backend and depth: T_f, T_b, energy per operation, memory
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edgetune.devices.cost_function import same_shape
from edgetune.devices.device_profile import BackendProfile, DeviceProfile, MeasuredPoint
from edgetune.utils.formatting import counted
from edgetune.utils.tables import Section

OPERATIONS = ("score", "train", "prefix")


@dataclass(frozen=True, slots=True)
class TimeRatio:
    """How many times as long an operation takes.

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

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"backend": self.key, "op": self.op, "ratio": self.mean, "range": [self.low, self.high]} | {
            "n": self.n
        }


def make_time_ratio(key: str, op: str, ratios: Sequence[float]) -> TimeRatio:
    """Sum ratios up; there must be one at least."""
    mean = math.exp(sum(math.log(value) for value in ratios) / len(ratios))
    return TimeRatio(key, op, mean, min(ratios), max(ratios), len(ratios))


def compare_profiles(a: DeviceProfile, b: DeviceProfile) -> list[TimeRatio]:
    """Return B over A for every backend and operation with points in common."""
    found: list[TimeRatio] = []
    for one in a.backends:
        other = b.backend(one.key)
        if other is None:
            continue
        theirs = {_place(point): point.s for point in other.points}
        for op in OPERATIONS:
            shared = [p for p in one.points if p.op == op and _place(p) in theirs]
            if shared:
                found.append(make_time_ratio(one.key, op, [theirs[_place(p)] / p.s for p in shared]))
    return found


def _place(point: MeasuredPoint) -> tuple[str, int, int, int]:
    return point.op, point.batch, point.length, point.depth


def compare_sections(a: DeviceProfile, b: DeviceProfile) -> list[Section]:
    """Return the tables of a comparison."""
    title = f"Time of {b.name} relative to {a.name} (below 1: {b.name} is faster)"
    sections = [
        Section(
            title,
            ratio_rows(compare_profiles(a, b)),
            ("backend", "operation", "ratio", "range", "points"),
            right=True,
        ),
        Section(
            "One-off costs per run (s)", _fixed_rows(a, b), ("backend", "cost", a.name, b.name), right=True
        ),
        Section("Remarks", [(remark,) for remark in _remarks(a, b)]),
    ]
    return [section for section in sections if section.rows]


def ratio_rows(ratios: Iterable[TimeRatio]) -> list[tuple[str, ...]]:
    """Return a row per ratio."""
    return [
        (one.key, one.op, f"{one.mean:.2f}", f"{one.low:.2f} to {one.high:.2f}", str(one.n)) for one in ratios
    ]


def _fixed_rows(a: DeviceProfile, b: DeviceProfile) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("every run", name.removesuffix("_s"), f"{getattr(a, name):.2f}", f"{getattr(b, name):.2f}")
        for name in ("start_s", "report_s", "exit_s")
    ]
    for one in a.backends:
        other = b.backend(one.key)
        if other is None:
            continue
        for name in type(one.fixed).model_fields:
            here, there = getattr(one.fixed, name), getattr(other.fixed, name)
            rows.append((one.key, name.removesuffix("_s").replace("_", " "), f"{here:.2f}", f"{there:.2f}"))
    return rows


def _remarks(a: DeviceProfile, b: DeviceProfile) -> list[str]:
    remarks = []
    if not same_shape(a.model, b.model):
        remarks.append(
            f"The profiles were measured with different models: {a.model.name} and {b.model.name}."
        )
    for one, other in ((a, b), (b, a)):
        only = [backend.key for backend in one.backends if other.backend(backend.key) is None]
        if only:
            remarks.append(f"Only {one.name} has {', '.join(only)}.")
        if one.noisy:
            remarks.append(f"{one.name} was measured on a busy machine.")
    return remarks


def profile_sections(profile: DeviceProfile) -> list[Section]:
    """Return everything that a profile says."""
    sections = [
        Section(f"Profile {profile.name}", list(_about(profile))),
        Section(
            "One-off costs per run (s)",
            list(_fixed(profile)),
            _heads("backend", *_FIXED.values()),
            right=True,
        ),
        Section("Costs of every run, whatever the backend", list(_chores(profile))),
    ]
    sections += [section for backend in profile.backends for section in _operations(profile, backend)]
    sections.append(
        Section(
            "Memory (MB)",
            [_memory(backend) for backend in profile.backends],
            ("backend", "idle", "score, per 1,000 tokens", "train, per 1,000 tokens"),
            right=True,
        )
    )
    sections.append(Section("Notes", [(note,) for note in profile.notes]))
    return [section for section in sections if section.rows]


def _heads(*names: str) -> tuple[str, ...]:
    return names


_FIXED = {
    "import_s": "import",
    "open_s": "open",
    "open_depth_s": "open, layers frozen",
    "export_s": "export",
    "save_s": "save",
    "save_model_s": "save without ONNX",
}


def _about(profile: DeviceProfile) -> Iterator[tuple[str, str]]:
    machine = profile.machine
    memory = "" if machine.memory_mb is None else f", {machine.memory_mb / 1e3:.1f} GB"
    yield "processor", f"{machine.cpu} ({machine.cpu_model}), {counted(machine.cores, 'core')}{memory}"
    yield "instruction sets", ", ".join(machine.features) or "none detected"
    if machine.gpu is not None:
        yield "GPU", machine.gpu
    yield "system", f"{machine.system} {machine.architecture}, power: {machine.power_source}"
    runtimes = ("edgetune", "onnxruntime-training-cpu", "onnxruntime-training", "torch")
    yield (
        "versions",
        ", ".join(f"{name} {profile.versions[name]}" for name in runtimes if name in profile.versions),
    )
    model = profile.model
    yield "model", f"{model.name}: {counted(model.n_layers, 'layer')}, hidden size {model.hidden_size}"
    n_calls = sum(point.n for backend in profile.backends for point in backend.points)
    how = "quick, " if profile.quick else ""
    yield "measured", f"{profile.date} ({how}{n_calls:,} calls, spread ± {100 * profile.spread:.1f} %)"
    if profile.noisy:
        yield "noisy", "the machine was too busy for reliable figures; measure again"
    power = profile.power
    yield (
        "power",
        f"train {power.train_w:.3g} W, score {power.score_w:.3g} W, idle {power.idle_w:.3g} W "
        f"({'measured' if power.measured else 'estimated'}: {power.source.removeprefix('estimated: ')})",
    )


def _fixed(profile: DeviceProfile) -> Iterator[tuple[str, ...]]:
    for backend in profile.backends:
        yield backend.key, *(f"{getattr(backend.fixed, name):.2f}" for name in _FIXED)


def _chores(profile: DeviceProfile) -> Iterator[tuple[str, str]]:
    yield "process start-up", f"{profile.start_s:.2f} s"
    yield "tokenize", f"{1e6 * profile.tokenize_s_per_token:.2f} µs per token"
    yield "meta predictor", f"{1e6 * profile.meta_s_per_example:.1f} µs per example"
    yield "plot and model card", f"{profile.report_s:.2f} s"
    yield "process exit", f"{profile.exit_s:.2f} s"


def _operations(profile: DeviceProfile, backend: BackendProfile) -> Iterator[Section]:
    """Return a table per frozen depth: a row per batch and length bucket."""
    points = {(point.op, point.batch, point.length, point.depth): point for point in backend.points}
    header = ("rows × tokens", "T_f score", "train step", "T_b", "T_f/train", "J score", "J train")
    for depth in sorted({point.depth for point in backend.points}):
        shapes = sorted(
            {(point.batch, point.length) for point in backend.points if point.depth == depth},
        )
        rows = []
        for batch, length in shapes:
            found = {op: points.get((op, batch, length, depth)) for op in ("prefix", "score", "train")}
            cells = [f"{batch} × {length}", *_costs(profile, found["score"], found["train"])]
            rows.append((*cells, _ms(found["prefix"])) if depth else tuple(cells))
        frozen = f", {counted(depth, 'lowest layer')} frozen" if depth else ""
        title = f"{backend.key}{frozen}: ms per call, {counted(backend.threads, 'thread')}"
        yield Section(title, rows, (*header, "prefix") if depth else header, right=True)


def _costs(profile: DeviceProfile, score: MeasuredPoint | None, train: MeasuredPoint | None) -> list[str]:
    watts = profile.power
    both = score is not None and train is not None
    return [
        _ms(score),
        _ms(train),
        f"{1e3 * (train.s - score.s):.1f}" if both and score and train else "",
        f"{score.s / train.s:.2f}" if both and score and train else "",
        "" if score is None else f"{score.s * watts.score_w:.2g}",
        "" if train is None else f"{train.s * watts.train_w:.2g}",
    ]


def _ms(point: MeasuredPoint | None) -> str:
    """Say a median with half of its interval."""
    if point is None:
        return ""
    return f"{1e3 * point.s:.1f} ± {1e3 * (point.high_s - point.low_s) / 2:.1f}"


def _memory(backend: BackendProfile) -> tuple[str, ...]:
    memory = backend.memory
    per_token = (memory.score_mb_per_token, memory.train_mb_per_token)
    return backend.key, f"{memory.base_mb:,.0f}", *(f"{1e3 * value:,.0f}" for value in per_token)
