"""What came of a cell: everything that tables, tests and pictures of a comparison are made from."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from edgetune.compare.grid import Cell
from edgetune.utils.errors import RunError
from edgetune.utils.parsing import read_json_file
from edgetune.utils.types import BoolArray

SCHEMA_VERSION = 2  # 2: phases and stages under their new names
FILE = "cell.json"


class Outcome(Cell):
    """One cell, run.

    Attributes:
        key: hash of what decided its result.
        command: makes it again, in the comparison's folder.
        error: why it failed; "" where it did not.
        accuracy: on all evaluation rows of the comparison, by the saved model.
        right: whether each of them was answered right, in order; packed bits in base64.
        n_eval: how many there are.
        seconds: from the start of the process to the saved model and summary, its own evaluation taken off.
        wall_s: of the process, as seen from outside.
        counts: seen, scored, trained, steps, and skipped rates, where the program says.
        energy_j: as the summary has it; None where nothing is known.
        stages: (stage, second it began) in order.
        notes: what the program says of itself.
        date: UTC, ISO.
        commit: of the checkout that it ran from, with `+` where that was changed; "" elsewhere.
    """

    schema_version: Literal[2] = 2
    key: str
    command: str
    error: str = ""
    accuracy: float | None = None
    right: str = ""
    n_eval: int = 0
    seconds: float | None = None
    wall_s: float | None = None
    time_split_s: dict[str, float] = Field(default_factory=dict)
    counts: dict[str, float | int | None] = Field(default_factory=dict)
    energy_j: float | None = None
    energy_source: str = ""
    stages: list[tuple[str, float]] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    machine: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    date: str = ""
    commit: str = ""

    @property
    def ok(self) -> bool:
        """Whether it gave a model that was measured."""
        return not self.error and self.accuracy is not None

    def phases_s(self, *names: str) -> float:
        """Return the seconds that these phases took."""
        return sum(self.time_split_s.get(name, 0.0) for name in names)

    def answers(self) -> BoolArray:
        """(n_eval,) whether each evaluation row was answered right."""
        return np.unpackbits(self._bits(), count=self.n_eval).astype(np.bool_)

    def _bits(self) -> npt.NDArray[np.uint8]:
        return np.frombuffer(base64.b64decode(self.right, validate=True), np.uint8)

    @model_validator(mode="after")
    def _is_whole(self) -> Outcome:
        if self.ok and (self.seconds is None or len(self._bits()) != -(-self.n_eval // 8)):
            raise ValueError("seconds or answers are missing")
        return self


def pack_answers(right: BoolArray) -> str:
    """Return answers as `Outcome.right` has them."""
    return base64.b64encode(np.packbits(right).tobytes()).decode()


def read_outcome(path: Path) -> Outcome | None:
    """Return a cell's outcome; None where there is none, or it is torn.

    Raises:
        RunError: it was written by a newer edgetune.
    """
    try:
        raw = read_json_file(path)
        version = raw.get("schema_version", 0) if isinstance(raw, dict) else 0
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise RunError(f"{path} was written by a newer edgetune (schema {version}); update edgetune.")
        return Outcome.model_validate(raw)
    except (OSError, ValueError):
        return None


def write_lines(outcomes: Iterable[Outcome]) -> str:
    """Return outcomes as JSON lines."""
    return "".join(json.dumps(one.model_dump(mode="json"), ensure_ascii=False) + "\n" for one in outcomes)


def by_variant(outcomes: Sequence[Outcome], curve: bool = False) -> dict[str, list[Outcome]]:
    """Group the cells that worked by variant, seeds in order: methods, or points of the curve."""
    found: dict[str, list[Outcome]] = {}
    for one in sorted(outcomes, key=lambda one: one.seed):
        if one.ok and one.curve == curve:
            found.setdefault(one.variant, []).append(one)
    return found
