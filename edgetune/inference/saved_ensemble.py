"""What answers in a run's folder: its encoder, and in `ensemble/` the other learners and all weights.

ensemble.json          names and weights of the learners, and the labels by class id
ngrams.json …          the n-gram classifier (`learners.ngrams`)
NAME/                  another learner of texts (`learners.text_learner`)
tokenizer.json         only in a run that has no encoder
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgetune.backends.onnx_files import find_unsafe_reference
from edgetune.backends.ort.ort_runtime import import_ort
from edgetune.learners.ensemble import Ensemble
from edgetune.learners.ngrams.learner import Ngrams
from edgetune.learners.text_learner import TextLearner, load_text_learner
from edgetune.models.checks import check_folder
from edgetune.models.source import takes_segments
from edgetune.run_files.run_folder import ENSEMBLE, damage_errors
from edgetune.utils.errors import RunError
from edgetune.utils.files import write_json
from edgetune.utils.multi_label import log_probabilities
from edgetune.utils.parsing import read_json_file
from edgetune.utils.types import FloatArray, IntArray

NGRAMS, ENCODER, PROBE = "n-grams", "encoder", "linear probe"
WEIGHTS, TOKENIZER = "ensemble.json", "tokenizer.json"
Scorer = Callable[[dict[str, IntArray]], FloatArray]
"""Padded inputs → logits."""


def text_log_probas(
    ngrams: Ngrams, others: Mapping[str, TextLearner], texts: Sequence[str]
) -> dict[str, FloatArray]:
    """Return log-probabilities (N, C) of texts by the n-grams and by other learners, by name."""
    return {NGRAMS: ngrams.log_proba(texts)} | {name: one.log_proba(texts) for name, one in others.items()}


@dataclass(frozen=True)
class SavedEnsemble:
    """Learners and weights of a run; the encoder itself lies elsewhere.

    Attributes:
        ensemble: which learners answer, and with what weights.
        ngrams: the n-gram classifier.
        label_names: by class id.
        tokenizer_file: what the rows were read with, where no encoder has it; else None.
        others: learners of texts beside the n-grams, by name.
    """

    ensemble: Ensemble
    ngrams: Ngrams
    label_names: tuple[str, ...]
    tokenizer_file: Path | None = None
    others: Mapping[str, TextLearner] = field(default_factory=dict)

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
        learners: dict[str, TextLearner] = {NGRAMS: self.ngrams, **self.others}
        names = self.ensemble.names
        log_probas = {name: one.log_proba(texts) for name, one in learners.items() if name in names}
        if logits is not None:
            log_probas[ENCODER] = log_probabilities(logits, self.ensemble.multi_label)
        return self.ensemble.combine(log_probas)

    def write(self, scratch: Path) -> None:
        """Write `ensemble/` into a folder."""
        home = scratch / ENSEMBLE
        home.mkdir()
        found = self.ensemble.to_dict() | {"label_names": list(self.label_names)}
        if self.others:
            found["text_learners"] = [*self.others]
        write_json(home / WEIGHTS, found)
        self.ngrams.save(home)
        for name, learner in self.others.items():
            (home / name).mkdir()
            learner.save(home / name)
        if self.tokenizer_file is not None:
            shutil.copyfile(self.tokenizer_file, home / TOKENIZER)


def load_ensemble(run: Path) -> SavedEnsemble | None:
    """Read the ensemble of a run folder; None where the run has the encoder alone.

    Raises:
        RunError: it is damaged.
    """
    home = run / ENSEMBLE
    if not (home / WEIGHTS).is_file():
        return None
    with damage_errors(home / WEIGHTS):
        found = read_json_file(home / WEIGHTS)
        ensemble = Ensemble.from_dict(found)
        label_names = tuple(map(str, found.get("label_names", ())))
        names = tuple(map(str, found.get("text_learners", ())))
    others = {name: load_text_learner(name, home / name) for name in names}
    ngrams, tokenizer = Ngrams.load(home), home / TOKENIZER
    if len(label_names) != ngrams.n_classes or len(ensemble.bias) not in (0, len(label_names)):
        raise RunError(
            f"{home / WEIGHTS} names {len(label_names)} labels and {len(ensemble.bias)} biases, and the "
            f"n-grams have {ngrams.n_classes} classes; copy the run folder again, or train again."
        )
    if ngrams.multi_label != ensemble.multi_label or len(ensemble.thresholds) not in (0, len(label_names)):
        raise RunError(
            f"{home / WEIGHTS} has {len(ensemble.thresholds)} thresholds for {len(label_names)} labels; copy "
            "the run folder again, or train again."
        )
    return SavedEnsemble(ensemble, ngrams, label_names, tokenizer if tokenizer.is_file() else None, others)


def check_references(path: Path) -> None:
    """Refuse an ONNX file that would read outside its folder.

    Raises:
        RunError: it does, or it is damaged.
    """
    with damage_errors(path):
        why = find_unsafe_reference(path)
        if why is not None:
            raise RunError(f"{path} {why}; train the model again, or get a new copy of the folder.")


def onnx_scorer(path: Path) -> Scorer:
    """Open an ONNX file that has been looked at.

    Raises:
        RunError: it is damaged, or would read outside its folder.
    """
    check_references(path)
    ort = import_ort()
    with damage_errors(path):
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]

    def score(inputs: dict[str, IntArray]) -> FloatArray:
        logits: FloatArray = session.run(["logits"], {name: inputs[name] for name in names})[0]
        return logits

    return score


def torch_scorer(folder: Path, n_labels: int) -> Scorer:
    """Open a Hugging Face folder.

    Raises:
        EdgetuneError: it cannot be used.
    """
    from edgetune.backends.onnx_export import load_classifier

    check_folder(str(folder), folder)
    model = load_classifier(folder, n_labels, "sdpa")
    import torch

    segments = takes_segments(model.config.to_dict())

    def score(inputs: dict[str, IntArray]) -> FloatArray:
        given = {name: torch.from_numpy(value) for name, value in inputs.items()}
        if not segments:
            given.pop("token_type_ids")
        with torch.inference_mode():
            logits: FloatArray = model(**given).logits.numpy()
        return logits

    return score
