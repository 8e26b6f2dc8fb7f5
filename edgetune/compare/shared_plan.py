"""One plan for all methods of a data set and a deadline, so that they differ in what they select alone.

Planned one by one, a filter may get one layer more frozen than training everything, and what is then measured
is the layer.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgetune.compare.grid import Cell, encoder_alone
from edgetune.compare.shared_rows import SharedRows
from edgetune.runs.dry_run import dry_run
from edgetune.selection import SelectionSettings
from edgetune.utils.errors import EdgetuneError
from edgetune.utils.files import write_atomic
from edgetune.utils.parsing import read_json_file
from edgetune.utils.types import Say

FILE = "plans.json"


class SharedPlans:
    """What `edgetune plan` says for training everything, kept in the comparison's folder."""

    def __init__(self, folder: Path, rows: Mapping[str, SharedRows], cache_dir: Path, say: Say) -> None:
        """Read the plans that an earlier start of the comparison made."""
        self._file, self._rows, self._cache_dir, self._say = folder / FILE, rows, cache_dir, say
        self._known: dict[str, dict[str, Any]] = {}
        with contextlib.suppress(OSError, ValueError, TypeError):  # none yet, or damaged: plan again
            self._known = dict(read_json_file(self._file))

    def applied(self, cell: Cell) -> Cell:
        """Return the cell with the plan's settings, where one is known; its own settings come first."""
        if not _planned(cell):
            return cell
        return cell.model_copy(update={"settings": self._known.get(self._key(cell), {}) | cell.settings})

    def make(self, cell: Cell) -> None:
        """Plan for a cell, if none like it was planned; where no training fits, its run decides."""
        if not _planned(cell) or self._key(cell) in self._known:
            return
        asked = _asked(cell)
        self._say(f"Planning {asked['deadline_s']:g} s on {cell.data}, once for all methods")
        try:
            plans = dry_run(encoder_alone(self._rows[cell.data].settings | asked), self._cache_dir).ranked
        except EdgetuneError:  # each method then says itself what is wrong
            plans = ()
        best = next((plan for plan in plans if plan.trains), None)
        found: dict[str, Any] = {}
        if best is not None:
            wanted = ("backend", "precision", "batch_size", "max_length", "threads")
            found = {name: value for name in wanted if (value := getattr(best, name)) is not None}
            # Else each cell would plan by the runs of those before it.
            found |= {"freeze": str(best.depth), "use_earlier_runs": False}
        self._known[self._key(cell)] = found
        write_atomic(self._file, json.dumps(self._known, indent=2) + "\n")

    def _key(self, cell: Cell) -> str:
        return json.dumps([cell.data, self._rows[cell.data].key, _asked(cell)], sort_keys=True)


def _planned(cell: Cell) -> bool:
    return not cell.outside and "deadline_s" in cell.settings


def _asked(cell: Cell) -> dict[str, Any]:
    """Return what a plan depends on: all but how rows are selected."""
    return {
        name: value for name, value in cell.settings.items() if name not in SelectionSettings.model_fields
    }
