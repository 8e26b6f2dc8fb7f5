"""What this machine is: processor, memory, operating system, installed versions, peak memory so far.

Imports nothing heavy; nothing here starts a runtime. Paths are below `root` so that tests can lay out a
machine of their own. What cannot be found out is None or left out, never 0.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from edgetune.utils.errors import ResourceError
from edgetune.utils.version import __version__

ROOT = Path("/")

PACKAGES = (
    "numpy",
    "tokenizers",
    "onnxruntime-training-cpu",
    "onnxruntime-training",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "transformers",
    "optimum",
    "optimum-onnx",
    "onnx",
    "datasets",
)

# Name shown: flags of which any one means that it is there (x86 flags, then ARM features).
_INSTRUCTION_SETS: dict[str, tuple[str, ...]] = {
    "AVX2": ("avx2",),
    "AVX512": ("avx512f",),
    "AVX512-BF16": ("avx512_bf16",),
    "VNNI": ("avx512_vnni", "avx_vnni"),
    "AMX": ("amx_tile",),
    "NEON": ("neon", "asimd"),
    "SVE": ("sve",),
    "BF16": ("bf16",),
}


def cache_folder(given: str | Path | None = None) -> Path:
    """Return where artifacts and tokens are kept: as given, else `EDGETUNE_CACHE`, else the user's cache."""
    if named := given or os.environ.get("EDGETUNE_CACHE"):
        return Path(named)
    found = user_folder("cache")
    if found is None:
        raise ResourceError(
            "This user has no home folder to keep edgetune's cache in; name a folder with --cache-dir, or "
            "set EDGETUNE_CACHE."
        )
    return found


def user_folder(kind: Literal["cache", "config"]) -> Path | None:
    """Return the user's own folder of edgetune, None for a user without a home (as in many containers)."""
    import platformdirs

    try:
        find = platformdirs.user_cache_dir if kind == "cache" else platformdirs.user_config_dir
        found = Path(find("edgetune"))
    except (RuntimeError, KeyError):
        return None
    return found if found.is_absolute() else None  # older ones return a `~` that they could not expand


def _first_values(path: Path) -> dict[str, str]:
    """Return the first value of every key of a file in /proc, keys in lower case."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return {}
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            values.setdefault(key.strip().lower(), value.strip())
    return values


def cpu_info(root: Path) -> dict[str, str]:
    """Return what /proc/cpuinfo says of the first processor, keys in lower case."""
    return _first_values(root / "proc/cpuinfo")


def _sysctl(name: str) -> str:
    try:
        done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def cpu_name(root: Path = ROOT) -> str:
    """Return the processor's name as the system tells it, else its architecture."""
    info = cpu_info(root)
    for key in ("model name", "hardware", "model", "cpu model"):
        if info.get(key) and not info[key].isdigit():
            return info[key]
    brand = _sysctl("machdep.cpu.brand_string") if sys.platform == "darwin" else ""
    return brand or platform.processor() or platform.machine() or "unknown processor"


def cpu_features(root: Path = ROOT) -> list[str]:
    """Return the instruction sets that decide how fast training is, of those edgetune knows."""
    info = cpu_info(root)
    flags = set(f"{info.get('flags', '')} {info.get('features', '')}".lower().split())
    if not flags and sys.platform == "darwin":
        flags = set(_sysctl("machdep.cpu.leaf7_features").lower().split())
        flags |= {"neon"} if platform.machine() == "arm64" else set()
    return [name for name, any_of in _INSTRUCTION_SETS.items() if flags.intersection(any_of)]


def usable_cores() -> int:
    """Return how many processors this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def memory_mb(root: Path = ROOT) -> float | None:
    """Return the machine's memory in MB (10^6 bytes)."""
    if total := _first_values(root / "proc/meminfo").get("memtotal"):
        return int(total.split()[0]) * 1024 / 1e6
    if root != ROOT:
        return None
    import psutil

    return float(psutil.virtual_memory().total) / 1e6


def free_memory_mb() -> float:
    """Return the memory (MB, 10^6 bytes) that could be taken now without swapping."""
    import psutil

    return float(psutil.virtual_memory().available) / 1e6


def peak_memory_mb() -> float | None:
    """Return the largest resident memory (MB, 10^6 bytes) that this process or a finished child had."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        peak = getattr(psutil.Process().memory_info(), "peak_wset", None)
        return None if peak is None else float(peak) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(kind).ru_maxrss for kind in kinds) * unit / 1e6


def return_memory() -> None:
    """Give the system back what was freed: glibc keeps it between blocks in use, more the longer it runs."""
    with contextlib.suppress(OSError, TypeError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


@cache
def installed(name: str) -> str | None:
    """Return the version of an installed distribution; nothing is imported."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def package_folder(name: str) -> Path | None:
    """Return where an installed package's modules lie; nothing is imported."""
    spec = importlib.util.find_spec(name)
    places = None if spec is None else spec.submodule_search_locations
    return Path(next(iter(places))) if places else None


def versions() -> dict[str, str]:
    """Return the versions of edgetune, Python and every installed package that shapes a run."""
    found = {name: installed(name) for name in PACKAGES}
    own = {"edgetune": __version__, "python": platform.python_version()}
    return own | {name: version for name, version in found.items() if version is not None}


def machine_info(root: Path = ROOT) -> dict[str, Any]:
    """Return what a summary says about the machine, as JSON values."""
    memory = memory_mb(root)
    return {
        "cpu": cpu_name(root),
        "cores": usable_cores(),
        "features": cpu_features(root),
        "memory_mb": None if memory is None else round(memory),
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
    }
