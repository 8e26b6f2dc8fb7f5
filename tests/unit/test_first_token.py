"""The last layer computes the first token only: same logits, same gradients, and only where it may."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from architectures import ARCHITECTURES, OFFSET
from conftest import write_model

from edgetune.backends.onnx_export import export_graph, load_torch_model, native_stderr_to
from edgetune.backends.ort.onnx_first_token import push_first_token
from edgetune.backends.torch.torch_layers import every_token, first_token_only
from edgetune.models.source import is_position_table
from edgetune.utils.types import FloatArray, IntArray

TOLERANCE = 1e-5
ALL = {**ARCHITECTURES, "camembert": OFFSET}
WHOLE_LAYER = {
    "bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "albert", "mpnet", "mobilebert"
}  # fmt: skip
ABOVE_ATTENTION = {"deberta-v2", "modernbert"}  # their attention reshapes in ways that are not understood
BY_TORCH = {"bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert"}
SHAPES = [(3, 9), (2, 1), (1, 6), (1, 1)]
GRADIENT = "_grad.accumulation.buffer"


@dataclass(frozen=True)
class Exported:
    """A tiny random classifier of one architecture, in torch and as a graph."""

    kind: str
    folder: Path
    model: Any
    plain: Any
    short: Any
    changed: bool


@pytest.fixture(scope="module", params=sorted(ALL))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    import onnx

    folder = write_model(
        tmp_path_factory.mktemp("first") / request.param, request.param, **ALL[request.param]
    )
    model, _ = load_torch_model(folder, 3, "eager")
    export_graph(model, folder / "forward.onnx")
    plain, short = (onnx.load(folder / "forward.onnx") for _ in range(2))
    return Exported(request.param, folder, model, plain, short, push_first_token(short))


def batches(model: Any) -> list[dict[str, IntArray]]:
    """Batches of several shapes: rows without padding, with much, and of one token."""
    rng = np.random.default_rng(3)
    made = []
    for rows, width in SHAPES:
        lengths = np.maximum(1, width - np.arange(rows) * width // 2)
        mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
        ids = rng.integers(5, 50, (rows, width))
        ids[mask == 0] = model.config.pad_token_id or 0
        segments = (np.arange(width) >= 4).astype(np.int64) * np.ones_like(ids)
        made.append({"input_ids": ids, "attention_mask": mask, "token_type_ids": segments})
    return made


def logits_of(graph: Any, batch: dict[str, IntArray]) -> FloatArray:
    import onnxruntime

    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    found: FloatArray = session.run(["logits"], {i.name: batch[i.name] for i in session.get_inputs()})[0]
    return found


def rows_computed(graph: Any, batch: dict[str, IntArray]) -> dict[str, tuple[int, ...]]:
    """Return the shape of what every matrix product gives."""
    import onnx
    import onnxruntime

    shown = onnx.ModelProto()
    shown.CopyFrom(graph)
    names = [node.output[0] for node in graph.graph.node if node.op_type == "MatMul"]
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    values = session.run(names, {item.name: batch[item.name] for item in session.get_inputs()})
    return {name: value.shape for name, value in zip(names, values, strict=True)}


def test_graph_gives_the_same_logits(exported: Exported) -> None:
    import onnx

    onnx.checker.check_model(exported.short)
    for batch in batches(exported.model):
        np.testing.assert_allclose(
            logits_of(exported.short, batch), logits_of(exported.plain, batch), atol=TOLERANCE
        )


def test_graph_computes_fewer_rows(exported: Exported) -> None:
    assert exported.changed
    batch = batches(exported.model)[0]
    before, after = (rows_computed(graph, batch) for graph in (exported.plain, exported.short))
    assert before.keys() == after.keys()
    fewer = [name for name, shape in after.items() if np.prod(shape) * 9 == np.prod(before[name])]
    assert {name for name in after if after[name] != before[name]} == set(fewer)
    # query, scores, context, output, up, down: all but key and value
    assert len(fewer) >= (6 if exported.kind in WHOLE_LAYER else 3)
    assert exported.kind in WHOLE_LAYER | ABOVE_ATTENTION
    weights = [{item.name for item in graph.graph.initializer} for graph in (exported.plain, exported.short)]
    assert weights[0] == weights[1]


def test_graph_gives_the_same_gradients(exported: Exported, tmp_path: Path) -> None:
    from edgetune.backends.ort.training_graphs import float_initializers

    trained = sorted(name for name in float_initializers(exported.plain) if not is_position_table(name))
    batch = {**batches(exported.model)[0], "labels": np.array([0, 2, 1])}
    batch["weights"] = np.array([0.5, 1.0, 2.0], dtype=np.float32)
    plain, short = (
        gradients_of(graph, trained, batch, tmp_path / name)
        for name, graph in (("plain", exported.plain), ("short", exported.short))
    )
    assert plain.keys() == short.keys() == set(trained)
    for name, gradient in plain.items():
        np.testing.assert_allclose(short[name], gradient, atol=TOLERANCE, err_msg=name)
    assert sum(np.abs(gradient).max() > 1e-4 for gradient in plain.values()) > len(plain) // 2


def gradients_of(
    graph: Any, trained: list[str], batch: dict[str, IntArray], folder: Path
) -> dict[str, FloatArray]:
    """Make ONNX Runtime's training graph; return every gradient of one batch."""
    import onnx
    import onnxruntime

    from edgetune.backends.ort.ort_runtime import import_training
    from edgetune.backends.ort.training_graphs import generate_training_graphs

    folder.mkdir()
    given = onnx.ModelProto()
    given.CopyFrom(graph)  # the generator changes what it is given
    with native_stderr_to(folder / "log.txt"):
        generate_training_graphs(given, trained, folder)
        session = onnxruntime.InferenceSession(
            str(folder / "training_model.onnx"), providers=["CPUExecutionProvider"]
        )
    state = import_training().CheckpointState.load_checkpoint(str(folder / "checkpoint"))
    feeds: dict[str, Any] = {}
    for item in session.get_inputs():
        name = item.name.removesuffix(GRADIENT)
        if item.name in batch:
            feeds[item.name] = batch[item.name]
        elif item.name == "lazy_reset_grad":
            feeds[item.name] = np.array([True])
        else:
            value = np.array(state.parameters[name].data)
            feeds[item.name] = np.zeros_like(value) if item.name.endswith(GRADIENT) else value
    session.run(["logits"], feeds)  # gradients go into the buffers
    return {name: feeds[name + GRADIENT] for name in trained}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_model(tmp_path_factory.mktemp("bert") / "bert", "bert", **ARCHITECTURES["bert"])
    model, _ = load_torch_model(folder, 2, "eager")
    export_graph(model, folder / "forward.onnx")
    return folder


def bert_batch() -> dict[str, IntArray]:
    ids = np.array([[5, 6, 7, 8], [9, 10, 0, 0]])
    return {"input_ids": ids, "attention_mask": (ids > 0) * 1, "token_type_ids": np.zeros_like(ids)}


def test_graph_that_pools_over_all_tokens_stays(bert: Path) -> None:
    import onnx

    graph = onnx.load(bert / "forward.onnx")
    gather = next(node for node in graph.graph.node if node.name.endswith("pooler/Gather"))
    pooled = onnx.helper.make_node("ReduceMean", [gather.input[0]], [gather.output[0]], axes=[1], keepdims=0)
    gather.CopyFrom(pooled)
    before = graph.SerializeToString(deterministic=True)
    assert not push_first_token(graph)
    assert graph.SerializeToString(deterministic=True) == before


def test_graph_whose_last_token_is_read_stays(bert: Path) -> None:
    import onnx

    graph = onnx.load(bert / "forward.onnx")
    nodes = graph.graph.node
    place, gather = next(
        (number, node) for number, node in enumerate(nodes) if node.name.endswith("pooler/Gather")
    )
    gather.input[1] = "last"
    last = onnx.numpy_helper.from_array(np.array(-1), "last")
    nodes.insert(place, onnx.helper.make_node("Constant", [], ["last"], value=last))
    assert not push_first_token(graph)


def test_second_reader_of_the_last_hidden_state_keeps_it_whole(bert: Path) -> None:
    import onnx

    graph = onnx.load(bert / "forward.onnx")
    gather = next(node for node in graph.graph.node if node.name.endswith("pooler/Gather"))
    graph.graph.output.append(onnx.helper.make_tensor_value_info(gather.input[0], 1, [None, None, 32]))
    assert not push_first_token(graph)


def test_unknown_operation_is_computed_for_all_tokens(bert: Path) -> None:
    import onnx

    graph = onnx.load(bert / "forward.onnx")
    last = [node for node in graph.graph.node if node.op_type == "Erf"][-1]
    last.op_type = "Sin"
    expected = logits_of(graph, bert_batch())
    before = rows_computed(graph, bert_batch())
    assert push_first_token(graph)
    np.testing.assert_allclose(logits_of(graph, bert_batch()), expected, atol=TOLERANCE)
    after = rows_computed(graph, bert_batch())
    fewer = [name for name in before if before[name] != after[name]]
    assert [name.split("/")[-3:-1] for name in fewer] == [["output", "dense"]]


def test_suffix_above_a_cut_is_pushed_too(bert: Path) -> None:
    import onnx

    from edgetune.backends.ort.graph_cut import cut_graph

    graph = onnx.load(bert / "forward.onnx")
    names = [item.name for item in graph.graph.initializer]
    for depth, expected in ((1, True), (2, False)):
        halves = cut_graph(graph, depth, names)
        assert halves is not None
        hidden = run_graph(halves.prefix, bert_batch())
        plain = run_graph(halves.suffix, {**bert_batch(), "hidden": hidden})
        assert push_first_token(halves.suffix) is expected
        short = run_graph(halves.suffix, {**bert_batch(), "hidden": hidden})
        np.testing.assert_allclose(short, plain, atol=TOLERANCE)
        np.testing.assert_allclose(short, logits_of(graph, bert_batch()), atol=TOLERANCE)


def run_graph(graph: Any, feeds: dict[str, Any]) -> FloatArray:
    import onnxruntime

    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    found: FloatArray = session.run(None, {item.name: feeds[item.name] for item in session.get_inputs()})[0]
    return found


def torch_step(model: Any, batch: dict[str, IntArray]) -> tuple[FloatArray, dict[str, FloatArray]]:
    """Return logits and all gradients of one batch."""
    import torch

    inputs = {name: torch.from_numpy(value) for name, value in batch.items()}
    if "token_type_ids" in inputs and model.config.model_type not in ("bert", "electra", "albert"):
        del inputs["token_type_ids"]
    model.zero_grad()
    logits = model(**inputs).logits
    torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)) % 3).backward()
    gradients = {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None}
    return logits.detach().numpy(), gradients


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_torch_gives_the_same_logits_and_gradients(exported: Exported, attention: str) -> None:
    model, _ = load_torch_model(exported.folder, 3, attention)
    names = list(model.state_dict())
    made = batches(model)
    expected = [torch_step(model, batch) for batch in made]
    assert first_token_only(model) is (exported.kind in BY_TORCH)
    assert list(model.state_dict()) == names
    for batch, (logits, gradients) in zip(made, expected, strict=True):
        found, found_gradients = torch_step(model, batch)
        np.testing.assert_allclose(found, logits, atol=TOLERANCE)
        assert found_gradients.keys() == gradients.keys()
        for name, gradient in gradients.items():
            np.testing.assert_allclose(found_gradients[name], gradient, atol=TOLERANCE, err_msg=name)


def last_hidden(model: Any) -> tuple[int, ...]:
    import torch

    inputs = {name: torch.from_numpy(value) for name, value in bert_batch().items()}
    return tuple(model(**inputs, output_hidden_states=True).hidden_states[-1].shape)


def test_torch_layer_is_shorter_until_undone(bert: Path) -> None:
    model, _ = load_torch_model(bert, 2, "sdpa")
    assert first_token_only(model)
    assert last_hidden(model) == (2, 1, 32)
    twin = copy.deepcopy(model)
    assert last_hidden(twin) == (2, 1, 32)
    assert vars(twin.bert.encoder.layer[-1])["forward"].__self__ is twin.bert.encoder.layer[-1]
    every_token(model)
    assert last_hidden(model) == (2, 4, 32)
    every_token(model)  # once more changes nothing


def test_torch_layer_asked_for_attentions_computes_all(bert: Path) -> None:
    model, _ = load_torch_model(bert, 2, "eager")
    assert first_token_only(model)
    import torch

    inputs = {name: torch.from_numpy(value) for name, value in bert_batch().items()}
    assert model(**inputs, output_attentions=True).attentions[-1].shape == (2, 2, 4, 4)


def test_torch_head_that_pools_over_all_tokens_keeps_them(bert: Path) -> None:
    model, _ = load_torch_model(bert, 2, "sdpa")
    model.bert.pooler.forward = lambda hidden: hidden.mean(1)
    assert not first_token_only(model)
    assert last_hidden(model) == (2, 4, 32)


def test_torch_head_that_reads_a_later_token_keeps_it(bert: Path) -> None:
    model, _ = load_torch_model(bert, 2, "sdpa")
    model.bert.pooler.forward = lambda hidden: hidden[:, 1]  # which fails on (B, 1, D)
    assert not first_token_only(model)
    assert last_hidden(model) == (2, 4, 32)
