"""ONNX graphs whose tensors lie in other files, looked at before ONNX Runtime opens them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Trained
from onnx import TensorProto, helper, numpy_helper

from edgetune.backends import onnx_files
from edgetune.backends.onnx_files import NotOnnx, find_unsafe_reference, locations
from edgetune.inference.saved_run import load_run
from edgetune.utils.errors import RunError


def outside(location: str, name: str = "w") -> TensorProto:
    """A tensor that lies in another file."""
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("offset", "0"), ("location", location), ("length", "16")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def graph_of(nodes: list[Any] = [], tensors: list[Any] = []) -> Any:  # noqa: B006
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    return helper.make_graph(nodes, "g", [], [out], tensors)


def model_of(**given: Any) -> Any:
    return helper.make_model(graph_of(**given))


def constant(tensor: TensorProto) -> Any:
    return helper.make_node("Constant", [], ["y"], value=tensor)


def hidden_in(place: str, tensor: TensorProto) -> Any:
    """A model with the tensor somewhere."""
    if place == "initializer":
        return model_of(tensors=[tensor])
    if place == "constant":
        return model_of(nodes=[constant(tensor)])
    if place == "list":
        return model_of(nodes=[helper.make_node("X", [], ["y"], values=[tensor])])
    if place == "subgraph":
        inner = graph_of(tensors=[tensor])
        return model_of(
            nodes=[helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=graph_of())]
        )
    if place == "subgraphs":
        node = helper.make_node("X", [], ["y"])
        node.attribute.append(
            onnx.AttributeProto(name="g", type="GRAPHS", graphs=[graph_of(tensors=[tensor])])
        )
        return model_of(nodes=[node])
    model = model_of()
    if place == "sparse":
        model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=tensor))
    elif place == "sparse indices":
        model.graph.sparse_initializer.append(onnx.SparseTensorProto(indices=tensor))
    elif place == "sparse attribute":
        node = helper.make_node("X", [], ["y"])
        sparse = onnx.SparseTensorProto(values=tensor)
        node.attribute.append(onnx.AttributeProto(name="s", type="SPARSE_TENSOR", sparse_tensor=sparse))
        node.attribute.append(onnx.AttributeProto(name="t", type="SPARSE_TENSORS", sparse_tensors=[sparse]))
        model.graph.node.append(node)
    elif place == "function":
        model.functions.append(
            helper.make_function("d", "f", [], ["y"], [constant(tensor)], [helper.make_opsetid("", 17)])
        )
    elif place == "function attribute":
        made = helper.make_function("d", "f", [], ["y"], [], [helper.make_opsetid("", 17)])
        made.attribute_proto.append(helper.make_attribute("v", tensor))
        model.functions.append(made)
    elif place == "training":
        model.training_info.append(onnx.TrainingInfoProto(algorithm=graph_of(tensors=[tensor])))
        model.training_info.append(onnx.TrainingInfoProto(initialization=graph_of(tensors=[tensor])))
    return model


PLACES = [
    *("initializer", "constant", "list", "subgraph", "subgraphs", "sparse", "sparse indices"),
    *("sparse attribute", "function", "function attribute", "training"),
]


@pytest.mark.parametrize("place", PLACES)
def test_found_wherever_it_hides(place: str) -> None:
    model = hidden_in(place, outside("../secret.bin"))
    assert set(locations(model.SerializeToString())) == {"../secret.bin"}
    assert list(locations(hidden_in(place, numpy_helper.from_array(np.zeros(4))).SerializeToString())) == []


def test_every_message_with_tensors_in_it_is_walked() -> None:
    """The table of field numbers against onnx's own description of its format."""
    kinds = {
        "ModelProto": "model",
        "TrainingInfoProto": "training",
        "FunctionProto": "function",
        "GraphProto": "graph",
        "NodeProto": "node",
        "AttributeProto": "attribute",
        "SparseTensorProto": "sparse",
        "TensorProto": "tensor",
        "StringStringEntryProto": "entry",
    }
    for name, kind in kinds.items():
        fields = getattr(onnx, name).DESCRIPTOR.fields
        inside = {one.number: kinds.get(one.message_type.name) for one in fields if one.message_type}
        inside = {number: found for number, found in inside.items() if found is not None}
        notes = {number for number, found in inside.items() if found == "entry" and kind != "tensor"}
        table = {number: found for number, found in inside.items() if number not in notes}
        if kind == "tensor":  # of the entries, those that say where the data lie
            table = {onnx.TensorProto.DESCRIPTOR.fields_by_name["external_data"].number: "entry"}
        assert onnx_files._INSIDE[kind] == table, name


ELSEWHERE = ["/etc/passwd", "../w.bin", "a/../../w.bin", "link.bin", "linked/w.bin", "*/_ORT_MEM_ADDR_/*"]
NOWHERE = [
    "missing.bin",
    "C:\\w.bin",
    "..\\w.bin",
    "",
    ".",
    "sub",
    "w.bin/",
    "//w.bin",
    "sub/./w.bin",
    "fi\nfo",
]


@pytest.mark.parametrize("location", [*ELSEWHERE, *NOWHERE])
def test_paths_that_leave_the_folder(tmp_path: Path, location: str) -> None:
    home = tmp_path / "home"
    (home / "sub").mkdir(parents=True)
    (home / "*" / "_ORT_MEM_ADDR_").mkdir(parents=True)
    for path in (tmp_path / "w.bin", home / "*" / "_ORT_MEM_ADDR_" / "*"):
        path.write_bytes(b"\0" * 16)
    (home / "link.bin").symlink_to(tmp_path / "w.bin")
    (home / "linked").symlink_to(tmp_path)
    onnx.save(model_of(tensors=[outside(location)]), home / "model.onnx")
    assert "outside" in (find_unsafe_reference(home / "model.onnx") or "")


@pytest.mark.parametrize("location", ["w.bin", "sub/w.bin", "my weights.bin"])
def test_files_in_the_folder_are_fine(tmp_path: Path, location: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / location).write_bytes(b"\0" * 16)
    onnx.save(model_of(tensors=[outside(location)]), tmp_path / "model.onnx")
    assert find_unsafe_reference(tmp_path / "model.onnx") is None


@pytest.mark.parametrize("data", [b"", b"\xff" * 40, b"abc", b"\x3a\xff\xff\xff\xff\x0f", b"\x3b", b"\x39\0"])
def test_what_is_no_graph(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(data)
    assert "damaged" in (find_unsafe_reference(tmp_path / "model.onnx") or "")


def test_graphs_in_graphs_in_graphs() -> None:
    data = b""
    for number in (5, 1) * 400:  # attributes of nodes of graphs
        for field in (6, number) if number == 5 else (1,):
            data = bytes([field << 3 | 2]) + _length(len(data)) + data
    with pytest.raises(NotOnnx, match="too deep"):
        list(locations(bytes([7 << 3 | 2]) + _length(len(data)) + data))


def _length(value: int) -> bytes:
    found = b""
    while value > 0x7F:
        found, value = found + bytes([value & 0x7F | 0x80]), value >> 7
    return found + bytes([value])


def test_another_format_of_the_runtime(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x10\0\0\0ORTM" + b"\0" * 40)
    assert "own format" in (find_unsafe_reference(tmp_path / "model.onnx") or "")


def test_a_graph_that_edgetune_wrote_is_fine(trained: Trained) -> None:
    assert find_unsafe_reference(trained.folder / "onnx" / "model.onnx") is None


def test_predicting_refuses_before_the_runtime_sees_it(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from edgetune.inference import saved_ensemble

    run = Path(shutil.copytree(trained.folder, tmp_path / "run"))
    model = onnx.load(run / "onnx" / "model.onnx")
    (tmp_path / "secret.bin").write_bytes(b"\0" * 16)
    model.graph.initializer.append(outside("../../secret.bin"))
    onnx.save(model, run / "onnx" / "model.onnx")
    monkeypatch.setattr(saved_ensemble, "import_ort", lambda: pytest.fail("the runtime was asked"))
    with pytest.raises(
        RunError, match=r"model\.onnx refers to weights outside its folder \('\.\./\.\./secret"
    ):
        load_run(run / "onnx").predict(["the invoice is wrong"])
