"""Compute the last encoder layer for the first token only: an exact rewrite of a forward ONNX graph.

A classifier of the BERT family reads `hidden[:, 0]` of the last layer and nothing else, so of that layer
only the keys and values need every token; query, attention output, LayerNorms and feed-forward do not.

The rewrite asks one question of every tensor, from the outputs up: which part of it does anybody need? The
answer is all of it, or its first entry on one axis (`hidden` is needed on axis 1, the scores on axis 2).
A node that is understood hands the question on to its inputs; where all answers to a tensor agree, the
node that makes it computes only that entry, and stays as it is. Where they differ (the hidden state that
goes into the last layer: all of it for keys and values, the first token for the query and the residual) a
`Slice` is put between. Nodes that are not understood compute everything, and a `Slice` follows them. So
every step is exact by itself, whatever the architecture, and pooling over all tokens changes nothing.

An axis that is cut keeps its place with length 1, so no rank changes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper, shape_inference

FULL = -1  # the "axis" of a demand for the whole tensor
ELEMENTWISE = {"Abs", "Add", "Cast", "Div", "Erf", "Exp", "Gelu", "Identity", "Log", "Mul", "Neg", "Pow"}
ELEMENTWISE |= {"Relu", "Sigmoid", "Sqrt", "Sub", "Tanh"}
ELEMENTWISE |= {"And", "Equal", "Greater", "Less", "Not", "Or", "Where"}
Dims = tuple[int | str, ...]  # a static length, or the name of one that is the same wherever it is named


def push_first_token(model: Any) -> bool:
    """Rewrite a forward graph in place so that the last layer computes the first token where it can.

    Tensor, node and initializer names stay; only some tensors get shorter.

    Returns:
        Whether a matrix product became smaller; otherwise the graph is as it was.
    """
    graph = model.graph
    if any(item.domain == "" and item.version < 13 for item in model.opset_import):
        return False  # Softmax and Slice meant something else
    plan = _Plan(graph, _infer_dims(model))
    if not any(node.op_type == "MatMul" and node.output[0] in plan.cut for node in graph.node):
        return False
    nodes = plan.rewritten()
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]  # the shapes in it are of before
    return True


def _infer_dims(model: Any) -> dict[str, Dims]:
    """Return the dimensions of every tensor whose rank is known."""
    whole = model.graph
    nodes = helper.make_graph(whole.node, whole.name, whole.input, whole.output)
    skeleton = helper.make_model(nodes, opset_imports=model.opset_import, ir_version=model.ir_version)
    for item in whole.initializer:  # weights are left out, of which inference takes a copy
        if item.data_type == TensorProto.INT64:
            skeleton.graph.initializer.append(item)
        else:
            shape = helper.make_tensor_value_info(item.name, item.data_type, list(item.dims))
            skeleton.graph.input.append(shape)
    graph = shape_inference.infer_shapes(skeleton, data_prop=True).graph
    found: dict[str, Dims] = {item.name: tuple(item.dims) for item in model.graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape"):
            found[value.name] = tuple(
                dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"?{value.name}.{number}"
                for number, dim in enumerate(kind.shape.dim)
            )
    return found


class _Plan:
    """What is needed of every tensor of one graph, and the graph that computes just that.

    Attributes:
        axes: by tensor, the axes on which a reader wants the first entry only (`FULL`: it wants all).
        lengths: by tensor, the axes whose length a `Shape` reader wants to know.
        entries: by output of a `Shape`, which of its entries are read.
        cut: by output of a node that computes only the first entry on an axis, that axis.
        asks: by node number, what the node wants of each input: an axis, `FULL`, or None for nothing.
    """

    def __init__(self, graph: Any, dims: dict[str, Dims]) -> None:
        self.graph, self.dims = graph, dims
        self.maker = {name: node for node in graph.node for name in node.output}
        self.constants = self._constants()
        self.axes: dict[str, set[int]] = defaultdict(set)
        self.lengths: dict[str, set[int]] = defaultdict(set)
        self.entries: dict[str, set[int]] = defaultdict(set)
        self.asks: dict[int, list[int | None]] = {}
        self.cut: dict[str, int] = {}
        for name in (*(output.name for output in graph.output), *_captured(graph)):
            self.axes[name].add(FULL)
        for number in range(len(graph.node) - 1, -1, -1):
            self._visit(number, graph.node[number])

    def _constants(self) -> dict[str, Any]:
        """Return the small integer constants: indices, axes, shapes."""
        tensors = {item.name: item for item in self.graph.initializer}
        for node in self.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                tensors[node.output[0]] = node.attribute[0].t
        small = {name: item for name, item in tensors.items() if math.prod(item.dims) <= 16}
        return {name: numpy_helper.to_array(item) for name, item in small.items()}

    def _measured(self, name: str) -> str:
        """Return the tensor whose whole shape another one is, or nothing."""
        maker = self.maker.get(name)
        if maker is None or maker.op_type != "Shape" or maker.attribute:
            return ""
        return str(maker.input[0])

    def _visit(self, number: int, node: Any) -> None:
        """Settle what a node computes, and ask for what it needs; all its readers were here before."""
        wanted = [name for name in node.output if self.axes[name] or self.lengths[name] or self.entries[name]]
        if not wanted:
            return
        if self._measured(node.output[0]):
            self._visit_shape(number, node)
            return
        name = node.output[0]
        asks: list[int | None] | None = None
        if wanted == [name] and len(self.axes[name]) == 1:
            (axis,) = self.axes[name]
            if axis != FULL and axis not in self.lengths[name] and name in self.dims:
                asks = self._push(node, axis)
                if asks is not None:
                    self.cut[name] = axis
        if asks is None:
            asks = self._seed(node)
        self.asks[number] = asks
        for source, ask in zip(node.input, asks, strict=True):
            if source and ask is not None:
                self.axes[source].add(ask)

    def _visit_shape(self, number: int, node: Any) -> None:
        """Ask for lengths only, so that a tensor may be cut on an axis whose length nobody reads."""
        source, name = node.input[0], node.output[0]
        self.asks[number] = [None]
        if source not in self.dims:
            self.axes[source].add(FULL)
            return
        everything = set(range(len(self.dims[source])))
        self.lengths[source] |= everything if self.axes[name] else self.entries[name]

    def _seed(self, node: Any) -> list[int | None]:
        """Return what a node that computes everything needs: all, but of `hidden[:, 0]` the first token."""
        asks: list[int | None] = [FULL] * len(node.input)
        index = self.constants.get(node.input[1]) if node.op_type == "Gather" else None
        if index is None or index.size != 1:
            return asks
        data, entry = node.input[0], int(index.flat[0])
        measured = self._measured(data)
        if measured in self.dims:
            self.entries[data].add(entry % len(self.dims[measured]))
            asks[0] = None
        elif entry == 0 and _attribute(node, "axis", 0) == 1 and len(self.dims.get(data, ())) == 3:
            asks[0] = 1
        return asks

    def _push(self, node: Any, axis: int) -> list[int | None] | None:
        """Return what a node needs to compute the first entry of an axis, or None if that is not known."""
        kind = node.op_type
        rank = len(self.dims[node.output[0]])
        rest: list[int | None] = [FULL] * (len(node.input) - 1)
        if kind in ELEMENTWISE:
            return self._push_broadcast(list(node.input), axis, rank)
        if kind == "MatMul":
            left, right = (len(self.dims.get(name, ())) for name in node.input)
            return [left - 2, FULL] if left >= 2 and right >= 2 and axis == rank - 2 else None
        if kind in ("LayerNormalization", "Softmax"):
            normalized = _attribute(node, "axis", -1) % rank
            return [axis, *rest] if axis < normalized else None
        if kind == "Transpose":
            perm = _attribute(node, "perm", None)
            return None if perm is None else [perm[axis]]
        if kind == "Slice" and len(node.input) >= 4:
            axes = self.constants.get(node.input[3])
            return None if axes is None or axis in axes % rank else [axis, *rest]
        if kind == "Reshape":
            return [axis, None] if self._keeps_tokens(node, axis) else None
        return self._push_expand(node, axis, rank) if kind == "Expand" else None

    def _push_broadcast(self, inputs: list[str], axis: int, rank: int) -> list[int | None] | None:
        """Cut every input that has the axis; one that is broadcast along it is taken whole."""
        asks: list[int | None] = []
        for name in inputs:
            if name not in self.dims:
                return None
            own = axis - rank + len(self.dims[name])
            asks.append(own if own >= 0 and self.dims[name][own] != 1 else FULL)
        return asks

    def _keeps_tokens(self, node: Any, axis: int) -> bool:
        """Return whether a Reshape surely maps (B, T, …) to (B, T, …): of B, T and the rest, two stay."""
        before, after = self.dims.get(node.input[0], ()), self.dims[node.output[0]]
        if axis != 1 or min(len(before), len(after)) < 3 or before[0] != after[0]:
            return False
        if _attribute(node, "allowzero", 0) != 0:
            return False
        tails = [[dim for dim in dims[2:] if isinstance(dim, int)] for dims in (before, after)]
        open_ends = [len(dims) - 2 - len(tail) for dims, tail in zip((before, after), tails, strict=True)]
        same_tail = open_ends == [0, 0] and math.prod(tails[0]) == math.prod(tails[1])
        return same_tail or (before[1] == after[1] and open_ends[1] <= 1)

    def _push_expand(self, node: Any, axis: int, rank: int) -> list[int | None] | None:
        """Expand to the shape of another tensor, whose length on the axis is then not asked for."""
        asks = self._push_broadcast([node.input[0]], axis, rank)
        if asks is None or len(self.dims.get(self._measured(node.input[1]), ())) != rank:
            return None
        self.entries[node.input[1]] |= set(range(rank)) - {axis}
        return [*asks, None]

    def rewritten(self) -> list[Any]:
        """Return the nodes, in order, that compute what is needed."""
        nodes: list[Any] = []
        slices: dict[tuple[str, int], str] = {}
        for number, node in enumerate(self.graph.node):
            if number not in self.asks:
                continue
            copy = NodeProto()
            copy.CopyFrom(node)
            for place, (source, ask) in enumerate(zip(node.input, self.asks[number], strict=True)):
                if ask is None or ask == FULL or self.cut.get(source) == ask:
                    continue
                if (source, ask) not in slices:
                    slices[source, ask] = f"{source}_first_on_{ask}"
                    nodes.extend(_slice(source, ask, slices[source, ask]))
                copy.input[place] = slices[source, ask]
            axis = self.cut.get(node.output[0])
            if axis is not None and node.op_type in ("Reshape", "Expand"):
                nodes.extend(self._shorter_target(copy, axis))
            nodes.append(copy)
        return nodes

    def _shorter_target(self, node: Any, axis: int) -> list[Any]:
        """Point a Reshape or Expand to a target of length 1 on the axis; return the nodes that make it."""
        name = f"{node.output[0]}_target"
        old, node.input[1] = node.input[1], name
        dims = self.dims[node.output[0]]
        if node.op_type == "Reshape":
            rest = [dim if isinstance(dim, int) else -1 for dim in dims[2:]]
            return [_constant(np.array([0, 1, *rest], np.int64), name)]
        mine, one = f"{name}_axis", f"{name}_one"
        return [
            _constant(np.arange(len(dims)) == axis, mine),
            _constant(np.array([1], np.int64), one),
            helper.make_node("Where", [mine, one, old], [name], name=name),
        ]


def _captured(graph: Any) -> set[str]:
    """Return every name that a subgraph (a branch, a loop's body) reads; some are its own."""
    inner = [item.g for node in graph.node for item in node.attribute if item.HasField("g")]
    named = {name for sub in inner for node in sub.node for name in node.input}
    named |= {output.name for sub in inner for output in sub.output}
    return named.union(*(_captured(sub) for sub in inner))


def _attribute(node: Any, name: str, default: Any) -> Any:
    found = [item for item in node.attribute if item.name == name]
    return helper.get_attribute_value(found[0]) if found else default


def _constant(value: Any, name: str) -> Any:
    return helper.make_node("Constant", [], [name], name=name, value=numpy_helper.from_array(value, name))


def _slice(source: str, axis: int, name: str) -> list[Any]:
    """Return the nodes of `source[:, …, 0:1, …]`."""
    bounds = {"starts": 0, "ends": 1, "axes": axis}
    constants = [_constant(np.array([value], np.int64), f"{name}_{kind}") for kind, value in bounds.items()]
    inputs = [source, *(node.output[0] for node in constants)]
    return [*constants, helper.make_node("Slice", inputs, [name], name=name)]
