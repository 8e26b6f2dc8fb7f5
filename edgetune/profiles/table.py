"""A device profile as tables for people.

profile ─→ sections: machine, fixed costs, per backend and depth: T_f, T_b, energy per operation, memory
"""

from __future__ import annotations

from collections.abc import Iterator

from edgetune.profiles.device_profile import BackendProfile, DeviceProfile, Point
from edgetune.report.tables import Section


def profile_sections(profile: DeviceProfile) -> list[Section]:
    """Return everything that a profile says."""
    sections = [
        Section(f"Profile {profile.name}", list(_about(profile))),
        Section(
            "Paid once per run (s)", list(_fixed(profile)), _heads("backend", *_FIXED.values()), right=True
        ),
        Section("Paid by every run", list(_chores(profile))),
    ]
    sections += [section for backend in profile.backends for section in _operations(profile, backend)]
    sections.append(
        Section(
            "Memory (MB)",
            [_memory(backend) for backend in profile.backends],
            ("backend", "at rest", "score, per 1,000 tokens", "train, per 1,000 tokens"),
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
    "open_depth_s": "open, cut",
    "export_s": "export",
    "save_s": "save",
    "save_model_s": "save, no ONNX",
}


def _about(profile: DeviceProfile) -> Iterator[tuple[str, str]]:
    machine = profile.machine
    memory = "" if machine.memory_mb is None else f", {machine.memory_mb / 1e3:.1f} GB"
    yield "processor", f"{machine.cpu} ({machine.cpu_model}), {machine.cores} cores{memory}"
    yield "instruction sets", ", ".join(machine.features) or "none known"
    if machine.gpu is not None:
        yield "GPU", machine.gpu
    yield "system", f"{machine.system} {machine.architecture}, power: {machine.power_source}"
    runtimes = ("edgetune", "onnxruntime-training-cpu", "onnxruntime-training", "torch")
    yield (
        "versions",
        ", ".join(f"{name} {profile.versions[name]}" for name in runtimes if name in profile.versions),
    )
    model = profile.model
    yield "model", f"{model.name}: {model.n_layers} layers, {model.hidden_size} wide"
    n_calls = sum(point.n for backend in profile.backends for point in backend.points)
    how = "quick, " if profile.quick else ""
    yield "measured", f"{profile.date} ({how}{n_calls:,} calls, spread ± {100 * profile.spread:.1f} %)"
    if profile.noisy:
        yield "noisy", "the machine was too busy for these figures to be trusted; measure again"
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
    yield "start of the process", f"{profile.start_s:.2f} s"
    yield "tokenize", f"{1e6 * profile.tokenize_s_per_token:.2f} µs per token"
    yield "meta predictor", f"{1e6 * profile.meta_s_per_example:.1f} µs per example"
    yield "picture and card", f"{profile.report_s:.2f} s"
    yield "end of the process", f"{profile.exit_s:.2f} s"


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
        frozen = f", {depth} lowest layers cut off" if depth else ""
        title = f"{backend.key}{frozen}: ms per call, {backend.threads} threads"
        yield Section(title, rows, (*header, "prefix") if depth else header, right=True)


def _costs(profile: DeviceProfile, score: Point | None, train: Point | None) -> list[str]:
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


def _ms(point: Point | None) -> str:
    """Say a median with half of its interval."""
    if point is None:
        return ""
    return f"{1e3 * point.s:.1f} ± {1e3 * (point.high_s - point.low_s) / 2:.1f}"


def _memory(backend: BackendProfile) -> tuple[str, ...]:
    memory = backend.memory
    per_token = (memory.score_mb_per_token, memory.train_mb_per_token)
    return backend.key, f"{memory.base_mb:,.0f}", *(f"{1e3 * value:,.0f}" for value in per_token)
