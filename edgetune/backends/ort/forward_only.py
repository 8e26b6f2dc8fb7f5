"""The untouched encoder on ONNX Runtime, for runs that fit a linear probe and train nothing.

It is open in about a second, where PyTorch and transformers take several to be imported alone, and needs
neither of them, nor the training build of ONNX Runtime.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from edgetune.backends.backend_contract import Backend, write_tokenizer_and_config
from edgetune.backends.ort.bert_graph import (
    FEATURES,
    HEAD_BIAS,
    HEAD_WEIGHT,
    INPUTS,
    PAIR_PARTS,
    read_weights,
    write_graph,
)
from edgetune.backends.ort.ort_runtime import open_session, session_options
from edgetune.data.batches import Batch
from edgetune.models.mean_pooling import CONFIG_KEY, MEAN, pooling_weights, write_pooling_config
from edgetune.models.source import ModelSource
from edgetune.utils.types import FloatArray


class ForwardOnly(Backend):
    """Computes features with the encoder as it is; only the head can be set."""

    name = "onnx"

    def __init__(
        self,
        source: ModelSource,
        n_labels: int,
        *,
        pair: bool = False,
        threads: int | None = None,
        tokenizer_folder: Path | None = None,
        multi_label: bool = False,
    ) -> None:
        """Write the forward graph and open it.

        Args:
            source: checked model folder, of which `bert_graph.can_write` is true.
            n_labels: C, the outputs of the head, which is all zero at first.
            pair: whether rows are pairs of texts.
            threads: of one operation (None: one per physical core).
            tokenizer_folder: where its fast tokenizer lies (None: beside the weights).
            multi_label: whether rows may have several labels, which the saved model then says.
        """
        super().__init__()
        self._source, self._pair, self._multi_label = source, pair, multi_label
        self._tokenizer_folder = source.folder if tokenizer_folder is None else tokenizer_folder
        width = int(source.config["hidden_size"]) * (PAIR_PARTS if pair else 1)
        self._weight = np.zeros((n_labels, width), dtype=np.float32)
        self._bias = np.zeros(n_labels, dtype=np.float32)
        self._session = open_session(
            self._graph(read_weights(source.folder)).SerializeToString(), session_options("cpu", threads)
        )

    def _graph(self, encoder: dict[str, FloatArray]) -> Any:
        head = {HEAD_WEIGHT: self._weight, HEAD_BIAS: self._bias}
        return write_graph(self._source.config, encoder | head, pair=self._pair)

    @property
    def n_parameters(self) -> int:
        return self._weight.size + self._bias.size

    def features(self, batch: Batch) -> FloatArray:
        return self.microbatches.run(batch, lambda part, _: self._features(part), lambda: None)

    def _features(self, part: Batch) -> FloatArray:
        padded = part.padded(self._source.pad_id)
        found: FloatArray = self._session.run([FEATURES], {name: padded[name] for name in INPUTS})[0]
        return found

    def head(self) -> tuple[FloatArray, FloatArray]:
        return self._weight.copy(), self._bias.copy()

    def set_head(self, weight: FloatArray, bias: FloatArray) -> None:
        if weight.shape != self._weight.shape or bias.shape != self._bias.shape:
            raise ValueError(f"the head has shape {self._weight.shape}, not {weight.shape}")
        self._weight, self._bias = weight.astype(np.float32), bias.astype(np.float32)

    def _forward(self, part: Batch, keep: bool) -> FloatArray:
        logits: FloatArray = self._features(part) @ self._weight.T + self._bias
        return logits

    def state(self) -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, weight=self._weight, bias=self._bias)
        return buffer.getvalue()

    def load_state(self, state: bytes) -> None:
        with np.load(io.BytesIO(state), allow_pickle=False) as found:
            self.set_head(found["weight"], found["bias"])

    def save(self, folder: Path, label_names: tuple[str, ...], skip_onnx: bool = False) -> None:
        """Write `model/` and `onnx/model.onnx` into a folder.

        `model/` is a classifier in Hugging Face's layout. A probe on pairs is none: there it is the encoder
        alone, which still says that the mean of its tokens was trained, and `onnx/` is what answers.
        """
        import onnx
        from safetensors.numpy import save_file

        encoder = read_weights(self._source.folder)
        onnx_folder, model_folder = folder / "onnx", folder / "model"
        onnx_folder.mkdir()
        model_folder.mkdir()
        onnx.save(self._graph(encoder), onnx_folder / "model.onnx")
        config = dict(self._source.config)
        if self._pair:
            weights = encoder
            config["architectures"] = ["BertModel"]
        else:
            number = int(config["num_hidden_layers"])
            added = pooling_weights(number, int(config["hidden_size"]), int(config["intermediate_size"]))
            weights = {f"bert.{name}": value for name, value in (encoder | added).items()}
            weights |= {HEAD_WEIGHT: self._weight, HEAD_BIAS: self._bias}
            config |= {"num_hidden_layers": number + 1, CONFIG_KEY: MEAN}
            config["architectures"] = ["BertForSequenceClassification"]
        save_file(weights, model_folder / "model.safetensors", metadata={"format": "pt"})
        write_tokenizer_and_config(
            (onnx_folder, model_folder),
            self._tokenizer_folder,
            config,
            label_names,
            multi_label=self._multi_label,
        )
        if self._pair:
            write_pooling_config(model_folder)
