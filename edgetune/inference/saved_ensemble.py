"""The ensemble of a run as it lies in its folder: weights and n-grams in `ensemble/`, beside the encoder.

ensemble.json          names and weights of the learners
ngrams.json …          the n-gram classifier (`learners.ngrams`)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgetune.learners.ensemble import Ensemble
from edgetune.learners.ngrams import Ngrams
from edgetune.run_files.run_folder import ENSEMBLE, damage_errors
from edgetune.utils.metrics import log_softmax
from edgetune.utils.parsing import read_json_file
from edgetune.utils.types import FloatArray

NGRAMS, ENCODER, PROBE = "n-grams", "encoder", "linear probe"
WEIGHTS = "ensemble.json"


@dataclass(frozen=True)
class SavedEnsemble:
    """Learners and weights of a run; the encoder itself lies elsewhere.

    Attributes:
        ensemble: which learners answer, and with what weights.
        ngrams: the n-gram classifier.
    """

    ensemble: Ensemble
    ngrams: Ngrams

    @property
    def needs_encoder(self) -> bool:
        """Whether the encoder takes part."""
        return ENCODER in self.ensemble.names

    def log_proba(self, texts: Sequence[str], logits: FloatArray | None) -> FloatArray:
        """Return log-probabilities (N, C) of texts.

        Args:
            texts: (N,).
            logits: (N, C) of the encoder; needed if it takes part.
        """
        log_probas: dict[str, FloatArray] = {}
        if NGRAMS in self.ensemble.names:
            log_probas[NGRAMS] = self.ngrams.log_proba(texts)
        if logits is not None:
            log_probas[ENCODER] = log_softmax(logits)
        return self.ensemble.combine(log_probas)

    def write(self, scratch: Path) -> None:
        """Write `ensemble/` into a folder."""
        home = scratch / ENSEMBLE
        home.mkdir()
        text = json.dumps(self.ensemble.to_dict(), indent=2) + "\n"
        (home / WEIGHTS).write_text(text, encoding="utf-8")
        self.ngrams.save(home)


def load_ensemble(run: Path) -> SavedEnsemble | None:
    """Read the ensemble of a run folder; None where the run has the encoder alone.

    Raises:
        RunError: it is damaged.
    """
    home = run / ENSEMBLE
    if not (home / WEIGHTS).is_file():
        return None
    with damage_errors(home / WEIGHTS):
        ensemble = Ensemble.from_dict(read_json_file(home / WEIGHTS))
    return SavedEnsemble(ensemble, Ngrams.load(home))
