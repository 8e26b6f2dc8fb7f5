"""The ONNX Runtime backend: trains from artifacts, without torch or transformers.

A train step is one fused forward and backward pass of the training graph and one AdamW update; the
eval graph is the only forward pass. Both graphs return `[loss, logits]`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgetune.backends.hf_folder import copy_tokenizer, write_config
from edgetune.backends.ort_artifacts import Artifacts
from edgetune.backends.ort_runtime import import_ort, import_training
from edgetune.batching import Batch
from edgetune.errors import ArtifactsError, ModelError, UsageError
from edgetune.models import init_head
from edgetune.types import FloatArray


class OrtBackend:
    """Trains one model from its artifacts on the CPU (or CUDA, with the CUDA build)."""

    name: ClassVar[str] = "ort"

    def __init__(
        self, artifacts: Artifacts, seed: int, *, device: str = "cpu", threads: int | None = None
    ) -> None:
        """Load weights and graphs; weights that the checkpoint does not have are drawn from the seed.

        Args:
            artifacts: opened training artifacts.
            seed: of the head's first weights.
            device: `cpu`, or `cuda` where the CUDA build is installed.
            threads: of one operation (None: one per physical core).
        """
        self.artifacts = artifacts
        self._device = device
        self._options = import_ort().SessionOptions()
        if threads is not None:
            self._options.intra_op_num_threads = threads
        if device != "cpu" and "CUDAExecutionProvider" not in import_ort().get_available_providers():
            raise UsageError(
                '--device cuda on the ort backend needs the CUDA build: `pip install "edgetune[cuda]"`, '
                "or use --backend torch."
            )
        self._open(artifacts.folder / "checkpoint")
        manifest = artifacts.manifest
        shapes = {name: tuple(shape) for name, shape in manifest.head.items()}
        for name, value in init_head(shapes, manifest.initializer_range, seed).items():
            if name in manifest.trainable:
                self._state.parameters[name].data = value

    def _open(self, checkpoint: Path) -> None:
        api = import_training()
        folder = self.artifacts.folder
        try:
            self._state = api.CheckpointState.load_checkpoint(str(checkpoint))
            self._module = api.Module(
                str(folder / "training_model.onnx"),
                self._state,
                str(folder / "eval_model.onnx"),
                device=self._device,
                session_options=self._options,
            )
            self._optimizer = api.Optimizer(str(folder / "optimizer_model.onnx"), self._module)
        except Exception as error:  # every kind of damage has a class of its own, and none in common
            tail = str(error).strip().splitlines()[-1][-200:]
            raise ArtifactsError(
                f"{folder} cannot be opened by ONNX Runtime ({tail}); export the artifacts again "
                "(in the cache: delete that folder, and they are made anew)."
            ) from error

    @property
    def n_parameters(self) -> int:
        """Trainable parameters."""
        return int(self._module.get_parameters_size(True))

    def _inputs(self, batch: Batch) -> list[Any]:
        manifest = self.artifacts.manifest
        padded = batch.padded(manifest.pad_id)
        return [*(padded[name] for name in manifest.inputs), batch.labels.astype(np.int64)]

    def score(self, batch: Batch) -> FloatArray:
        """Return logits (B, C) of the eval graph."""
        self._module.eval()
        _, logits = self._module(*self._inputs(batch))
        result: FloatArray = logits
        return result

    def train_step(self, batch: Batch, lr: float) -> FloatArray:
        """Update once on the batch; return logits (B, C) from before the update."""
        self._module.train()
        self._optimizer.set_learning_rate(lr)
        _, logits = self._module(*self._inputs(batch))
        self._optimizer.step()
        self._module.lazy_reset_grad()
        result: FloatArray = logits
        return result

    def state(self) -> bytes:
        """Return parameters and optimizer state as ONNX Runtime's own checkpoint."""
        api = import_training()
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "checkpoint"
            api.CheckpointState.save_checkpoint(self._state, str(path), include_optimizer_state=True)
            return path.read_bytes()

    def load_state(self, state: bytes) -> None:
        """Continue exactly where `state()` was taken."""
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "checkpoint"
            path.write_bytes(state)
            self._open(path)

    def load_weights(self, files: list[Path]) -> None:
        """Start from the safetensors of a Hugging Face folder instead of the artifacts' own weights.

        Raises:
            ModelError: a weight is missing or has another shape.
        """
        from safetensors.numpy import load_file

        given = {name: value for path in files for name, value in load_file(path).items()}
        for name in self.artifacts.manifest.parameters:
            if name not in self._state.parameters:
                continue
            own = self._state.parameters[name]
            if name not in given or given[name].shape != own.data.shape:
                raise ModelError(
                    f"{files[0].parent} does not fit the artifacts in {self.artifacts.folder}: its {name} is "
                    "missing or has another shape; pass a model that was trained from them."
                )
            own.data = given[name].astype(np.float32)

    def weights(self) -> dict[str, FloatArray]:
        """Return every weight of the Hugging Face model by name, as copies."""
        manifest = self.artifacts.manifest
        found: dict[str, FloatArray] = {}
        rest = self.artifacts.folder / "rest.safetensors"
        if rest.is_file():
            from safetensors.numpy import load_file

            found.update(load_file(rest))
        for name in manifest.parameters:
            if name in self._state.parameters:
                found[name] = np.array(self._state.parameters[name].data)
        return found

    def save(self, folder: Path, label_names: tuple[str, ...]) -> None:
        """Write `model/` (Hugging Face layout) and `onnx/model.onnx` into an existing folder."""
        from safetensors.numpy import save_file

        onnx_folder, model_folder = folder / "onnx", folder / "model"
        onnx_folder.mkdir()
        model_folder.mkdir()
        self._module.eval()
        self._module.export_model_for_inferencing(str(onnx_folder / "model.onnx"), ["logits"])
        save_file(self.weights(), model_folder / "model.safetensors", metadata={"format": "pt"})
        for target in (onnx_folder, model_folder):
            copy_tokenizer(self.artifacts.folder, target)
            write_config(self.artifacts.folder / "config.json", target / "config.json", label_names)
