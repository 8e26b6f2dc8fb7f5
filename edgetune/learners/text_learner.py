"""Learners that are fitted on texts beside n-grams and encoder: the contract, and how they are found."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from edgetune.config.choices import TEXT_LEARNERS, TEXT_LEARNERS_PACKAGE
from edgetune.utils.errors import RunError
from edgetune.utils.plugins import own_classes
from edgetune.utils.types import FloatArray, Labels

Learned = TypeVar("Learned", bound="TextLearner")


class TextLearner(ABC):
    """A classifier of texts."""

    @classmethod
    @abstractmethod
    def fit(
        cls: type[Learned],
        texts: Sequence[str],
        labels: Labels,
        n_classes: int,
        *,
        seed: int,
        time_left_s: Callable[[], float],
    ) -> Learned:
        """Fit on all rows, or on as many as there is time for.

        Args:
            texts: (n,) as they are; the two of a pair with `PAIR_SEPARATOR` between them.
            labels: (n,) class ids, or multi-hot (n, C).
            n_classes: C; a class may have no row.
            seed: of everything random; without a deadline, the same rows and seed give the same model.
            time_left_s: seconds until it has to be done, to be asked before and while it works.
        """

    @abstractmethod
    def log_proba(self, texts: Sequence[str]) -> FloatArray:
        """Return finite log-probabilities (N, C) of texts (N,); with several labels a text, of each label."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the learner into an existing folder, without pickles."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> TextLearner:
        """Read what `save` wrote.

        Raises:
            RunError: a file is missing or damaged.
        """


def find_text_learner(name: str) -> type[TextLearner]:
    """Import the learner of that name, which is one of `TEXT_LEARNERS`."""
    module = importlib.import_module(f"{TEXT_LEARNERS_PACKAGE}.{name.replace('-', '_')}")
    return next(own_classes(module, TextLearner))  # type: ignore[type-abstract]


def load_text_learner(name: str, folder: Path) -> TextLearner:
    """Read a learner of a run.

    Raises:
        RunError: this edgetune has no such learner, or its files are damaged.
    """
    if name not in TEXT_LEARNERS:
        raise RunError(
            f"{folder} holds a learner that this edgetune does not have; use the edgetune that the run was "
            "trained with."
        )
    return find_text_learner(name).load(folder)
