"""The PyTorch backend: CPU in fp32 or bf16 autocast, CUDA in bf16; SDPA attention; fused AdamW.

Used where ONNX Runtime has no training build (Linux on ARM, Python 3.13), where it is faster, and on
CUDA. It trains the same parameters with the same numbers as the `ort` backend; dropout is off in both.
Frozen layers are run apart, without a gradient, and what they give may be kept (`torch_layers`).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgetune.backends.backend_contract import ADAMW, Backend, NoLinearHead, write_tokenizer_and_config
from edgetune.backends.hidden_cache import HiddenCache
from edgetune.backends.onnx_export import export_graph, load_torch_model, quiet, torch_probe
from edgetune.backends.torch.torch_layers import find_cut, first_token_only, shared_below
from edgetune.config.settings import frozen_depth
from edgetune.data.batches import Batch
from edgetune.models.mean_pooling import HEAD_RATE
from edgetune.models.source import ModelSource, init_head, takes_segments, trainable_names
from edgetune.utils.errors import MissingDependencyError, UsageError
from edgetune.utils.parsing import read_json_file
from edgetune.utils.types import FloatArray


def find_linear(run: Callable[[], Any]) -> Any | None:
    """Return the `nn.Linear` (with a bias) whose output is the logits (B, C) that `run` returns, or None."""
    import torch

    last: list[tuple[Any, Any]] = []

    def note(module: Any, inputs: Any, output: Any) -> None:
        if isinstance(module, torch.nn.Linear):
            last.append((module, output))

    with torch.no_grad(), torch.nn.modules.module.register_module_forward_hook(note):
        logits = run()
    if not last:
        return None
    linear, output = last[-1]
    same = output.shape == logits.shape and bool(torch.equal(output.float(), logits.float()))
    return linear if same and linear.bias is not None else None


class TorchBackend(Backend):
    """Trains one Hugging Face classifier with PyTorch."""

    name = "torch"

    def __init__(
        self,
        source: ModelSource,
        n_labels: int,
        freeze: str,
        seed: int,
        *,
        device: str = "cpu",
        precision: str = "auto",
        threads: int | None = None,
        onnx: bool = True,
        tokenizer_folder: Path | None = None,
        cut: bool = True,
        cache: HiddenCache | None = None,
        multi_label: bool = False,
        most_tokens: int | None = None,
    ) -> None:
        """Load the model, freeze it and draw its head from the seed.

        Args:
            source: checked model folder.
            n_labels: outputs of the head.
            freeze: `none`, `embeddings` or a number of lowest layers.
            seed: of the head's first weights.
            device: `cpu` or `cuda`.
            precision: `fp32`, `bf16`, or `auto` (bf16 on CUDA, fp32 on a CPU).
            threads: of one operation (None: torch's own choice).
            onnx: whether `save` also exports `onnx/model.onnx`.
            tokenizer_folder: where its fast tokenizer lies (None: beside the weights).
            cut: whether to run frozen layers apart, where the model lets itself be cut.
            cache: keeps what the frozen layers give.
            multi_label: whether rows may have several labels, which the saved model then says.
            most_tokens: tokens, with padding, that a train step sends through the model at once; None: all.
        """
        super().__init__(cache)
        self.most_tokens = most_tokens
        try:
            import torch
        except ImportError as error:
            raise MissingDependencyError(
                'PyTorch is not installed; run `pip install "edgetune[cpu]"`.'
            ) from error
        if device == "cuda" and not torch.cuda.is_available():
            raise UsageError("--device cuda: PyTorch sees no CUDA GPU on this machine; use --device cpu.")
        if threads is not None:
            torch.set_num_threads(threads)
        self._torch = torch
        self._source = source
        self._device = torch.device(device)
        self._bf16 = precision == "bf16" or (precision == "auto" and device == "cuda")
        self._onnx, self._multi_label = onnx, multi_label
        self._tokenizer_folder = source.folder if tokenizer_folder is None else tokenizer_folder
        self._model, missing = load_torch_model(source.folder, n_labels, "sdpa", source.pools_mean)
        parameters = dict(self._model.named_parameters())
        std = float(getattr(self._model.config, "initializer_range", 0.02) or 0.02)
        head = init_head({name: tuple(parameters[name].shape) for name in missing}, std, seed)
        trainable = set(trainable_names(parameters, freeze, source.pools_mean))
        with torch.no_grad():
            for name, parameter in parameters.items():
                if name in head:
                    parameter.copy_(torch.from_numpy(head[name]))
                parameter.requires_grad_(name in trainable)
        first_token_only(self._model)
        self._model.to(self._device)
        self._segments = takes_segments(self._model.config.to_dict())
        depth = frozen_depth(freeze)
        found = find_cut(self._model, depth, self._bf16) if depth > 0 else None
        if found is not None:
            for name in shared_below(self._model, found):
                self._model.get_parameter(name).requires_grad_(False)
        self._cut = found if cut else None
        self.depth = 0 if self._cut is None else depth
        self._trained = [p for p in self._model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._groups(), lr=0.0, fused=True, **ADAMW)

    def _groups(self) -> list[dict[str, Any]]:
        """Return the trained parameters, those of a head on pooled features apart: it learns faster."""
        if not self._source.pools_mean:
            return [{"params": self._trained, "rate": 1.0}]
        head = {id(parameter) for parameter in self._head.parameters()}
        return [
            {"params": [p for p in self._trained if id(p) not in head], "rate": 1.0},
            {"params": [p for p in self._trained if id(p) in head], "rate": HEAD_RATE},
        ]

    @property
    def n_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self._trained)

    def prefix(self, batch: Batch, width: int = 0) -> FloatArray:
        with self._torch.inference_mode():
            hidden: FloatArray = self._below(self._inputs(batch, width)).float().cpu().numpy()
        return hidden

    def _below(self, inputs: dict[str, Any]) -> Any:
        if self._cut is None:
            raise ValueError("no layers are cut off as a prefix (depth is 0)")
        with self._autocast():
            return self._cut.below(lambda: self._model(**inputs))

    def _inputs(self, batch: Batch, width: int = 0) -> dict[str, Any]:
        padded = batch.padded(self._source.pad_id, width=width)
        if not self._segments:
            padded.pop("token_type_ids")
        return {name: self._torch.from_numpy(value).to(self._device) for name, value in padded.items()}

    def _autocast(self) -> Any:
        return self._torch.autocast(self._device.type, self._torch.bfloat16, enabled=self._bf16)

    def _logits(self, batch: Batch, keep: bool = True) -> Any:
        inputs = self._inputs(batch)
        with contextlib.ExitStack() as stack:
            if self._cut is not None:
                stack.enter_context(self._cut.above(self._hidden(batch, inputs, keep)))
            stack.enter_context(self._autocast())
            logits = self._model(**inputs).logits
        return logits.float()

    def _hidden(self, batch: Batch, inputs: dict[str, Any], keep: bool) -> Any:
        """Return what enters the lowest layer above the cut (B, T, D), from the cache if there is one."""
        if self.cache is None:
            with self._torch.no_grad():
                return self._below(inputs)
        width = inputs["input_ids"].shape[1]
        hidden = self.cache.hidden(batch, width, self.prefix, keep=keep)
        return self._torch.from_numpy(hidden).to(self._device)

    def _forward(self, part: Batch, keep: bool) -> FloatArray:
        with self._torch.inference_mode():
            logits: FloatArray = self._logits(part, keep).cpu().numpy()
        return logits

    def features(self, batch: Batch) -> FloatArray:
        seen: list[Any] = []
        hook = self._head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        with hook, self._torch.inference_mode():
            self._logits(batch)
            result: FloatArray = seen[-1].float().cpu().numpy()
        return result

    @cached_property
    def _head(self) -> Any:
        """The last linear layer, found by running the model once."""
        found = find_linear(lambda: self._model(**torch_probe(self._model)).logits)
        if found is None:
            raise NoLinearHead(self._source.name)
        return found

    def head(self) -> tuple[FloatArray, FloatArray]:
        linear = self._head
        weight, bias = (part.detach().cpu().numpy().copy() for part in (linear.weight, linear.bias))
        return weight, bias

    def set_head(self, weight: FloatArray, bias: FloatArray) -> None:
        linear = self._head
        for parameter, value in ((linear.weight, weight), (linear.bias, bias)):
            if value.shape != tuple(parameter.shape):
                raise ValueError(f"the head has shape {tuple(parameter.shape)}, not {value.shape}")
            with self._torch.no_grad():
                parameter.copy_(self._torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32)))

    def _gradients(self, part: Batch, weights: FloatArray | None, share: float) -> FloatArray:
        logits = self._logits(part)
        (self._loss(logits, part, weights) * share).backward()
        found: FloatArray = logits.detach().cpu().numpy()
        return found

    def _forget(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)

    def _update(self, lr: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group["rate"]
        self._optimizer.step()
        self._forget()

    def end_training(self) -> None:
        self._forget()
        self._optimizer.state.clear()

    def _loss(self, logits: Any, batch: Batch, weights: FloatArray | None) -> Any:
        functional, factors = self._torch.nn.functional, None
        if weights is not None:
            factors = self._torch.from_numpy(np.asarray(weights, dtype=np.float32)).to(self._device)
        if batch.labels.ndim == 2:
            targets = self._torch.from_numpy(batch.labels.astype(np.float32)).to(self._device)
            factors = None if factors is None else factors[:, None]
            return functional.binary_cross_entropy_with_logits(logits, targets, weight=factors)
        labels = self._torch.from_numpy(batch.labels.astype(np.int64)).to(self._device)
        if factors is None:
            return functional.cross_entropy(logits, labels)
        return (factors * functional.cross_entropy(logits, labels, reduction="none")).mean()

    def state(self) -> bytes:
        buffer = io.BytesIO()
        trained = {n: p.detach() for n, p in self._model.named_parameters() if p.requires_grad}
        self._torch.save({"model": trained, "optimizer": self._optimizer.state_dict()}, buffer)
        return buffer.getvalue()

    def load_state(self, state: bytes) -> None:
        found = self._torch.load(io.BytesIO(state), weights_only=True, map_location=self._device)
        self._model.load_state_dict(found["model"], strict=False)
        self._optimizer.load_state_dict(found["optimizer"])

    def weights(self) -> dict[str, FloatArray]:
        """Return every parameter by name, as copies."""
        return {n: p.detach().cpu().numpy().copy() for n, p in self._model.named_parameters()}

    def save(self, folder: Path, label_names: tuple[str, ...], skip_onnx: bool = False) -> None:
        model_folder = folder / "model"
        model_folder.mkdir()
        with quiet():
            self._model.save_pretrained(model_folder, safe_serialization=True)
        targets = [model_folder]
        if self._onnx and not skip_onnx:
            onnx_folder = folder / "onnx"
            onnx_folder.mkdir()
            # Through an eager copy on the CPU, as SDPA does not trace everywhere.
            model, _ = load_torch_model(model_folder, self._model.config.num_labels, "eager")
            export_graph(model, onnx_folder / "model.onnx")
            targets.append(onnx_folder)
        config = read_json_file(model_folder / "config.json")
        write_tokenizer_and_config(
            targets, self._tokenizer_folder, config, label_names, multi_label=self._multi_label
        )
