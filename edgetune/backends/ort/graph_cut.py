"""Where an exported classifier's graph can be cut below a layer, and the two halves.

    input_ids, … ──→ prefix (frozen layers) ──→ hidden (B, T, D) ──→ suffix (trained layers, head) ──→ logits

The cut is the first tensor, in the order of computation, above which nothing needs a layer below. What
both halves need (masks from `attention_mask`, a table of relative positions) is computed in both.
`Shape` nodes of tensors below the cut read the hidden state's shape instead.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgetune.backends.ort.ort_runtime import open_session
from edgetune.models.source import layer_number

HIDDEN = "hidden"
LOGITS = "logits"
MASK = "attention_mask"
PROBE = (3, 11)  # rows and tokens of the run that finds out shapes; unlike any other size in a tiny model


@dataclass(frozen=True)
class Halves:
    """A graph in two models: from ids to the hidden state, and from there to the logits."""

    prefix: Any
    suffix: Any

    @property
    def prefix_weights(self) -> set[str]:
        """Names of the prefix's initializers."""
        return {item.name for item in self.prefix.graph.initializer}


def cut_graph(model: Any, depth: int, parameters: Iterable[str]) -> Halves | None:
    """Cut a model, which computes `logits` from initializers named as parameters, above its lowest layers.

    Returns:
        The halves, or None where no single tensor (B, T, D) separates them.
    """
    from onnx import NodeProto, TensorProto, helper

    names = set(parameters)
    if depth - 1 not in {layer_number(name) for name in names}:
        return None
    flow = _Flow(model, names)
    shapes = _probed_shapes(model, flow.computed)
    is_state = {name for name, shape in shapes.items() if len(shape) == 3 and shape[:2] == PROBE}
    for tensor in flow.order:
        found = flow.above(tensor, depth, is_state) if tensor in is_state else None
        if found is not None:
            needed, redirect = found
            # Rows and tokens are named as in the ids.
            dims = [dim.dim_param for dim in model.graph.input[0].type.tensor_type.shape.dim]
            state = helper.make_tensor_value_info(HIDDEN, TensorProto.FLOAT, [*dims, shapes[tensor][2]])
            below = [*flow.nodes_of(flow.needed(tensor)), helper.make_node("Identity", [tensor], [HIDDEN])]
            above = [helper.make_node("Identity", [HIDDEN], [tensor])]
            for node in flow.nodes_of(needed):
                above.append(NodeProto())
                above[-1].CopyFrom(node)
                if node.output[0] in redirect:
                    above[-1].input[0] = HIDDEN
            logits = next(item for item in model.graph.output if item.name == LOGITS)
            return Halves(_part(model, below, [], state), _part(model, above, [state], logits))
    return None


class _Flow:
    """Which tensor is computed from which.

    Attributes:
        order: all tensors that nodes give.
        computed: those whose values come from both token ids and parameters.
    """

    def __init__(self, model: Any, parameters: set[str]) -> None:
        self._nodes = [(node, inputs_of(node)) for node in model.graph.node]
        self._numbers = {name: layer_number(name) for name in parameters}
        self._read_for = {name: read for node, read in self._nodes for name in node.output if name}
        self.order = list(self._read_for)
        ids = {item.name for item in model.graph.input if item.name != MASK}
        self.computed = self._after(ids, "Shape") & self._after(parameters, "Shape")

    def _after(self, tensors: set[str], but: str = "") -> set[str]:
        """Return these tensors and all that are computed from them, by nodes of any kind `but` one."""
        found = set(tensors)
        for node, inputs in self._nodes:
            if node.op_type != but and not found.isdisjoint(inputs):
                found.update(node.output)
        return found

    def needed(self, end: str, stop: str = "", redirect: Collection[str] = ()) -> set[str]:
        """Return all tensors (inputs and initializers too) that one is computed from.

        Nothing below `stop` is needed, nor what is below `redirect`: outputs of `Shape` nodes that will read
        `stop` instead of their own input.
        """
        found: set[str] = set()
        stack = [end]
        while stack:
            name = stack.pop()
            if name not in found and name != stop:
                found.add(name)
                stack += () if name in redirect else self._read_for.get(name, ())
        return found

    def nodes_of(self, tensors: set[str]) -> list[Any]:
        """Return the nodes that give these tensors, in order."""
        return [node for node, _ in self._nodes if not tensors.isdisjoint(node.output)]

    def above(self, tensor: str, depth: int, is_state: set[str]) -> tuple[set[str], set[str]] | None:
        """Return what the logits need above a tensor, and the `Shape` outputs to redirect to it.

        None where they need a layer below `depth`, or something else that is computed from the ids, or
        where the tensor itself needs a layer that is not below.
        """
        after = self._after({tensor})
        below = is_state - after
        redirect = {
            node.output[0] for node, _ in self._nodes if node.op_type == "Shape" and node.input[0] in below
        }
        needed = self.needed(LOGITS, tensor, redirect)
        from_ids = needed & self.computed - after
        if LOGITS not in after or from_ids or min(self._layers_in(needed), default=depth) < depth:
            return None
        if max(self._layers_in(self.needed(tensor)), default=0) >= depth:
            return None
        return needed, redirect

    def _layers_in(self, tensors: set[str]) -> set[int]:
        """Return the numbers of the layers whose parameters are among these."""
        return {number for name in tensors if (number := self._numbers.get(name)) is not None}


def inputs_of(node: Any) -> list[str]:
    """Return the tensors a node reads, those that its branches read from outside included."""
    names = [name for name in node.input if name]
    branches = [item.g for item in node.attribute if item.HasField("g")]
    for graph in (*branches, *(graph for item in node.attribute for graph in item.graphs)):
        inner = {name for child in graph.node for name in child.output}
        names += [name for child in graph.node for name in inputs_of(child) if name not in inner]
        names += [item.name for item in graph.output if item.name not in inner]
    return names


def _probed_shapes(model: Any, names: set[str]) -> dict[str, tuple[int, ...]]:
    """Run the graph once on PROBE and return the shapes of these tensors."""
    import onnx

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    present = {item.name for item in shown.graph.output}
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(names - present))
    session = open_session(shown.SerializeToString())
    feeds = {item.name: np.ones(PROBE, dtype=np.int64) for item in session.get_inputs()}
    wanted = sorted(names)
    return {name: value.shape for name, value in zip(wanted, session.run(wanted, feeds), strict=True)}


def _part(model: Any, nodes: list[Any], inputs: list[Any], output: Any) -> Any:
    """Make a model of these nodes, with what they read of the whole model's inputs and initializers."""
    from onnx import helper

    read = {name for node in nodes for name in inputs_of(node)}
    graph = helper.make_graph(
        nodes,
        f"{model.graph.name}-{output.name}",
        [*inputs, *(item for item in model.graph.input if item.name in read)],
        [output],
        initializer=[item for item in model.graph.initializer if item.name in read],
    )
    part = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    part.functions.extend(model.functions)
    return part
