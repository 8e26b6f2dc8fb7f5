"""A trained model as a function from padded inputs to logits: by its ONNX file, or with torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgetune.backends.onnx_files import find_unsafe_reference
from edgetune.backends.ort.ort_runtime import import_ort
from edgetune.models.checks import check_folder
from edgetune.models.source import takes_segments
from edgetune.run_files.run_folder import damage_errors
from edgetune.utils.errors import RunError
from edgetune.utils.types import FloatArray, IntArray

Scorer = Callable[[dict[str, IntArray]], FloatArray]
"""Padded inputs → logits."""


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
