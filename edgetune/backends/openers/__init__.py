"""Values of `--backend`, one file each, which has the value's name: what it refuses, and how it is opened.

Another backend is one file here (and its folder, if it is more than a file), with one `Opener`. The command
line reads the names of the files, so these modules import nothing heavy. May import what `backends` may.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgetune.utils.errors import UsageError
from edgetune.utils.plugins import module_names, own_classes

if TYPE_CHECKING:
    from edgetune.backends.backend_contract import Backend
    from edgetune.backends.hidden_cache import HiddenCache
    from edgetune.backends.ort.artifacts import Artifacts
    from edgetune.config.settings import ModelSettings, RunConfig
    from edgetune.devices.device_profile import FixedCosts
    from edgetune.models.source import ModelSource


@dataclass(frozen=True)
class Traits:
    """What the planner and the profiler have to know of a backend.

    Attributes:
        nominal: its costs where it was not measured, for a small encoder on two cores.
        trains: whether it trains; otherwise it computes features for a linear probe, and is not profiled.
        exports: whether it opens training artifacts, which are exported once per model, depth and labels.
        imports_early: whether a run imports its runtime while it starts, as the command line's default.
        runtime: backends of the same runtime need the same time for a forward pass.
        precisions: arithmetic that it can use.
        devices: where it can run.
        most_tokens: tokens, with padding, that a train step on a CPU sends through at once; None: all.
    """

    nominal: FixedCosts
    trains: bool = True
    exports: bool = False
    imports_early: bool = False
    runtime: str = ""
    precisions: tuple[str, ...] = ("fp32",)
    devices: tuple[str, ...] = ("cpu",)
    most_tokens: int | None = None


@dataclass(frozen=True)
class Opening:
    """What a backend is opened with, by a run or by the profiler.

    Attributes:
        source: the model.
        settings: how it is trained; `freeze` is decided.
        n_labels: classes of the new head.
        seed: of the new head and of dropout.
        tokenizer_folder: where the fast tokenizer lies.
        cache: for the frozen layers' output; None: it is computed every time.
        artifacts: returns training artifacts, which may be exported first; called by backends that use any.
        weights: folder of a model whose weights replace those of the artifacts; None: theirs stay.
        pair: whether rows have two texts.
        multi_label: whether rows may have several labels.
    """

    source: ModelSource
    settings: ModelSettings
    n_labels: int
    seed: int
    tokenizer_folder: Path
    cache: HiddenCache | None
    artifacts: Callable[[], Artifacts]
    weights: Path | None = None
    pair: bool = False
    multi_label: bool = False


class Opener:
    """What a module of this folder defines."""

    TRAITS: ClassVar[Traits]

    def missing(self) -> str:
        """Say which package is not installed, and how to install it; return "" if all are there."""
        raise NotImplementedError

    def fits(self, source: ModelSource) -> bool:
        """Return whether it can run a model, as far as is known before that is tried."""
        return True

    def import_runtime(self) -> None:
        """Import what takes long, for the profiler; only backends that train define this."""
        raise NotImplementedError

    def check(self, config: RunConfig) -> None:
        """Refuse settings that the backend cannot follow.

        Raises:
            UsageError: what is not possible, and what to do.
        """

    def open_backend(self, asked: Opening) -> Backend:
        """Open the model, ready to train or to score; only then is anything heavy imported."""
        raise NotImplementedError


@cache
def find_opener(name: str) -> Opener:
    """Return what the module of that name defines; the settings have refused names that do not exist."""
    (kind,) = own_classes(importlib.import_module(f"{__name__}.{name}"), Opener)
    return kind()


def traits_of(name: str) -> Traits:
    """Return what is known of the backend of that name."""
    return find_opener(name).TRAITS


def backend_names() -> tuple[str, ...]:
    """Return the names of all backends."""
    return module_names(__name__)


def profiled_keys() -> tuple[str, ...]:
    """Return the keys of all that can be profiled, such as `torch-bf16` or `torch-fp32-cuda`."""
    return tuple(
        f"{name}-{precision}" + ("" if device == "cpu" else f"-{device}")
        for name in backend_names()
        if (traits := traits_of(name)).trains
        for device, precision in product(traits.devices, traits.precisions)
    )


def accepting(config: RunConfig) -> Iterator[str]:
    """Yield the backends that train and accept the settings."""
    for name in backend_names():
        with contextlib.suppress(UsageError):
            find_opener(name).check(config)
            if traits_of(name).trains:
                yield name
