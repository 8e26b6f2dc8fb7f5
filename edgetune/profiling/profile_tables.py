"""Device profiles as tables: one profile, or how many times as long operations take on B as on A."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgetune.devices.cost_function import same_shape
from edgetune.devices.device_profile import BackendProfile, DeviceProfile, MeasuredPoint, Operation
from edgetune.devices.profile_store import Match
from edgetune.utils.formatting import counted
from edgetune.utils.tables import Section

OPERATIONS: tuple[Operation, ...] = ("score", "train", "prefix")


@dataclass(frozen=True, slots=True)
class TimeRatio:
    """How many times as long an operation takes on a backend, at each of its points (one at least)."""

    key: str
    op: str
    ratios: Sequence[float]

    @property
    def mean(self) -> float:
        """Geometric mean over points."""
        return statistics.geometric_mean(self.ratios)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        where = {"backend": self.key, "op": self.op, "ratio": self.mean}
        return where | {"range": [min(self.ratios), max(self.ratios)], "n": len(self.ratios)}


def time_ratios(
    before: Mapping[str, Sequence[MeasuredPoint]], after: Mapping[str, Sequence[MeasuredPoint]]
) -> list[TimeRatio]:
    """Return after over before for every backend and operation with points in common, given by backend."""
    found: list[TimeRatio] = []
    for key, points in before.items():
        seconds = {point.place: point.s for point in after.get(key, ())}
        for op in OPERATIONS:
            ratios = [seconds[p.place] / p.s for p in points if p.op == op and p.place in seconds]
            if ratios:
                found.append(TimeRatio(key, op, ratios))
    return found


def _ratio_section(title: str, ratios: Sequence[TimeRatio]) -> Section:
    rows: list[tuple[str, ...]] = []
    for one in ratios:
        span = f"{min(one.ratios):.2f} to {max(one.ratios):.2f}"
        rows.append((one.key, one.op, f"{one.mean:.2f}", span, str(len(one.ratios))))
    return Section(title, rows, ("backend", "operation", "ratio", "range", "points"), right=True)


VERDICTS = ("holds", "has drifted", "is far off")
DRIFTED, FAR_OFF = 0.10, 0.30


@dataclass(frozen=True)
class Drift:
    """What a check of a profile found: times now over then, and what could not be checked."""

    ratios: list[TimeRatio]
    notes: list[str]

    @property
    def worst(self) -> float:
        """Largest relative change of any operation."""
        return max((abs(ratio.mean - 1.0) for ratio in self.ratios), default=0.0)

    @property
    def verdict(self) -> str:
        """What to think of the profile."""
        return VERDICTS[(self.worst > DRIFTED) + (self.worst > FAR_OFF)]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        ratios = [ratio.to_dict() for ratio in self.ratios]
        return {"verdict": self.verdict, "worst": self.worst, "ratios": ratios, "notes": self.notes}


def drift_sections(match: Match, drift: Drift) -> list[Section]:
    """Return the tables of a check, the verdict first."""
    says = "still matches this machine" if drift.verdict == "holds" else drift.verdict
    advice = "" if drift.verdict == "holds" else "; measure again with `edgetune profile`"
    worst = f"times differ by up to {100 * drift.worst:.0f} %{advice}"
    sections = [
        Section("Verdict", [(f"{match.profile.name} {says}: {worst}",)]),
        _ratio_section("Time now relative to the profile", drift.ratios),
        Section("Remarks", [(remark,) for remark in (*match.reasons, *drift.notes)]),
    ]
    return [section for section in sections if section.rows]


def compare_profiles(a: DeviceProfile, b: DeviceProfile) -> list[TimeRatio]:
    """Return B over A for every backend and operation with points in common."""
    return time_ratios(*({backend.key: backend.points for backend in one.backends} for one in (a, b)))


def compare_sections(a: DeviceProfile, b: DeviceProfile) -> list[Section]:
    """Return the tables of a comparison."""
    title = f"Time of {b.name} relative to {a.name} (below 1: {b.name} is faster)"
    theirs = {backend.key: backend.fixed for backend in b.backends}
    costs: list[tuple[str, Any, Any, Iterable[str]]] = [
        ("every run", a, b, ("start_s", "report_s", "exit_s")),
        *((one.key, one.fixed, theirs[one.key], _FIXED) for one in a.backends if one.key in theirs),
    ]
    rows: list[tuple[str, ...]] = [
        (key, name.removesuffix("_s").replace("_", " "), f"{getattr(x, name):.2f}", f"{getattr(y, name):.2f}")
        for key, x, y, names in costs
        for name in names
    ]
    sections = [
        _ratio_section(title, compare_profiles(a, b)),
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
    points = {point.place: point for point in backend.points}
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
