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
from edgetune.models.checks import weight_files
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
    """Return whether the graph of an encoder can be written here.

    Args:
        config: its `config.json`.
        pools_mean: whether its head reads the mean of all tokens.
        folder: where its weights lie, of which the headers are read.
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
    from safetensors import safe_open

    found: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder):
        with safe_open(path, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (it is no dict)
                tensor = tensors.get_slice(name)
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


def n_features(config: Mapping[str, Any], pair: bool) -> int:
    """Return the width F of the features."""
    return int(config["hidden_size"]) * (PAIR_PARTS if pair else 1)


def write_graph(config: Mapping[str, Any], weights: Mapping[str, FloatArray], *, pair: bool = False) -> Any:
    """Return the graph as an `onnx.ModelProto`.

    Inputs are `input_ids`, `attention_mask` and `token_type_ids`, int64 (B, T), as the tokenizer gives them;
    outputs `logits` (B, C) and `features` (B, F).

    Args:
        config: `config.json` of the encoder.
        weights: of `read_weights`, and `HEAD_WEIGHT` (C, F) and `HEAD_BIAS` (C,).
        pair: whether rows are pairs of texts, which are then encoded apart.
    """
    return _Writer(config, weights, pair).model()


class _Writer:
    """Collects nodes and initializers of one graph."""

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, FloatArray], pair: bool) -> None:
        self._config, self._weights, self._pair = config, weights, pair
        self._nodes: list[Any] = []
        self._initializers: dict[str, Any] = {}
        self._n_names = 0

    def model(self) -> Any:
        """Return the whole model."""
        from onnx import TensorProto, helper

        ids, mask, kinds = self._texts_apart() if self._pair else INPUTS
        floats = self._node("Cast", [mask], to=TensorProto.FLOAT)
        hidden = self._embeddings(ids, kinds)
        scores = self._masked(floats)
        for number in range(int(self._config["num_hidden_layers"])):
            hidden = self._layer(f"encoder.layer.{number}", hidden, scores)
        features = self._pooled(hidden, floats)
        features = self._node("Identity", [self._compared(features) if self._pair else features], FEATURES)
        self._node("Gemm", [features, self._weight(HEAD_WEIGHT), self._weight(HEAD_BIAS)], LOGITS, transB=1)
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in INPUTS
        ]
        n_classes, width = self._weights[HEAD_WEIGHT].shape
        outputs = [
            helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["batch", n_classes]),
            helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["batch", width]),
        ]
        graph = helper.make_graph(
            self._nodes, "encoder", inputs, outputs, initializer=list(self._initializers.values())
        )
        domains = [helper.make_opsetid("", OPSET)]
        return helper.make_model(
            graph, opset_imports=domains, ir_version=IR_VERSION, producer_name="edgetune"
        )

    def _node(self, kind: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        """Add a node with one output; return the output's name."""
        from onnx import helper

        if not output:
            self._n_names += 1
            output = f"{kind}_{self._n_names}"
        self._nodes.append(helper.make_node(kind, inputs, [output], name=f"{output}_node", **attributes))
        return output

    def _constant(self, name: str, value: Any) -> str:
        """Add an initializer unless there is one of this name; return the name."""
        from onnx import numpy_helper

        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(np.array(value, order="C"), name)
        return name

    def _weight(self, name: str) -> str:
        return self._constant(name, self._weights[name])

    def _normalized(self, name: str, value: str) -> str:
        inputs = [value, self._weight(f"{name}.weight"), self._weight(f"{name}.bias")]
        return self._node("LayerNormalization", inputs, epsilon=self._epsilon)

    @property
    def _epsilon(self) -> float:
        return float(self._config.get("layer_norm_eps", 1e-12))

    def _linear(self, name: str, value: str) -> str:
        transposed = self._constant(f"{name}.weight.T", self._weights[f"{name}.weight"].T)
        return self._node("Add", [self._node("MatMul", [value, transposed]), self._weight(f"{name}.bias")])

    def _integers(self, name: str, *values: int) -> str:
        return self._constant(name, np.array(values, np.int64))

    def _texts_apart(self) -> tuple[str, str, str]:
        """Put the second texts of a batch under the first ones: ids, mask and token types (2B, T')."""
        ids, mask, kinds = INPUTS
        axis = self._integers("axis_1", 1)
        in_second = self._node("Mul", [kinds, mask])
        n_first = self._node("ReduceSum", [self._node("Sub", [mask, in_second]), axis], keepdims=1)
        n_second = self._node("ReduceSum", [in_second, axis], keepdims=1)
        # A second text begins with a copy of the token that the first one begins with.
        n_second = self._node("Add", [n_second, self._integers("one_integer", 1)])
        most = self._node("ReduceMax", [self._node("Max", [n_first, n_second])], keepdims=0)
        zero, one = (self._constant(f"scalar_{n}", np.array(n, np.int64)) for n in (0, 1))
        columns = self._node("Range", [zero, most, one])
        before = self._node("Sub", [n_first, self._integers("one_integer", 1)])
        at_start = self._node("Equal", [columns, zero])
        places = self._node("Where", [at_start, zero, self._node("Add", [columns, before])])
        last = self._node("Sub", [self._node("Shape", [ids], start=1, end=2), one])
        second = self._node("GatherElements", [ids, self._node("Min", [places, last])], axis=1)
        width = self._node("Unsqueeze", [most, self._integers("axis_0", 0)])
        first = self._node("Slice", [ids, self._integers("axis_0", 0), width, axis])
        both = self._node("Concat", [first, second], axis=0)
        masks = [
            self._node("Cast", [self._node("Less", [columns, length])], to=7)
            for length in (n_first, n_second)
        ]
        return both, self._node("Concat", masks, axis=0), self._node("Mul", [both, zero])

    def _compared(self, features: str) -> str:
        """Combine features of first and second texts (2B, D) to those of pairs (B, F)."""
        from onnx import helper

        first, second = "first_features", "second_features"
        self._nodes.append(helper.make_node("Split", [features], [first, second], name="apart", axis=0))
        apart = self._node("Abs", [self._node("Sub", [first, second])])
        return self._node("Concat", [first, second, apart, self._node("Mul", [first, second])], axis=1)

    def _embeddings(self, ids: str, kinds: str) -> str:
        """Add the embeddings of words, token types and positions (B, T, D)."""
        words = self._node("Gather", [self._weight("embeddings.word_embeddings.weight"), ids])
        types = self._node("Gather", [self._weight("embeddings.token_type_embeddings.weight"), kinds])
        n_tokens = self._node("Shape", [ids], start=1, end=2)
        zero = self._integers("axis_0", 0)
        table = self._weight("embeddings.position_embeddings.weight")
        places = self._node("Slice", [table, zero, n_tokens, zero])
        total = self._node("Add", [self._node("Add", [words, types]), places])
        return self._normalized("embeddings.LayerNorm", total)

    def _masked(self, floats: str) -> str:
        """Return what is added to attention scores (B, 1, 1, T): a large negative number at padding."""
        absent = self._node("Sub", [self._constant("one", np.float32(1.0)), floats])
        scaled = self._node("Mul", [absent, self._constant("masked", np.float32(MASKED))])
        return self._node("Unsqueeze", [scaled, self._integers("mask_axes", 1, 2)])

    def _layer(self, name: str, hidden: str, mask: str) -> str:
        """Add one encoder layer, (B, T, D) to (B, T, D)."""
        projected = self._linear(f"{name}.attention.output.dense", self._attention(name, hidden, mask))
        hidden = self._normalized(
            f"{name}.attention.output.LayerNorm", self._node("Add", [projected, hidden])
        )
        inner = self._gelu(self._linear(f"{name}.intermediate.dense", hidden))
        outer = self._linear(f"{name}.output.dense", inner)
        return self._normalized(f"{name}.output.LayerNorm", self._node("Add", [outer, hidden]))

    def _attention(self, name: str, hidden: str, mask: str) -> str:
        n_heads = int(self._config["num_attention_heads"])
        size = int(self._config["hidden_size"]) // n_heads
        apart = self._integers("heads_apart", 0, 0, n_heads, size)
        together = self._integers("heads_together", 0, 0, n_heads * size)

        def heads(part: str, order: list[int]) -> str:
            value = self._node("Reshape", [self._linear(f"{name}.attention.self.{part}", hidden), apart])
            return self._node("Transpose", [value], perm=order)

        query, key, value = (
            heads(part, order)
            for part, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3]))
        )
        root = self._constant("root", np.float32(np.sqrt(size)))
        scores = self._node("Div", [self._node("MatMul", [query, key]), root])
        weights = self._node("Softmax", [self._node("Add", [scores, mask])], axis=-1)
        mixed = self._node("Transpose", [self._node("MatMul", [weights, value])], perm=[0, 2, 1, 3])
        return self._node("Reshape", [mixed, together])

    def _gelu(self, value: str) -> str:
        root, one = (
            self._constant("root_of_2", np.float32(np.sqrt(2.0))),
            self._constant("one", np.float32(1.0)),
        )
        shifted = self._node("Add", [self._node("Erf", [self._node("Div", [value, root])]), one])
        half = self._constant("half", np.float32(0.5))
        return self._node("Mul", [self._node("Mul", [value, shifted]), half])

    def _pooled(self, hidden: str, floats: str) -> str:
        """Add what the added layer and the head's dense layer compute, (B, T, D) to (B, D)."""
        width = int(self._config["hidden_size"])
        axis = self._integers("axis_1", 1)
        mask = self._node("Unsqueeze", [floats, self._integers("axis_2", 2)])
        total = self._node("ReduceSum", [self._node("Mul", [hidden, mask]), axis], keepdims=0)
        mean = self._node("Div", [total, self._node("ReduceSum", [mask, axis], keepdims=0)])
        scaled = self._node("Mul", [mean, self._constant("mean_scale", np.float32(MEAN_SCALE))])
        first = self._node("Gather", [hidden, self._constant("scalar_0", np.array(0, np.int64))], axis=1)
        pooled = self._node("Add", [scaled, first])
        plain = [
            self._constant("ones", np.ones(width, np.float32)),
            self._constant("zeros", np.zeros(width, np.float32)),
        ]
        for _ in range(2):
            pooled = self._node("LayerNormalization", [pooled, *plain], axis=-1, epsilon=self._epsilon)
        scale = self._constant("tanh_scale", np.float32(TANH_SCALE))
        return self._node("Tanh", [self._node("Mul", [pooled, scale])])
