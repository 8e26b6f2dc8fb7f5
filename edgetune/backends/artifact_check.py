"""Do the training graphs give torch's logits, loss and gradients? Asked once, when they are made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgetune.backends.artifact_graphs import WEIGHTS
from edgetune.backends.graph_cut import HIDDEN, LOGITS
from edgetune.backends.ort_manifest import Check
from edgetune.backends.probe import probe_batch
from edgetune.types import FloatArray, IntArray

TOLERANCE = 1e-3
GRADIENT = "_grad.accumulation.buffer"


class Reference:
    """What torch says of one batch.

    Attributes:
        batch: the inputs and `labels`.
        logits: (B, C).
        weights: (B,) factors of the rows' losses.
        loss: weighted mean over the batch (nats).
    """

    def __init__(self, model: Any, inputs: list[str]) -> None:
        """Run torch forward and backward.

        Args:
            model: the torch classifier.
            inputs: what its graph takes of the batch.
        """
        import torch

        self.batch: dict[str, IntArray] = probe_batch(model)
        model.zero_grad()
        given = {name: torch.from_numpy(self.batch[name]) for name in inputs}
        logits = model(**given).logits
        labels = torch.from_numpy(self.batch["labels"])
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        # Unequal weights, so that graphs which ignored them would not pass.
        self.weights = np.linspace(0.5, 1.5, len(labels), dtype=np.float32)
        loss = (torch.from_numpy(self.weights) * losses).mean()
        loss.backward()
        self.logits: FloatArray = logits.detach().numpy()
        self.loss = float(loss.detach())
        self._gradients = {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}

    def gradient(self, name: str) -> FloatArray:
        """Return a parameter's gradient, a zero where torch has none."""
        found: FloatArray = self._gradients.get(name, np.zeros(1, np.float32))
        return found


def session_of(path: Path) -> Any:
    """Open a graph on the CPU."""
    from onnxruntime import InferenceSession

    return InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run_prefix(path: Path, reference: Reference) -> FloatArray:
    """Return the frozen layers' output for the reference's batch, zero at padding as from a cache."""
    session = session_of(path)
    found = session.run([HIDDEN], {item.name: reference.batch[item.name] for item in session.get_inputs()})[0]
    hidden: FloatArray = (found * reference.batch["attention_mask"][..., None]).astype(np.float32)
    return hidden


def compare(
    folder: Path, reference: Reference, trainable: list[str], hidden: FloatArray | None = None
) -> tuple[list[str], Check]:
    """Make the first training step of a folder's graphs; return their inputs and how far they are off.

    Args:
        folder: training graph and checkpoint.
        reference: torch's answer.
        trainable: parameters that must have a gradient.
        hidden: (B, T, D), for graphs that start from it.
    """
    from onnxruntime.training.api import CheckpointState

    state = CheckpointState.load_checkpoint(str(folder / "checkpoint"))
    session = session_of(folder / "training_model.onnx")
    given: dict[str, Any] = {**reference.batch, WEIGHTS: reference.weights}
    if hidden is not None:
        given[HIDDEN] = hidden
    feeds: dict[str, Any] = {}
    for item in session.get_inputs():
        if item.name in given:
            feeds[item.name] = given[item.name]
        elif item.name.endswith(GRADIENT):
            feeds[item.name] = np.zeros(
                state.parameters[item.name.removesuffix(GRADIENT)].data.shape, np.float32
            )
        elif item.name == "lazy_reset_grad":
            feeds[item.name] = np.array([True])
        else:
            feeds[item.name] = state.parameters[item.name].data
    loss, logits = session.run(
        [session.get_outputs()[0].name, LOGITS], feeds
    )  # gradients go into the buffers
    check = Check(
        logits=float(np.abs(logits - reference.logits).max()),
        loss=abs(float(loss) - reference.loss),
        gradients=_worst({name: feeds[name + GRADIENT] for name in trainable}, reference),
    )
    of_loss = ("labels", WEIGHTS)
    return [i.name for i in session.get_inputs() if i.name in given and i.name not in of_loss], check


def _worst(gradients: dict[str, FloatArray], reference: Reference) -> float:
    """Return the largest |difference| / |gradient|; tiny gradients are measured by all of them."""
    norms = {name: float(np.linalg.norm(reference.gradient(name))) for name in gradients}
    total = float(np.sqrt(sum(norm**2 for norm in norms.values())))
    return max(
        (
            float(np.linalg.norm(found - reference.gradient(name))) / max(norms[name], 1e-4 * total, 1e-12)
            for name, found in gradients.items()
        ),
        default=0.0,
    )


def passes(check: Check) -> bool:
    """Return whether the graphs train like torch."""
    return all(value <= TOLERANCE for value in (check.logits, check.loss, check.gradients))
