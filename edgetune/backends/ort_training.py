"""One set of training graphs, opened: `[loss, logits]` forward, an update, parameters by name."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgetune.backends.ort_runtime import import_ort, import_training
from edgetune.errors import ArtifactsError, UsageError
from edgetune.types import FloatArray


class Training:
    """A folder's training, eval and optimizer graphs with the weights of a checkpoint."""

    def __init__(self, folder: Path, checkpoint: Path, device: str, options: Any) -> None:
        """Open them.

        Raises:
            ArtifactsError: ONNX Runtime cannot.
        """
        api = import_training()
        self._place = (folder, device, options)
        try:
            self._state = api.CheckpointState.load_checkpoint(str(checkpoint))
            self._module = api.Module(
                str(folder / "training_model.onnx"),
                self._state,
                str(folder / "eval_model.onnx"),
                device=device,
                session_options=options,
            )
            self._optimizer = api.Optimizer(str(folder / "optimizer_model.onnx"), self._module)
        except Exception as error:  # every kind of damage has a class of its own, and none in common
            raise cannot_open(folder, error) from error

    @property
    def n_parameters(self) -> int:
        """Trainable parameters."""
        return int(self._module.get_parameters_size(True))

    def forward(self, inputs: list[Any]) -> list[FloatArray]:
        """Return what the eval graph gives after the loss: logits (B, C), and features (B, F) if any."""
        self._module.eval()
        found: list[FloatArray] = list(self._module(*inputs))[1:]
        return found

    def gradients(self, inputs: list[Any]) -> FloatArray:
        """Add the gradients of a batch, or of a part of one; return its logits (B, C)."""
        self._module.train()
        _, logits = self._module(*inputs)
        result: FloatArray = logits
        return result

    def update(self, lr: float) -> None:
        """Update once from the gradients."""
        self._optimizer.set_learning_rate(lr)
        self._optimizer.step()
        self.forget()

    def forget(self) -> None:
        """Drop the gradients."""
        self._module.lazy_reset_grad()

    def has(self, name: str) -> bool:
        """Return whether there is a parameter of this name."""
        return name in self._state.parameters

    def get(self, name: str) -> FloatArray:
        """Return a copy of a parameter."""
        return np.array(self._state.parameters[name].data)

    def set(self, name: str, value: FloatArray) -> None:
        """Overwrite a parameter."""
        self._state.parameters[name].data = np.ascontiguousarray(value, dtype=np.float32)

    def state(self) -> bytes:
        """Return parameters and optimizer state as ONNX Runtime's own checkpoint."""
        api = import_training()
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "checkpoint"
            api.CheckpointState.save_checkpoint(self._state, str(path), include_optimizer_state=True)
            return path.read_bytes()

    def at(self, state: bytes) -> Training:
        """Open the same graphs with a state."""
        folder, device, options = self._place
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "checkpoint"
            path.write_bytes(state)
            return Training(folder, path, device, options)

    def export(self, path: Path) -> None:
        """Write the inference graph, weights inside."""
        self._module.eval()
        self._module.export_model_for_inferencing(str(path), ["logits"])


def open_prefix(path: Path, device: str, options: Any) -> Any:
    """Open an inference graph.

    Raises:
        ArtifactsError: ONNX Runtime cannot.
    """
    providers = ["CPUExecutionProvider"] if device == "cpu" else ["CUDAExecutionProvider"]
    try:
        return import_ort().InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        raise cannot_open(path.parent, error) from error


def session_options(device: str, threads: int | None, *, spin: bool = True) -> Any:
    """Return the options of a session.

    Args:
        device: `cpu` or `cuda`.
        threads: of one operation (None: one per physical core).
        spin: whether idle threads wait busily. Those of a prefix and of what lies above it must not: they
            would take the cores from the graph that runs next.

    Raises:
        UsageError: the device needs another build.
    """
    options = import_ort().SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if device != "cpu" and "CUDAExecutionProvider" not in import_ort().get_available_providers():
        raise UsageError(
            '--device cuda on the ort backend needs the CUDA build: `pip install "edgetune[cuda]"`, '
            "or use --backend torch."
        )
    return options


def cannot_open(folder: Path, error: Exception) -> ArtifactsError:
    """Say what is wrong with a folder of artifacts."""
    tail = str(error).strip().splitlines()[-1][-200:]
    return ArtifactsError(
        f"{folder} cannot be opened by ONNX Runtime ({tail}); export the artifacts again "
        "(in the cache: delete that folder, and they are made anew)."
    )
