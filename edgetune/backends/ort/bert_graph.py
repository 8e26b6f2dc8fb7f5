"""The forward graph of a BERT encoder with mean pooling, written from its weights without torch.

Exporting a model takes torch, transformers and about fifteen seconds. A linear probe needs no more than the
forward pass, and BERT is the same few operators layer after layer, so the graph is put together here:

    token ids ─→ embeddings ─→ layers ─→ mean of the tokens ─→ features ─→ linear head ─→ logits

The features are those of the added layer that `models.mean_pooling` describes, computed directly: with
attention that is uniform and a feed-forward part that is zero, it is two layer normalizations.

For pairs the two texts, which come in one row, are encoded apart, and the features are [u, v, |u - v|, u * v]
(Conneau et al., "Supervised Learning of Universal Sentence Representations", EMNLP 2017). An encoder that was
trained on single texts says more of them that way: with 8,000 question pairs (QQP) a probe on these features
has 82.6 %, one on the pair read together 72.8 (docs/log.md, eighteenth session).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgetune.backends.onnx_export import IR_VERSION, OPSET
from edgetune.models.checks import tensor_headers, weight_files
from edgetune.models.mean_pooling import MEAN_SCALE, TANH_SCALE, can_pool, is_pooled, pooling_weights
from edgetune.utils.types import FloatArray

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
FEATURES, LOGITS = "features", "logits"
HEAD_WEIGHT, HEAD_BIAS = "classifier.weight", "classifier.bias"
PAIR_PARTS = 4
MASKED = -10_000.0
"""Added to the attention scores of padding; far below any real one, and finite in every precision."""
_PARTS = ("embeddings.", "encoder.", "pooler.")
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_FLOATS, _UNREADABLE = ("F16", "F32", "F64"), ("BF16", "F8_E4M3", "F8_E5M2")


def can_write(config: Mapping[str, Any], pools_mean: bool, folder: Path) -> bool:
    """Return whether the graph of an encoder with this `config.json` can be written here.

    Its head must read the mean of all tokens; the headers of the weights in `folder` are read.
    """
    return (
        pools_mean
        and can_pool(config)
        and not is_pooled(config)  # its layers are trained, and its last one is the added one
        and config.get("model_type") == "bert"
        and config.get("hidden_act") == "gelu"
        and all(isinstance(config.get(name), int) for name in _SIZES)
        and _has_weights(config, folder)
    )


def _has_weights(config: Mapping[str, Any], folder: Path) -> bool:
    """Return whether all weights are there by the names and sizes of today, in a type that NumPy has.

    BERT of before 2019 calls the weights of its norms `gamma` and `beta`; NumPy has no bfloat16.
    """
    found: dict[str, tuple[int, ...]] = {}
    for _, name, tensor in tensor_headers(folder):
        if tensor.get_dtype() in _UNREADABLE:
            return False
        if tensor.get_dtype() in _FLOATS:
            found[name.removeprefix("bert.")] = tuple(tensor.get_shape())
    width, n_layers = int(config["hidden_size"]), int(config["num_hidden_layers"])
    wanted: dict[str, tuple[int, ...]] = {
        f"embeddings.LayerNorm.{name}": (width,) for name in ("weight", "bias")
    }
    for table in ("word", "position", "token_type"):
        name = f"embeddings.{table}_embeddings.weight"
        wanted[name] = (*found.get(name, ())[:1], width)  # the number of rows is checked elsewhere
    for name, value in pooling_weights(0, width, int(config["intermediate_size"])).items():
        if name.startswith("encoder."):
            wanted |= {name.replace(".0.", f".{n}.", 1): value.shape for n in range(n_layers)}
    return all(found.get(name) == shape for name, shape in wanted.items())


def read_weights(folder: Path) -> dict[str, FloatArray]:
    """Return the weights of a BERT encoder as float32, by their names without the prefix `bert.`.

    What else the folder has, such as the head that predicts masked words, is left out.
    """
    from safetensors.numpy import load_file

    found = {name: value for path in weight_files(folder) for name, value in load_file(path).items()}
    weights = {name.removeprefix("bert."): value for name, value in found.items()}
    return {
        name: np.asarray(value, dtype=np.float32)
        for name, value in weights.items()
        if name.startswith(_PARTS) and np.issubdtype(value.dtype, np.floating)
    }


def write_graph(config: Mapping[str, Any], weights: Mapping[str, FloatArray], *, pair: bool = False) -> Any:
    """Return the graph as an `onnx.ModelProto`.

    Inputs are `input_ids`, `attention_mask` and `token_type_ids`, int64 (B, T), as the tokenizer gives them;
    outputs `logits` (B, C) and `features` (B, F). `weights` are those of `read_weights`, with `HEAD_WEIGHT`
    (C, F) and `HEAD_BIAS` (C,). With `pair`, the two texts of a row are encoded apart.
    """
    return _Writer(config, weights, pair).model()


class _Writer:
    """Collects nodes and initializers of one graph; tensors go by their names."""

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, FloatArray], pair: bool) -> None:
        self._weights, self._pair = weights, pair
        self._n_layers, self._n_heads = int(config["num_hidden_layers"]), int(config["num_attention_heads"])
        self._width, self._epsilon = int(config["hidden_size"]), float(config.get("layer_norm_eps", 1e-12))
        self._nodes: list[Any] = []
        self._initializers: dict[str, Any] = {}

    def model(self) -> Any:
        """Return the whole model."""
        from onnx import TensorProto, helper

        ids, mask, kinds = self._texts_apart() if self._pair else INPUTS
        floats = self._add("Cast", mask, to=TensorProto.FLOAT)
        hidden = self._embeddings(ids, kinds)
        absent = self._add("Mul", self._add("Sub", np.float32(1), floats), np.float32(MASKED))
        scores = self._add("Unsqueeze", absent, [1, 2])  # (B, 1, 1, T)
        for number in range(self._n_layers):
            hidden = self._layer(f"encoder.layer.{number}", hidden, scores)
        features = self._pooled(hidden, floats)
        if self._pair:
            features = self._compared(features)
        self._add("Identity", features, output=FEATURES)
        head = (self._weight(HEAD_WEIGHT), self._weight(HEAD_BIAS))
        self._add("Gemm", FEATURES, *head, output=LOGITS, transB=1)
        n_classes, width = self._weights[HEAD_WEIGHT].shape
        describe = helper.make_tensor_value_info
        inputs = [describe(name, TensorProto.INT64, ["batch", "tokens"]) for name in INPUTS]
        outputs = [
            describe(LOGITS, TensorProto.FLOAT, ["batch", n_classes]),
            describe(FEATURES, TensorProto.FLOAT, ["batch", width]),
        ]
        weights = list(self._initializers.values())
        return helper.make_model(
            helper.make_graph(self._nodes, "encoder", inputs, outputs, initializer=weights),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="edgetune",
        )

    def _add(self, kind: str, *inputs: Any, output: str = "", **attributes: Any) -> str:
        """Add a node with one output; return its name, which is `output` if anybody outside knows it.

        Inputs are names, or values of constants: whole numbers and lists of them (int64), or float32.
        """
        from onnx import helper

        names = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        output = output or f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, names, [output], name=f"{output}_node", **attributes))
        return output

    def _constant(self, value: Any, name: str = "") -> str:
        """Add an initializer unless there is one of this name; return the name."""
        from onnx import numpy_helper

        name = name or f"constant_{len(self._initializers)}"
        if name not in self._initializers:
            kind: Any = np.int64 if isinstance(value, int | list) else np.float32
            self._initializers[name] = numpy_helper.from_array(np.array(value, kind, order="C"), name)
        return name

    def _weight(self, name: str) -> str:
        return self._constant(self._weights[name], name)

    def _normalized(self, name: str, value: str) -> str:
        scale, shift = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        return self._add("LayerNormalization", value, scale, shift, epsilon=self._epsilon)

    def _linear(self, name: str, value: str) -> str:
        transposed = self._constant(self._weights[f"{name}.weight"].T, f"{name}.weight.T")
        return self._add("Add", self._add("MatMul", value, transposed), self._weight(f"{name}.bias"))

    def _texts_apart(self) -> tuple[str, str, str]:
        """Put the second texts of a batch under the first ones: ids, mask and token types (2B, T')."""
        from onnx import TensorProto

        ids, mask, kinds = INPUTS
        in_second = self._add("Mul", kinds, mask)
        n_first = self._add("ReduceSum", self._add("Sub", mask, in_second), [1], keepdims=1)
        n_second = self._add("ReduceSum", in_second, [1], keepdims=1)
        # A second text begins with a copy of the token that the first one begins with.
        n_second = self._add("Add", n_second, [1])
        most = self._add("ReduceMax", self._add("Max", n_first, n_second), keepdims=0)
        columns = self._add("Range", 0, most, 1)
        before = self._add("Sub", n_first, [1])
        at_start = self._add("Equal", columns, 0)
        places = self._add("Where", at_start, 0, self._add("Add", columns, before))
        last = self._add("Sub", self._add("Shape", ids, start=1, end=2), 1)
        second = self._add("GatherElements", ids, self._add("Min", places, last), axis=1)
        first = self._add("Slice", ids, [0], self._add("Unsqueeze", most, [0]), [1])
        both = self._add("Concat", first, second, axis=0)
        is_token = [self._add("Less", columns, length) for length in (n_first, n_second)]
        masks = self._add("Cast", self._add("Concat", *is_token, axis=0), to=TensorProto.INT64)
        return both, masks, self._add("Mul", both, 0)

    def _compared(self, features: str) -> str:
        """Combine features of first and second texts (2B, D) to those of pairs (B, F)."""
        from onnx import helper

        first, second = "first_features", "second_features"
        self._nodes.append(helper.make_node("Split", [features], [first, second], name="apart", axis=0))
        apart = self._add("Abs", self._add("Sub", first, second))
        return self._add("Concat", first, second, apart, self._add("Mul", first, second), axis=1)

    def _embeddings(self, ids: str, kinds: str) -> str:
        """Add the embeddings of words, token types and positions (B, T, D)."""
        words, types, positions = (
            self._weight(f"embeddings.{table}_embeddings.weight")
            for table in ("word", "token_type", "position")
        )
        total = self._add("Add", self._add("Gather", words, ids), self._add("Gather", types, kinds))
        places = self._add("Slice", positions, [0], self._add("Shape", ids, start=1, end=2), [0])
        return self._normalized("embeddings.LayerNorm", self._add("Add", total, places))

    def _layer(self, name: str, hidden: str, mask: str) -> str:
        """Add one encoder layer, (B, T, D) to (B, T, D)."""
        attended = self._linear(f"{name}.attention.output.dense", self._attention(name, hidden, mask))
        total = self._add("Add", attended, hidden)
        hidden = self._normalized(f"{name}.attention.output.LayerNorm", total)
        inner = self._linear(f"{name}.intermediate.dense", hidden)
        shifted = self._add("Erf", self._add("Div", inner, np.float32(np.sqrt(2.0))))
        gelu = self._add("Mul", inner, self._add("Add", shifted, np.float32(1)))
        outer = self._linear(f"{name}.output.dense", self._add("Mul", gelu, np.float32(0.5)))
        return self._normalized(f"{name}.output.LayerNorm", self._add("Add", outer, hidden))

    def _attention(self, name: str, hidden: str, mask: str) -> str:
        size = self._width // self._n_heads

        def heads(part: str, order: list[int]) -> str:
            value = self._linear(f"{name}.attention.self.{part}", hidden)
            apart = self._add("Reshape", value, [0, 0, self._n_heads, size])
            return self._add("Transpose", apart, perm=order)

        products = self._add("MatMul", heads("query", [0, 2, 1, 3]), heads("key", [0, 2, 3, 1]))
        value = heads("value", [0, 2, 1, 3])
        scores = self._add("Div", products, np.float32(np.sqrt(size)))
        weights = self._add("Softmax", self._add("Add", scores, mask), axis=-1)
        mixed = self._add("Transpose", self._add("MatMul", weights, value), perm=[0, 2, 1, 3])
        return self._add("Reshape", mixed, [0, 0, self._width])

    def _pooled(self, hidden: str, floats: str) -> str:
        """Add what the added layer and the head's dense layer compute, (B, T, D) to (B, D)."""
        mask = self._add("Unsqueeze", floats, [2])
        total = self._add("ReduceSum", self._add("Mul", hidden, mask), [1], keepdims=0)
        mean = self._add("Div", total, self._add("ReduceSum", mask, [1], keepdims=0))
        first = self._add("Gather", hidden, 0, axis=1)
        pooled = self._add("Add", self._add("Mul", mean, np.float32(MEAN_SCALE)), first)
        ones, zeros = np.ones(self._width, np.float32), np.zeros(self._width, np.float32)
        for _ in range(2):
            pooled = self._add("LayerNormalization", pooled, ones, zeros, axis=-1, epsilon=self._epsilon)
        return self._add("Tanh", self._add("Mul", pooled, np.float32(TANH_SCALE)))
