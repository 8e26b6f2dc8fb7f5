"""Where a graph is cut: hand-made graphs whose answer can be seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgetune.backends.ort.graph_cut import Halves, cut_graph, inputs_of
from edgetune.backends.ort.ort_runtime import import_ort
from edgetune.backends.ort.training_graphs import head_input

D = 4
TABLE = "model.embeddings.weight"


def layer(number: int) -> str:
    return f"model.layer.{number}.weight"


def constant(name: str, value: list[int]) -> Any:
    return helper.make_node(
        "Constant", [], [name], value=numpy_helper.from_array(np.array(value, dtype=np.int64))
    )


def make_graph(nodes: list[Any], n_layers: int, extra: dict[str, tuple[int, ...]] | None = None) -> Any:
    """Make a model of ids and mask (B, T) with a table, square layer weights and a head of 2 labels."""
    rng = np.random.default_rng(0)
    shapes = {TABLE: (30, D), "head.weight": (2, D), "head.bias": (2,), **(extra or {})}
    shapes |= {layer(number): (D, D) for number in range(n_layers)}
    graph = helper.make_graph(
        nodes,
        "toy",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        initializer=[
            numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
            for name, shape in shapes.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def head(source: str) -> list[Any]:
    """Return the nodes of first token → linear → logits."""
    return [
        constant("first", [0]),
        helper.make_node("Gather", [source, "first"], ["pooled"], axis=1),
        helper.make_node("Squeeze", ["pooled", "one"], ["features"]),
        helper.make_node("Gemm", ["features", "head.weight", "head.bias"], ["logits"], transB=1),
    ]


def masked(source: str, output: str) -> list[Any]:
    """Return the nodes that zero a state's padding."""
    return [
        helper.make_node("Cast", ["attention_mask"], [f"{output}_mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", [f"{output}_mask", "minus"], [f"{output}_mask_3d"]),
        helper.make_node("Mul", [source, f"{output}_mask_3d"], [output]),
    ]


def chain(n_layers: int) -> list[Any]:
    """Return embeddings and layers that follow each other: state_0 → state_1 → …"""
    nodes = [
        constant("one", [1]),
        constant("minus", [-1]),
        helper.make_node("Gather", [TABLE, "input_ids"], ["state_0"]),
    ]
    for number in range(n_layers):
        nodes += [
            *masked(f"state_{number}", f"seen_{number}"),
            helper.make_node("MatMul", [f"seen_{number}", layer(number)], [f"product_{number}"]),
            helper.make_node("Tanh", [f"product_{number}"], [f"state_{number + 1}"]),
        ]
    return nodes


def parameters(model: Any) -> list[str]:
    return [item.name for item in model.graph.initializer]


def run(model: Any, **feeds: np.ndarray) -> np.ndarray:
    session = import_ort().InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {item.name: feeds[item.name] for item in session.get_inputs()})[0]
    return np.asarray(found)


def assert_whole(model: Any, halves: Halves) -> None:
    """Hold the two halves against the whole, in two shapes."""
    onnx.checker.check_model(halves.prefix)
    onnx.checker.check_model(halves.suffix)
    for shape in ((2, 5), (4, 9)):
        ids = np.random.default_rng(1).integers(0, 30, shape)
        feeds = {"input_ids": ids, "attention_mask": (ids > 6) * 1}
        hidden = run(halves.prefix, **feeds)
        assert hidden.shape == (*shape, D)
        np.testing.assert_array_equal(run(halves.suffix, hidden=hidden, **feeds), run(model, **feeds))


def suffix_weights(halves: Halves) -> set[str]:
    """Names of the suffix's initializers."""
    return {item.name for item in halves.suffix.graph.initializer}


def cut_at(halves: Halves) -> str:
    """Name of the hidden state in the whole graph."""
    return str(halves.suffix.graph.node[0].output[0])


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_cuts_a_chain_above_the_layers(depth: int) -> None:
    model = make_graph(chain(3) + head("state_3"), 3)
    halves = cut_graph(model, depth, parameters(model))
    assert halves is not None
    # The product needs the weight below; tanh of it does not, and is the nearest to it.
    assert cut_at(halves) == f"product_{depth - 1}"
    assert halves.prefix_weights == {TABLE, *(layer(number) for number in range(depth))}
    assert suffix_weights(halves) == {"head.weight", "head.bias", *(layer(n) for n in range(depth, 3))}
    assert [item.name for item in halves.prefix.graph.input] == ["input_ids", "attention_mask"]
    assert [item.name for item in halves.suffix.graph.input] == ["hidden", "attention_mask"][: 4 - depth]
    assert_whole(model, halves)


def test_residual_stream_is_cut_behind_its_sum() -> None:
    nodes = chain(2)
    nodes.insert(-5, helper.make_node("Add", ["state_1", "state_0"], ["sum"]))
    for node in nodes[-5:]:
        node.input[:] = ["sum" if name == "state_1" else name for name in node.input]
    nodes.append(helper.make_node("Add", ["state_2", "sum"], ["end"]))
    model = make_graph(nodes + head("end"), 2)
    halves = cut_graph(model, 1, parameters(model))
    assert halves is not None
    assert cut_at(halves) == "sum"
    assert_whole(model, halves)


def test_no_cut_where_a_layer_reads_the_embeddings() -> None:
    nodes = [*chain(2), helper.make_node("Add", ["state_2", "state_0"], ["end"])]
    model = make_graph(nodes + head("end"), 2)
    assert cut_graph(model, 1, parameters(model)) is None
    assert cut_graph(model, 2, parameters(model)) is not None


def test_no_cut_of_layers_that_are_not_there() -> None:
    model = make_graph(chain(2) + head("state_2"), 2)
    assert cut_graph(model, 3, parameters(model)) is None
    shared = make_graph(chain(1) + head("state_1"), 1)
    shared.graph.initializer[-1].name = "model.group.weight"
    shared.graph.node[6].input[1] = "model.group.weight"
    assert cut_graph(shared, 1, parameters(shared)) is None


def test_no_cut_where_the_head_needs_a_layer_below() -> None:
    nodes = [*chain(2), helper.make_node("MatMul", ["state_2", layer(0)], ["end"])]
    model = make_graph(nodes + head("end"), 2)
    assert cut_graph(model, 1, parameters(model)) is None


def test_shape_of_a_state_below_is_taken_from_the_hidden_state() -> None:
    nodes = [
        *chain(2),
        helper.make_node("Shape", ["state_0"], ["shape"]),
        helper.make_node("Expand", ["shared", "shape"], ["bias"]),
        helper.make_node("Add", ["state_2", "bias"], ["end"]),
    ]
    model = make_graph(nodes + head("end"), 2, {"shared": (1, 1, D)})
    halves = cut_graph(model, 1, parameters(model))
    assert halves is not None
    assert [item.name for item in halves.suffix.graph.input] == ["hidden", "attention_mask"]
    assert "shared" in suffix_weights(halves)
    assert TABLE not in suffix_weights(halves)
    assert_whole(model, halves)


def test_what_both_halves_use_is_in_both() -> None:
    nodes = [
        constant("one", [1]),
        helper.make_node("Gather", [TABLE, "input_ids"], ["words"]),
        helper.make_node("Add", ["words", "shared"], ["state_0"]),
        helper.make_node("MatMul", ["state_0", layer(0)], ["state_1"]),
        helper.make_node("MatMul", ["state_1", layer(1)], ["state_2"]),
        helper.make_node("Add", ["state_2", "shared"], ["end"]),
    ]
    model = make_graph(nodes + head("end"), 2, {"shared": (1, 1, D)})
    halves = cut_graph(model, 1, parameters(model))
    assert halves is not None
    assert "shared" in halves.prefix_weights & suffix_weights(halves)
    assert_whole(model, halves)


def test_branches_read_from_outside() -> None:
    def branch(name: str, source: str) -> Any:
        node = helper.make_node("Neg", [source], [name])
        return helper.make_graph(
            [node], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]
        )

    chosen = helper.make_node(
        "If", ["yes"], ["end"], then_branch=branch("a", "state_1"), else_branch=branch("b", "state_2")
    )
    assert set(inputs_of(chosen)) == {"yes", "state_1", "state_2"}
    yes = helper.make_tensor("yes_value", TensorProto.BOOL, [], [True])
    nodes = [
        constant("one", [1]),
        helper.make_node("Gather", [TABLE, "input_ids"], ["state_0"]),
        helper.make_node("MatMul", ["state_0", layer(0)], ["state_1"]),
        helper.make_node("MatMul", ["state_1", layer(1)], ["state_2"]),
        helper.make_node("Constant", [], ["yes"], value=yes),
        chosen,
    ]
    model = make_graph(nodes + head("end"), 2)
    halves = cut_graph(model, 1, parameters(model))
    assert halves is not None
    assert cut_at(halves) == "state_1"
    assert_whole(model, halves)


def test_head_is_found_as_gemm() -> None:
    found = head_input(make_graph(chain(1) + head("state_1"), 1))
    assert found is not None
    assert (found[0], found[1].weight, found[1].bias) == ("features", "head.weight", "head.bias")


@pytest.mark.parametrize("bias_first", [False, True])
def test_head_is_found_as_product_and_sum(bias_first: bool) -> None:
    terms = ["head.bias", "product"] if bias_first else ["product", "head.bias"]
    nodes = [
        *head("state_1")[:-1],
        helper.make_node("Transpose", ["head.weight"], ["turned"]),
        helper.make_node("MatMul", ["features", "turned"], ["product"]),
        helper.make_node("Add", terms, ["logits"]),
    ]
    found = head_input(make_graph(chain(1) + nodes, 1))
    assert found is not None
    assert (found[0], found[1].weight, found[1].bias) == ("features", "head.weight", "head.bias")


@pytest.mark.parametrize("kind", ["scaled", "no bias", "not linear"])
def test_head_of_another_kind_is_none(kind: str) -> None:
    nodes = head("state_1")
    if kind == "scaled":
        nodes[-1].attribute.append(helper.make_attribute("alpha", 2.0))
    elif kind == "no bias":
        del nodes[-1].input[2]
    else:
        nodes[-1].output[0] = "before"
        nodes.append(helper.make_node("Tanh", ["before"], ["logits"]))
    assert head_input(make_graph(chain(1) + nodes, 1)) is None
