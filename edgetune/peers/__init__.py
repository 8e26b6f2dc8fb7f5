"""The outside peers: other people's usual ways to the same classifier, each a program of its own.

    python -m edgetune.peers NAME TASK.json ─→ OUT/model…  OUT/predicted.json  OUT/result.json

Each runs in a fresh process beside edgetune's own methods, on the same rows. Nothing heavy is imported
here: names, a line on each, and what has to be installed.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgetune.errors import EnvironmentError_, UsageError, did_you_mean
from edgetune.machine import installed

if TYPE_CHECKING:
    from edgetune.peers.base import Fit

INSTALL = 'pip install "edgetune[peers]"'


@dataclass(frozen=True, slots=True)
class Peer:
    """One way of training that is not edgetune's.

    Attributes:
        name: as the command line has it.
        summary: one line.
        packages: distributions that it needs beside edgetune's own.
        module: where its `fit` is.
    """

    name: str
    summary: str
    packages: tuple[str, ...]
    module: str

    def missing(self) -> list[str]:
        """Return the packages that are not installed; nothing is imported."""
        return [name for name in self.packages if installed(name) is None]

    def check(self) -> None:
        """Make sure that the packages are there.

        Raises:
            EnvironmentError_: one is not; names the command that installs it.
        """
        if missing := self.missing():
            verb = "is" if len(missing) == 1 else "are"
            raise EnvironmentError_(
                f"{self.name} needs {' and '.join(missing)}, which {verb} not installed; "
                f"get it with `{INSTALL}`."
            )

    def load(self) -> Fit:
        """Import the peer's module and return what trains it."""
        fit: Fit = importlib.import_module(self.module).fit
        return fit


_ALL = (
    Peer(
        "tfidf-logreg",
        "TF-IDF of words and word pairs, and logistic regression (scikit-learn)",
        ("scikit-learn",),
        "edgetune.peers.tfidf",
    ),
    Peer(
        "encoder-logreg",
        "sentence embeddings of the untouched encoder, and logistic regression (torch, scikit-learn)",
        ("torch", "transformers", "scikit-learn"),
        "edgetune.peers.encoder",
    ),
    Peer(
        "hf-trainer",
        "the whole encoder finetuned by Hugging Face Trainer with its defaults",
        ("torch", "transformers", "accelerate"),
        "edgetune.peers.trainer",
    ),
    Peer(
        "setfit",
        "SetFit with its defaults on a few examples per label: contrastive pairs, then logistic regression",
        ("setfit", "transformers", "accelerate", "datasets"),
        "edgetune.peers.setfit",
    ),
)
PEERS: dict[str, Peer] = {peer.name: peer for peer in _ALL}


def find_peer(name: str) -> Peer:
    """Return the peer of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in PEERS:
        raise UsageError(
            f'There is no peer "{name}".{did_you_mean(name, PEERS)} The peers are {", ".join(PEERS)}.'
        )
    return PEERS[name]
