"""What is to be measured on this machine: which backends, on which grid, with which artifacts."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgetune.backends.ort.artifacts import ArtifactBuilder, artifacts_cache_key
from edgetune.backends.ort.ort_runtime import has_training_build
from edgetune.config.settings import freeze_of
from edgetune.devices.device_profile import Machine, ModelShape
from edgetune.models.source import ModelSource
from edgetune.profiling.opened_backend import LABELS
from edgetune.utils.cache import cache_subfolder
from edgetune.utils.errors import EdgetuneError, MissingDependencyError, UsageError
from edgetune.utils.formatting import counted

KEYS = ("ort-fp32", "torch-fp32", "torch-bf16", "torch-fp32-cuda", "torch-bf16-cuda")
BF16_FEATURES = {"AVX512-BF16", "AMX", "BF16"}


@dataclass(frozen=True)
class MeasureGrid:
    """Where operations are measured.

    Attributes:
        lengths: tokens, ascending.
        batches: examples, ascending.
        depths: frozen layers, beginning with 0.
    """

    lengths: tuple[int, ...]
    batches: tuple[int, ...]
    depths: tuple[int, ...]

    @property
    def growing(self) -> list[tuple[int, int]]:
        """Some batches (rows, tokens) from small to large, to see how memory grows."""
        batches, lengths = self.batches, self.lengths
        shapes = {(batches[0], lengths[0]), (batches[-1], lengths[(len(lengths) - 1) // 2])}
        return sorted(shapes | {(batches[-1], lengths[-1])})


def make_measure_grid(shape: ModelShape, max_length: int, quick: bool) -> MeasureGrid:
    """Return the grid for a model."""
    lengths, batches = ((16, 64), (8, 32)) if quick else ((8, 16, 32, 64, 128), (4, 32))
    # To the ends, so that nothing a plan may ask for lies outside: one layer alone is unlike the others.
    depths = {0, round(shape.n_layers / 2)} | (set() if quick else {max(0, shape.n_layers - 1)})
    depths -= {shape.n_layers}
    fitting = tuple(length for length in lengths if length <= max_length)
    return MeasureGrid(fitting or (max(1, max_length),), batches, tuple(sorted(depths)))


def choose_keys(wanted: Sequence[str], machine: Machine) -> tuple[list[str], list[str]]:
    """Return which backends to measure, and notes on those left out.

    Raises:
        UsageError: a wanted backend does not exist.
        MissingDependencyError: nothing that can train is installed.
    """
    for key in wanted:
        if key not in KEYS:
            raise UsageError(f"--backend {key}: there is no such backend; choose from {', '.join(KEYS)}.")
    has_ort, has_torch = has_training_build(), _installed("torch") and _installed("transformers")
    has_bf16 = bool(BF16_FEATURES & set(machine.features))
    notes: list[str] = []
    keys: list[str] = []
    for key in wanted or KEYS:
        if not (has_ort if key.startswith("ort") else has_torch):
            notes.append(f"{key} was left out: its packages are not installed.")
        elif key.endswith("cuda") and machine.gpu is None and not wanted:
            continue
        elif key == "torch-bf16" and not has_bf16 and not wanted:
            notes.append(
                f"{key} was left out: this processor has no bf16 instructions, so bf16 is far slower."
            )
        else:
            keys.append(key)
    if not keys:
        raise MissingDependencyError(
            'No backend that could be measured is installed; run `pip install "edgetune[cpu]"` '
            "(`edgetune doctor` shows what is missing)."
        )
    return keys, notes


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@dataclass(frozen=True)
class Exported:
    """Training artifacts for two labels.

    Attributes:
        folders: by depth, as text.
        export_s: seconds of one export.
        notes: on depths that could not be exported.
    """

    folders: dict[str, str]
    export_s: float
    notes: list[str]


def export_all(
    source: ModelSource,
    depths: Sequence[int],
    cache_dir: Path,
    scratch: Path,
    quick: bool,
    tell: Callable[[str], None],
) -> Exported:
    """Get artifacts at every depth, from the cache where they are; time one export.

    A quick measurement takes the time of an export from an earlier one on this machine, if there is one.
    """
    builder = ArtifactBuilder(source, cache_dir)
    remembered = (
        cache_dir / "export-seconds" / f"{artifacts_cache_key(source.fingerprint(), freeze_of(0))}.txt"
    )
    export_s = _read_seconds(remembered) if quick else None
    folders: dict[str, str] = {}
    notes: list[str] = []
    for depth in depths:
        fresh = builder.cached(len(LABELS), freeze_of(depth)) is None
        if fresh:
            tell(f"exporting {source.name}" + (f" with {counted(depth, 'layer')} frozen" if depth else ""))
        started = time.perf_counter()
        found = _export(builder, depth)
        if isinstance(found, EdgetuneError):
            notes.append(f"ort could not be exported with {counted(depth, 'layer')} frozen: {found}")
            continue
        folders[str(depth)] = str(found.resolve())
        if fresh and depth == 0:
            export_s = time.perf_counter() - started
    if export_s is None:
        tell(f"exporting {source.name} to measure how long it takes")
        started = time.perf_counter()
        ArtifactBuilder(source, scratch / "export").get(len(LABELS), freeze_of(0))
        export_s = time.perf_counter() - started
    cache_subfolder(cache_dir, "export-seconds")
    remembered.write_text(f"{export_s:.3f}\n", encoding="utf-8")
    return Exported(folders, export_s, notes)


def _export(builder: ArtifactBuilder, depth: int) -> Path | EdgetuneError:
    """Return artifacts, or why a model cannot be exported with layers cut off."""
    try:
        return builder.get(len(LABELS), freeze_of(depth)).folder
    except EdgetuneError as error:
        if depth == 0:
            raise
        return error


def _read_seconds(path: Path) -> float | None:
    try:
        seconds = float(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return seconds if 0.0 < seconds < math.inf else None
