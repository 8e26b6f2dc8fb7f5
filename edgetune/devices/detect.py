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
    name = cpu_name(root)
    memory = memory_mb(root)
    return Machine(
        cpu=name,
        cpu_model=_cpu_model(root) or name,
        cores=usable_cores(),
        physical_cores=_physical_cores(),
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
        found = [info[key] for key in keys if info.get(key)]
        if len(found) == len(keys):
            return " ".join(found)
    return ""


def _gpu(root: Path) -> str | None:
    """Return the first NVIDIA GPU's name as its Linux driver tells it."""
    for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        for line in path.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "Model":
                return value.strip()
    return None


def _physical_cores() -> int | None:
    import psutil

    found = psutil.cpu_count(logical=False)
    return None if found is None else max(1, min(int(found), usable_cores()))


def profile_name(machine: Machine) -> str:
    """Name a profile after its processor, such as `amd-epyc-2-cores`."""
    words = re.sub(r"\(r\)|\(tm\)|\bcpu\b|@.*|\bwith .*|\b\d+-core\b|\bprocessor\b", " ", machine.cpu.lower())
    short = "-".join(re.findall(r"[a-z0-9]+", words)) or "machine"
    return f"{short}-{machine.cores}-core{'s' * (machine.cores != 1)}"


def shape_of(source: ModelSource) -> ModelShape:
    """Read a model's shape from its config and the headers of its weights."""
    config = source.config
    hidden = source.hidden_size
    layers = _first(config, "num_hidden_layers", "n_layers", "num_layers", "n_layer")
    inner = _first(config, "intermediate_size", "hidden_dim", "ffn_dim", "d_ff", "n_inner")
    layers, inner = layers or 1, inner or 4 * hidden
    counted = _count_parameters(source.folder)
    return ModelShape(
        name=source.name,
        n_layers=layers,
        hidden_size=hidden,
        intermediate_size=inner,
        n_parameters=counted or _guess_parameters(config, layers, hidden, inner),
    )


def _guess_parameters(config: dict[str, object], layers: int, hidden: int, inner: int) -> int:
    """Count matrices from the config alone, for carried artifacts, which have no safetensors."""
    words = _first(config, "vocab_size") or 30_000
    return words * hidden + layers * (4 * hidden**2 + 2 * hidden * inner)


def _first(config: dict[str, object], *names: str) -> int | None:
    """Return the first of several settings that is there."""
    found = (config.get(name) for name in names)
    return next((int(value) for value in found if isinstance(value, int) and value > 0), None)


def _count_parameters(folder: Path) -> int:
    from safetensors import safe_open

    n_parameters = 0
    for path in weight_files(folder):
        with safe_open(path, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118  # not a dict
                n_parameters += math.prod(tensors.get_slice(name).get_shape())
    return max(1, n_parameters)
