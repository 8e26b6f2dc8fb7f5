"""Values of `--backend`, one file each, which has the value's name: what it refuses, and how it is opened.

Another backend is one file here (and its folder, if it is more than a file). It defines

    check(config)             raises UsageError where the settings ask for what it cannot do
    open_backend(asked)       returns a `Backend`; only then is anything heavy imported

The command line reads the names of the files, so these modules import nothing heavy. May import what
`backends` may.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from edgetune.backends.backend_contract import Backend
    from edgetune.backends.hidden_cache import HiddenCache
    from edgetune.backends.model_loader import ModelLoader
    from edgetune.config.settings import RunConfig
    from edgetune.utils.meter import Meter
    from edgetune.utils.types import Say


@dataclass(frozen=True)
class Opening:
    """What a backend is opened with.

    Attributes:
        loader: the model and its files.
        config: settings; the backend, `freeze` and the number of threads are decided.
        n_labels: classes of the new head.
        multi_label: whether rows may have several labels.
        cache: for the frozen layers' output; None: it is computed every time.
        meter: is charged with an export.
        say: is told what takes a while.
    """

    loader: ModelLoader
    config: RunConfig
    n_labels: int
    multi_label: bool
    cache: HiddenCache | None
    meter: Meter
    say: Say


class Opener(Protocol):
    """A module of this folder."""

    def check(self, config: RunConfig) -> None:
        """Refuse settings that the backend cannot follow.

        Raises:
            UsageError: what is not possible, and what to do.
        """
        ...

    def open_backend(self, asked: Opening) -> Backend:
        """Open the model, ready to train or to score."""
        ...


def find_opener(name: str) -> Opener:
    """Import and return the module of that name; the settings have refused names that do not exist."""
    return cast("Opener", importlib.import_module(f"{__name__}.{name}"))
