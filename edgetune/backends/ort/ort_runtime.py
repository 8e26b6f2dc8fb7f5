"""ONNX Runtime's training build, imported without torch, and one set of training graphs opened with it.

`import onnxruntime` of that build imports torch where it is installed (2-3 s), and fails to give its
training API where it is not: `onnxruntime.training` imports `optim`, which needs torch. Neither is
needed to train from artifacts, so an empty module stands in for the package's own `__init__`.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgetune.utils.errors import ArtifactsError, MissingDependencyError, UsageError
from edgetune.utils.isolation import silence
from edgetune.utils.machine import package_folder
from edgetune.utils.types import FloatArray

INSTALL_HINT = (
    'run `pip install "edgetune[cpu]"` (or "edgetune[device]" to train from exported artifacts); '
    "if there is no build for this machine (Linux on ARM, Python 3.13+), use --backend torch"
)


def import_ort() -> Any:
    """Return the `onnxruntime` module, imported without torch.

    Raises:
        MissingDependencyError: it is not installed.
    """
    if "onnxruntime" in sys.modules:
        return sys.modules["onnxruntime"]
    home = package_folder("onnxruntime")
    if home is None:
        raise MissingDependencyError(f"ONNX Runtime is not installed; {INSTALL_HINT}.")
    name, folder = "onnxruntime.training", home / "training"
    if not folder.is_dir():
        return _quiet(importlib.import_module("onnxruntime"))
    sys.modules[name] = None  # type: ignore[assignment]  # makes its import fail at once
    try:
        ort = importlib.import_module("onnxruntime")
    finally:
        del sys.modules[name]
    sys.modules[name] = ort.training = types.ModuleType(name)  # type: ignore[attr-defined]
    ort.training.__path__ = [str(folder)]
    return _quiet(ort)


def _quiet(ort: Any) -> Any:
    ort.set_default_logger_severity(3)
    silence(ort)
    return ort


def has_training_build() -> bool:
    """Return whether a training build of ONNX Runtime is installed, without importing it."""
    home = package_folder("onnxruntime")
    return home is not None and (home / "training" / "api").is_dir()


def import_training() -> Any:
    """Return `onnxruntime.training.api`.

    Raises:
        MissingDependencyError: only an inference build is installed, or none.
    """
    import_ort()
    if not has_training_build():
        raise MissingDependencyError(f"The installed ONNX Runtime does not support training; {INSTALL_HINT}.")
    return importlib.import_module("onnxruntime.training.api")


@contextlib.contextmanager
def artifact_errors(folder: Path) -> Iterator[None]:
    """Say what is wrong with a folder of artifacts where ONNX Runtime cannot open it.

    Raises:
        ArtifactsError: in place of its errors, of which every kind has a class of its own.
    """
    try:
        yield
    except Exception as error:
        tail = str(error).strip().splitlines()[-1][-200:]
        raise ArtifactsError(
            f"ONNX Runtime cannot open {folder} ({tail}). Export the artifacts again; "
            "if the folder is in the cache, delete it and it is built again."
        ) from error


class TrainingSession:
    """A folder's training, eval and optimizer graphs with the weights of a checkpoint."""

    def __init__(self, folder: Path, checkpoint: Path, device: str, options: Any) -> None:
        """Open them, or raise `ArtifactsError`."""
        api = import_training()
        self._place = (folder, device, options)
        graphs = {name: str(folder / f"{name}_model.onnx") for name in ("training", "eval", "optimizer")}
        with artifact_errors(folder):
            self._state = api.CheckpointState.load_checkpoint(str(checkpoint))
            self._module = api.Module(
                graphs["training"], self._state, graphs["eval"], device=device, session_options=options
            )
            self._optimizer = api.Optimizer(graphs["optimizer"], self._module)

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
        logits: FloatArray = self._module(*inputs)[1]
        return logits

    def update(self, lr: float) -> None:
        """Update once from the gradients."""
        self._optimizer.set_learning_rate(lr)
        self._optimizer.step()
        self.forget()

    def forget(self) -> None:
        """Drop the gradients."""
        self._module.lazy_reset_grad()

    def __contains__(self, name: str) -> bool:
        """Return whether there is a parameter of this name."""
        return name in self._state.parameters

    def __getitem__(self, name: str) -> FloatArray:
        """Return a copy of a parameter."""
        return np.array(self._state.parameters[name].data)

    def __setitem__(self, name: str, value: FloatArray) -> None:
        """Overwrite a parameter."""
        self._state.parameters[name].data = np.ascontiguousarray(value, dtype=np.float32)

    def state(self) -> bytes:
        """Return parameters and optimizer state as ONNX Runtime's own checkpoint."""
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "checkpoint"
            save = import_training().CheckpointState.save_checkpoint
            save(self._state, str(path), include_optimizer_state=True)
            return path.read_bytes()

    def at(self, state: bytes) -> TrainingSession:
        """Open the same graphs with a state."""
        folder, device, options = self._place
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "checkpoint"
            path.write_bytes(state)
            return TrainingSession(folder, path, device, options)

    def export(self, path: Path) -> None:
        """Write the inference graph, weights inside."""
        self._module.eval()
        self._module.export_model_for_inferencing(str(path), ["logits"])


def open_session(model: Path | bytes, options: Any = None, device: str = "cpu") -> Any:
    """Open an inference graph, from a file or serialized."""
    providers = ["CPUExecutionProvider"] if device == "cpu" else ["CUDAExecutionProvider"]
    given = model if isinstance(model, bytes) else str(model)
    return import_ort().InferenceSession(given, options, providers=providers)


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
            '--device cuda on the ort backend requires the CUDA build: run `pip install "edgetune[cuda]"`, '
            "or use --backend torch."
        )
    return options
