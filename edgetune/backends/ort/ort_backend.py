"""The ONNX Runtime backend: trains from artifacts, without torch or transformers.

A train step is one fused forward and backward pass of the training graph and one AdamW update; the
eval graph is the only forward pass. With a cut, both start from the frozen layers' output:

    batch ──→ prefix session or cache ──→ hidden ──→ training / eval graph of the suffix ──→ logits

The whole graphs are then opened only to save.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from edgetune.backends.backend_contract import Backend, NoLinearHead, write_tokenizer_and_config
from edgetune.backends.hidden_cache import HiddenCache
from edgetune.backends.ort.artifacts import CUT_FOLDER, PREFIX, Artifacts
from edgetune.backends.ort.graph_cut import HIDDEN
from edgetune.backends.ort.manifest import Linear
from edgetune.backends.ort.ort_runtime import TrainingSession, artifact_errors, open_session, session_options
from edgetune.data.batches import Batch
from edgetune.models.mean_pooling import HEAD_RATE, fixed_names
from edgetune.models.source import init_head
from edgetune.utils.errors import ModelError
from edgetune.utils.parsing import read_json_file
from edgetune.utils.types import FloatArray, IntArray


class OrtBackend(Backend):
    """Trains one model from its artifacts on the CPU (or CUDA, with the CUDA build)."""

    name = "ort"

    def __init__(
        self,
        artifacts: Artifacts,
        seed: int,
        *,
        device: str = "cpu",
        threads: int | None = None,
        cut: bool = True,
        cache: HiddenCache | None = None,
    ) -> None:
        """Load weights and graphs; weights that the checkpoint does not have are drawn from the seed.

        Args:
            artifacts: opened training artifacts.
            seed: of the head's first weights.
            device: `cpu`, or `cuda` where the CUDA build is installed.
            threads: of one operation (None: one per physical core).
            cut: whether to run frozen layers apart, where the artifacts are cut.
            cache: keeps what the frozen layers give.
        """
        super().__init__(cache)
        self.artifacts = artifacts
        self._device = device
        self._cut = artifacts.manifest.cut if cut else None
        self._options = session_options(device, threads, spin=self._cut is None)
        self._prefix: Any = None
        self.depth = 0 if self._cut is None else self._cut.depth
        self._training = self._open(CUT_FOLDER if self.depth else "")
        if self._cut is not None:
            home = artifacts.folder / CUT_FOLDER
            with artifact_errors(home):
                self._prefix = open_session(home / PREFIX, self._options, device)
        manifest = artifacts.manifest
        shapes = {name: tuple(shape) for name, shape in manifest.head.items()}
        for name, value in init_head(shapes, manifest.initializer_range, seed).items():
            if name in manifest.trainable:
                self._training[name] = value

    def _open(self, part: str = "") -> TrainingSession:
        folder = self.artifacts.folder / part
        return TrainingSession(folder, folder / "checkpoint", self._device, self._options)

    @property
    def n_parameters(self) -> int:
        return self._training.n_parameters

    def prefix(self, batch: Batch, width: int = 0) -> FloatArray:
        return self._run_prefix(batch.padded(self.artifacts.manifest.pad_id, width=width))

    def _run_prefix(self, padded: dict[str, IntArray]) -> FloatArray:
        if self._cut is None:
            raise ValueError("no layers are cut off as a prefix (depth is 0)")
        hidden: FloatArray = self._prefix.run([HIDDEN], {n: padded[n] for n in self._cut.prefix_inputs})[0]
        return hidden

    def _inputs(self, batch: Batch, keep: bool = True, weights: FloatArray | None = None) -> list[Any]:
        """Return what the graphs take of a batch, in their order; the frozen layers are run here."""
        padded: dict[str, Any] = batch.padded(self.artifacts.manifest.pad_id)
        labels = batch.labels.astype(np.float32 if self.artifacts.manifest.multi_label else np.int64)
        factors = np.ones(len(batch), np.float32) if weights is None else np.asarray(weights, np.float32)
        names = self.artifacts.manifest.inputs
        if self._cut is not None:
            names = self._cut.inputs
            if self.cache is None:
                padded[HIDDEN] = self._run_prefix(padded)
            else:
                width = padded["input_ids"].shape[1]
                padded[HIDDEN] = self.cache.hidden(batch, width, self.prefix, keep=keep)
        return [*(padded[name] for name in names), labels, factors]

    def _forward(self, part: Batch, keep: bool) -> FloatArray:
        return self._training.forward(self._inputs(part, keep))[0]

    def features(self, batch: Batch) -> FloatArray:
        self._linear()
        return self._training.forward(self._inputs(batch))[1]

    def _linear(self) -> Linear:
        found = self.artifacts.manifest.linear
        if found is None:
            raise NoLinearHead(self.artifacts.manifest.model)
        return found

    def head(self) -> tuple[FloatArray, FloatArray]:
        linear = self._linear()
        return self._training[linear.weight], self._training[linear.bias]

    def set_head(self, weight: FloatArray, bias: FloatArray) -> None:
        linear = self._linear()
        for name, value in ((linear.weight, weight), (linear.bias, bias)):
            shape = self._training[name].shape
            if value.shape != shape:
                raise ValueError(f"{name} has shape {shape}, not {value.shape}")
            self._training[name] = value

    def _gradients(self, part: Batch, weights: FloatArray | None, share: float) -> FloatArray:
        factors = np.ones(len(part)) if weights is None else weights
        return self._training.gradients(self._inputs(part, weights=factors * share))

    def _forget(self) -> None:
        self._training.forget()

    def _update(self, lr: float) -> None:
        """Update once; the head on pooled features moves further, as far as with a larger learning rate.

        The optimizer's graph has one rate, by which its steps are proportional.
        """
        if not self.artifacts.manifest.pools_mean:
            self._training.update(lr)
            return
        before = self.head()
        self._training.update(lr)
        self.set_head(*(old + HEAD_RATE * (new - old) for old, new in zip(before, self.head(), strict=True)))

    def state(self) -> bytes:
        return self._training.state()

    def load_state(self, state: bytes) -> None:
        self._training = self._training.at(state)

    def load_weights(self, files: list[Path]) -> None:
        """Start from the safetensors of a Hugging Face folder instead of the artifacts' own weights.

        Where frozen weights differ from the artifacts' own, the prefix would be another model's:
        the whole graph is run then (`depth` becomes 0).

        Raises:
            ModelError: a weight is missing or has another shape.
        """
        given = {name: value for path in files for name, value in load_file(path).items()}
        whole = self._whole()
        names = [name for name in self.artifacts.manifest.parameters if name in whole]
        if self.artifacts.manifest.pools_mean:
            fixed = fixed_names(names)  # which a model that does not pool yet lacks
            names = [name for name in names if name in given or name not in fixed]
        for name in names:
            if name not in given or given[name].shape != whole[name].shape:
                raise ModelError(
                    f"{files[0].parent} does not match the artifacts in {self.artifacts.folder}: its {name} "
                    "is missing or has a different shape; pass a model that was trained from them."
                )
        trainable = set(self.artifacts.manifest.trainable)
        frozen = [name for name in names if name not in trainable]
        if self._cut is not None and any((whole[name] != given[name]).any() for name in frozen):
            self._training, self._cut, self._prefix, self.depth = whole, None, None, 0
        for name in names:
            if name in self._training:
                self._training[name] = given[name]

    def _whole(self) -> TrainingSession:
        """Return the whole graphs with the weights of now."""
        if self._cut is None:
            return self._training
        whole = self._open()
        for name in self.artifacts.manifest.trainable:
            whole[name] = self._training[name]
        return whole

    def weights(self) -> dict[str, FloatArray]:
        """Return every weight of the Hugging Face model by name, as copies."""
        return self._weights_of(self._whole())

    def _weights_of(self, whole: TrainingSession) -> dict[str, FloatArray]:
        rest = self.artifacts.folder / "rest.safetensors"
        found: dict[str, FloatArray] = load_file(rest) if rest.is_file() else {}
        return found | {name: whole[name] for name in self.artifacts.manifest.parameters if name in whole}

    def save(self, folder: Path, label_names: tuple[str, ...], skip_onnx: bool = False) -> None:
        onnx_folder, model_folder = folder / "onnx", folder / "model"
        onnx_folder.mkdir()
        model_folder.mkdir()
        whole = self._whole()
        whole.export(onnx_folder / "model.onnx")
        save_file(self._weights_of(whole), model_folder / "model.safetensors", metadata={"format": "pt"})
        write_tokenizer_and_config(
            (onnx_folder, model_folder),
            self.artifacts.folder,
            read_json_file(self.artifacts.folder / "config.json"),
            label_names,
            multi_label=self.artifacts.manifest.multi_label,
        )
