"""How good the meta predictor's calls are, counted where a loss tells the truth.

In stage 2 nothing is known of most rows that are called easy, but each of them had the same chance to be
explored: those that were stand for all.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgetune.types import BoolArray


@dataclass
class Audit:
    """Counts of rows whose call and loss are both known.

    Attributes:
        n_easy: called easy; in stage 1 all of those, in stage 2 the explored.
        n_easy_below: of them, with a loss that is no higher than the threshold.
        n_explored, n_explored_hard: called easy in stage 2 and scored anyway; of them, above the threshold.
        n_called, n_called_hard: called hard in stage 2; of them, above the threshold.
    """

    n_easy: int = 0
    n_easy_below: int = 0
    n_explored: int = 0
    n_explored_hard: int = 0
    n_called: int = 0
    n_called_hard: int = 0

    def stage_one(self, called_hard: BoolArray, hard: BoolArray) -> None:
        """Count a batch of stage 1: calls and truth, (B,) each."""
        self._count_easy(~called_hard, hard)

    def stage_two(self, explored: BoolArray, hard: BoolArray) -> None:
        """Count a batch that stage 2 scored: whether each row was explored, and the truth, (B,) each."""
        self._count_easy(explored, hard)
        self.n_explored += int(np.count_nonzero(explored))
        self.n_explored_hard += int(np.count_nonzero(explored & hard))
        self.n_called += int(np.count_nonzero(~explored))
        self.n_called_hard += int(np.count_nonzero(~explored & hard))

    def _count_easy(self, easy: BoolArray, hard: BoolArray) -> None:
        self.n_easy += int(np.count_nonzero(easy))
        self.n_easy_below += int(np.count_nonzero(easy & ~hard))

    def report(self, explore_rate: float) -> dict[str, Any]:
        """Return shares in [0, 1], None where nothing was counted.

        Args:
            explore_rate: with which probability a row that is called easy is explored.
        """
        n_missed = self.n_explored_hard / explore_rate if explore_rate else 0.0
        known = self.n_explored > 0
        return {
            "n_explored": self.n_explored,
            "explored_hard_rate": _share(self.n_explored_hard, self.n_explored),
            "overlap_rate": _share(self.n_easy_below, self.n_easy),
            "predictor_precision": _share(self.n_called_hard, self.n_called),
            "predictor_recall": _share(self.n_called_hard, self.n_called_hard + n_missed) if known else None,
        }

    def state(self) -> dict[str, int]:
        """Return the counts."""
        return asdict(self)


def _share(part: float, whole: float) -> float | None:
    return None if whole == 0 else part / whole
