"""The baselines: other people's usual ways to the same classifier, each a program of its own.

    python -m edgetune.compare.baselines NAME TASK.json ─→ OUT/model…  OUT/predicted.json  OUT/result.json

Each runs in a fresh process beside edgetune's own methods, on the same rows. This module imports nothing
heavy: it holds names, one line on each, and the packages to install. Methods of edgetune's own belong in
`selection`. May import whatever `compare` may.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgetune.utils.errors import MissingDependencyError, UsageError, did_you_mean
from edgetune.utils.machine import installed

if TYPE_CHECKING:
    from edgetune.compare.baselines.task import Fit


INSTALL = 'pip install "edgetune[baselines]"'


@dataclass(frozen=True, slots=True)
class Baseline:
    """One way of training that is not edgetune's.

    Attributes:
        packages: distributions that it needs beside edgetune's own.
        module: where its `fit` is.
    """

    name: str
    summary: str
    packages: tuple[str, ...]
    module: str

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

    def load(self) -> Fit:
        """Import the baseline's module and return what trains it."""
        fit: Fit = importlib.import_module(self.module).fit
        return fit


_ALL = (
    Baseline(
        "tfidf-logreg",
        "TF-IDF of words and word pairs, and logistic regression (scikit-learn)",
        ("scikit-learn",),
        "edgetune.compare.baselines.tfidf",
    ),
    Baseline(
        "encoder-logreg",
        "sentence embeddings of the untouched encoder, and logistic regression (torch, scikit-learn)",
        ("torch", "transformers", "scikit-learn"),
        "edgetune.compare.baselines.encoder_logreg",
    ),
    Baseline(
        "hf-trainer",
        "the whole encoder finetuned by Hugging Face Trainer with its defaults",
        ("torch", "transformers", "accelerate"),
        "edgetune.compare.baselines.hf_trainer",
    ),
    Baseline(
        "setfit",
        "SetFit with its defaults on a few examples per label: contrastive pairs, then logistic regression",
        ("setfit", "transformers", "accelerate", "datasets"),
        "edgetune.compare.baselines.setfit",
    ),
)
BASELINES: dict[str, Baseline] = {baseline.name: baseline for baseline in _ALL}


def find_baseline(name: str) -> Baseline:
    """Return the baseline of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in BASELINES:
        raise UsageError(
            f'There is no baseline "{name}".{did_you_mean(name, BASELINES)} '
            f"The baselines are {', '.join(BASELINES)}."
        )
    return BASELINES[name]
