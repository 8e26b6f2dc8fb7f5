"""A device profile: measured costs of one machine, with units, source and date; and this machine's names.

    machine · versions · date
    backends: `ort-fp32`, `torch-fp32`, `torch-bf16` … each with
        fixed      seconds that a run pays once
        points     median seconds of an operation at (batch, length, depth)
        memory     megabytes by tokens in a batch
    power          watts while busy, and where the figure comes from

`depth` is the number of lowest layers that are frozen and cut off as a prefix. At depth 0 an operation runs
the whole model; above it, `prefix` runs the frozen layers, and `score` and `train` run the layers above
them alone, on hidden states that are at hand.
"""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Literal

from pydantic import Field

from edgetune.config.choices import ProfiledBackend
from edgetune.config.settings import Settings
from edgetune.energy import power_source
from edgetune.models.checks import weight_files
from edgetune.models.source import ModelSource
from edgetune.utils.machine import ROOT, cpu_features, cpu_info, cpu_name, memory_mb, usable_cores

SCHEMA_VERSION = 1
MAX_COUNT = 10**12  # of anything that is counted: what is beyond it breaks arithmetic and is no machine's
MAX_POINTS = 1_000
Operation = Literal["prefix", "score", "train"]


class Machine(Settings):
    """Which machine was measured.

    Attributes:
        cpu_model: vendor, family and model numbers, since names of virtual machines say little.
        cores: processors that could be used; `physical_cores` without hyper-threads, None: not known.
        features: instruction sets that matter.
        memory_mb: of the machine (10^6 bytes).
    """

    cpu: str
    cpu_model: str
    cores: int = Field(ge=1, le=MAX_COUNT)
    physical_cores: int | None = None
    features: list[str] = Field(default_factory=list)
    memory_mb: float | None = None
    gpu: str | None = None
    power_source: Literal["mains", "battery", "unknown"] = "unknown"
    system: str
    architecture: str


class ModelShape(Settings):
    """What decides the operation count of an encoder; `intermediate_size` is that of a feed-forward part."""

    name: str
    n_layers: int = Field(ge=1, le=MAX_COUNT)
    hidden_size: int = Field(ge=1, le=MAX_COUNT)
    intermediate_size: int = Field(ge=1, le=MAX_COUNT)
    n_parameters: int = Field(ge=1, le=MAX_COUNT)


class MeasuredPoint(Settings):
    """One operation, measured.

    Attributes:
        length: tokens of each example of the batch, padding included.
        depth: frozen layers cut off as a prefix.
        s: median seconds of one call, with its 95 % interval from `low_s` to `high_s`.
        n: calls measured.
    """

    op: Operation
    batch: int = Field(ge=1, le=MAX_COUNT)
    length: int = Field(ge=1, le=MAX_COUNT)
    depth: int = Field(ge=0, le=MAX_COUNT)
    s: float = Field(gt=0)
    low_s: float = Field(gt=0)
    high_s: float = Field(gt=0)
    n: int = Field(ge=1)

    @property
    def place(self) -> tuple[Operation, int, int, int]:
        """Operation, batch, length and depth."""
        return self.op, self.batch, self.length, self.depth

    def __str__(self) -> str:
        return f"{self.op} at {self.batch} × {self.length} tokens, depth {self.depth}, takes {self.s:.3g} s"


class FixedCosts(Settings):
    """Seconds that a run pays once, on one backend.

    Attributes:
        import_s: importing the runtime.
        open_s: from files on disk to a backend that is ready (artifacts cached, or weights loaded).
        open_depth_s: the same where a frozen prefix is cut off.
        export_s: making training artifacts that are not cached; 0 where there are none to make.
        save_s: writing the model, ONNX included.
        save_model_s: writing the Hugging Face folder alone.
    """

    import_s: float = Field(ge=0)
    open_s: float = Field(ge=0)
    open_depth_s: float = Field(ge=0)
    export_s: float = Field(ge=0)
    save_s: float = Field(ge=0)
    save_model_s: float = Field(ge=0)

    def open_at(self, depth: int) -> float:
        """Return what opening the model takes with so many layers frozen, once the runtime is imported."""
        return self.open_depth_s if depth else self.open_s


class Memory(Settings):
    """Megabytes (10^6 bytes) of resident memory: at rest, and per token of a batch, padding included."""

    base_mb: float = Field(ge=0)
    score_mb_per_token: float = Field(ge=0)
    train_mb_per_token: float = Field(ge=0)


class BackendProfile(Settings):
    """One backend in one arithmetic on one device."""

    backend: ProfiledBackend
    precision: Literal["fp32", "bf16"]
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = Field(ge=1, le=MAX_COUNT)
    threads_tried: dict[str, float] = Field(default_factory=dict)
    fixed: FixedCosts
    memory: Memory
    points: list[MeasuredPoint] = Field(min_length=1, max_length=MAX_POINTS)

    @property
    def key(self) -> str:
        """How it is named in a profile and in plans, such as `torch-bf16`."""
        return f"{self.backend}-{self.precision}" + ("" if self.device == "cpu" else f"-{self.device}")


class Power(Settings):
    """Mean watts while training, scoring and doing nothing, and the sensor or estimate that gave them."""

    train_w: float = Field(gt=0)
    score_w: float = Field(gt=0)
    idle_w: float = Field(gt=0)
    source: str
    measured: bool


class DeviceProfile(Settings):
    """Everything measured on one machine for one model.

    Attributes:
        date: of the measurement, ISO 8601.
        quick: whether `--quick` measured a smaller grid.
        start_s: from the process's start to the first line of a run.
        tokenize_s_per_token, meta_s_per_example: in older profiles; nothing is planned by them.
        report_s: picture, model card and summary.
        exit_s: from the last line of a run to the end of its process.
        spread: median over points of (high - low) / 2 / median.
        noisy: whether the machine was too busy for these figures to be trusted.
        notes: what was left out, and why, in sentences.
    """

    schema_version: Literal[1] = 1
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    date: str
    quick: bool = False
    machine: Machine
    versions: dict[str, str]
    model: ModelShape
    start_s: float = Field(ge=0)
    tokenize_s_per_token: float | None = None
    meta_s_per_example: float | None = None
    report_s: float = Field(ge=0)
    exit_s: float = Field(ge=0)
    spread: float = Field(ge=0)
    noisy: bool = False
    notes: list[str] = Field(default_factory=list)
    power: Power
    backends: list[BackendProfile] = Field(min_length=1)


LONGEST_CALL_S = 3600.0
SHRINK = 0.5  # a call with twice the tokens takes less than this share of the smaller one only by nonsense


def first_implausible(profile: DeviceProfile) -> str | None:
    """Return in words the first value that no measurement can have given; None where all can be."""
    keys = [backend.key for backend in profile.backends]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        return f"{twice} appears {keys.count(twice)} times"
    backends, n_layers = profile.backends, profile.model.n_layers
    found = (f"{one.key}: {problem}" for one in backends for problem in _nonsense(one.points, n_layers))
    return next(found, None)


def _nonsense(measured: list[MeasuredPoint], n_layers: int) -> Iterator[str]:
    points = {point.place: point for point in measured}
    if len(points) < len(measured):
        yield "a measured point appears twice"
    for op in ("score", "train"):
        if not any(p.op == op and p.depth == 0 for p in measured):
            yield f"there is no `{op}` measurement at depth 0"
    for point in measured:
        if not point.low_s <= point.s <= point.high_s:
            yield f"{point}, outside its own interval"
        if point.s > LONGEST_CALL_S:
            yield f"{point}, more than {LONGEST_CALL_S:.0f} s"
        if point.depth > n_layers or (point.op == "prefix" and point.depth == 0):
            yield f"{point}, a depth that a model of {n_layers} layers cannot have"
        scored = points.get(("score", point.batch, point.length, point.depth))
        if point.op == "train" and scored is not None and point.high_s < SHRINK * scored.low_s:
            yield f"{point}, but score alone takes {scored.s:.3g} s"
    for small, large in product(measured, repeat=2):
        does_more = (
            (small.op, small.depth) == (large.op, large.depth)
            and large.batch >= small.batch
            and large.length >= small.length
            and large.batch * large.length >= 2 * small.batch * small.length
        )
        if does_more and large.high_s < SHRINK * small.low_s:
            yield f"{large}, but {small}"


def this_machine(root: Path = ROOT) -> Machine:
    """Describe the machine that this process runs on; nothing heavy is imported."""
    import psutil

    name, memory, cores = cpu_name(root), memory_mb(root), usable_cores()
    physical = psutil.cpu_count(logical=False)
    return Machine(
        cpu=name,
        cpu_model=_cpu_model(root) or name,
        cores=cores,
        physical_cores=None if physical is None else max(1, min(physical, cores)),
        features=cpu_features(root),
        memory_mb=None if memory is None else round(memory),
        gpu=_gpu(root),
        power_source=power_source(root),
        system=f"{platform.system()} {platform.release()}",
        architecture=platform.machine(),
    )


def _cpu_model(root: Path) -> str:
    """Return vendor, family and model numbers (x86), or implementer and part (ARM); empty if not told."""
    info = cpu_info(root)
    for keys in (("vendor_id", "cpu family", "model"), ("cpu implementer", "cpu part", "cpu variant")):
        if all(info.get(key) for key in keys):
            return " ".join(info[key] for key in keys)
    return ""


def _gpu(root: Path) -> str | None:
    """Return the first NVIDIA GPU's name as its Linux driver tells it."""
    for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        if found := re.search(r"^Model:\s*(.*\S)", path.read_text(errors="replace"), re.MULTILINE):
            return found[1]
    return None


def profile_name(machine: Machine) -> str:
    """Name a profile after its processor, such as `amd-epyc-2-cores`."""
    words = re.sub(r"\(r\)|\(tm\)|\bcpu\b|@.*|\bwith .*|\b\d+-core\b|\bprocessor\b", " ", machine.cpu.lower())
    short = "-".join(re.findall(r"[a-z0-9]+", words)) or "machine"
    return f"{short}-{machine.cores}-core{'s' * (machine.cores != 1)}"


def shape_of(source: ModelSource) -> ModelShape:
    """Read a model's shape from its config and the headers of its weights."""
    config, hidden = source.config, source.hidden_size

    def first(*names: str) -> int | None:
        found = (config.get(name) for name in names)
        return next((int(value) for value in found if isinstance(value, int) and value > 0), None)

    layers = first("num_hidden_layers", "n_layers", "num_layers", "n_layer") or 1
    inner = first("intermediate_size", "hidden_dim", "ffn_dim", "d_ff", "n_inner") or 4 * hidden
    # Carried artifacts have no safetensors: their matrices are counted from the config alone.
    guessed = (first("vocab_size") or 30_000) * hidden + layers * (4 * hidden**2 + 2 * hidden * inner)
    return ModelShape(
        name=source.name,
        n_layers=layers,
        hidden_size=hidden,
        intermediate_size=inner,
        n_parameters=_count_parameters(source.folder) or guessed,
    )


def _count_parameters(folder: Path) -> int:
    from safetensors import safe_open

    n_parameters = 0
    for path in weight_files(folder):
        with safe_open(path, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118  # not a dict
                n_parameters += math.prod(tensors.get_slice(name).get_shape())
    return n_parameters
