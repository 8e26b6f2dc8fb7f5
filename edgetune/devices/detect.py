"""This machine and a model's shape, as a device profile names them."""

from __future__ import annotations

import math
import platform
import re
from pathlib import Path

from edgetune.devices.device_profile import Machine, ModelShape
from edgetune.energy import power_source
from edgetune.models.checks import weight_files
from edgetune.models.source import ModelSource
from edgetune.utils.machine import ROOT, cpu_features, cpu_info, cpu_name, memory_mb, usable_cores


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
