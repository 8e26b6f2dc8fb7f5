"""The baselines: other people's usual ways to the same classifier, each a program of its own.

    python -m edgetune.compare.baselines NAME TASK.json ─→ OUT/model…  OUT/predicted.json  OUT/result.json

Each runs in a fresh process beside edgetune's own methods, on the same rows, and imports what it needs when
it is fitted. Methods of edgetune's own belong in `selection`. May import whatever `compare` may.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgetune.utils.errors import MissingDependencyError, UsageError, did_you_mean
from edgetune.utils.machine import installed
from edgetune.utils.plugins import modules_of

if TYPE_CHECKING:
    from edgetune.compare.baselines.task import Fit


INSTALL = 'pip install "edgetune[baselines]"'


@dataclass(frozen=True, slots=True)
class Baseline:
    """One way of training that is not edgetune's; another one is a file here that defines a `Baseline`.

    Attributes:
        packages: distributions that it needs beside edgetune's own.
        fit: trains and saves it; the docstring of its module is the baseline's card.
    """

    name: str
    summary: str
    packages: tuple[str, ...]
    fit: Fit

    def check(self) -> None:
        """Make sure that the packages are there; nothing is imported.

        Raises:
            MissingDependencyError: one is not; names the command that installs it.
        """
        if missing := [name for name in self.packages if installed(name) is None]:
            verb = "is" if len(missing) == 1 else "are"
            raise MissingDependencyError(
                f"{self.name} needs {' and '.join(missing)}, which {verb} not installed; "
                f"install with `{INSTALL}`."
            )


@functools.cache
def all_baselines() -> dict[str, Baseline]:
    """Return the baselines that this folder's modules define, those that need the fewest packages first."""
    found = (one for module in modules_of(__name__) for one in vars(module).values())
    every = {one.name: one for one in found if isinstance(one, Baseline)}
    return dict(sorted(every.items(), key=lambda item: (len(item[1].packages), item[0])))


def find_baseline(name: str) -> Baseline:
    """Return the baseline of that name.

    Raises:
        UsageError: there is none.
    """
    known = all_baselines()
    if name in known:
        return known[name]
    near = did_you_mean(name, known)
    raise UsageError(f'There is no baseline "{name}".{near} The baselines are {", ".join(known)}.')
