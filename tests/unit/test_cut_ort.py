"""Artifacts that are cut: what their manifest says, what happens where they do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fakes import make_batch
from safetensors.numpy import load_file, save_file

import edgetune.backends.ort.export_process as child
from edgetune.backends.backend_contract import NoLinearHead
from edgetune.backends.ort.artifacts import load_artifacts
from edgetune.backends.ort.manifest import with_checksum
from edgetune.backends.ort.ort_backend import OrtBackend
from edgetune.models.source import is_embedding, layer_number, resolve_model
from edgetune.utils.errors import ArtifactsError


@pytest.fixture
def copied(artifacts_of: Any, tmp_path: Path) -> Path:
    """A copy of cut artifacts that a test may damage."""
    return Path(shutil.copytree(artifacts_of("1").folder, tmp_path / "artifacts"))


def test_layout(artifacts_of: Any) -> None:
    made = artifacts_of("1")
    cut = made.manifest.cut
    assert (cut.depth, cut.inputs, made.manifest.notes) == (1, ["hidden", "attention_mask"], [])
    assert cut.prefix_inputs == ["input_ids", "attention_mask", "token_type_ids"]
    assert made.manifest.linear.weight == "classifier.weight"
    names = {path.name for path in (made.folder / "cut").iterdir()}
    assert names == {
        "prefix.onnx",
        "training_model.onnx",
        "eval_model.onnx",
        "optimizer_model.onnx",
        "checkpoint",
    }
    prefix = {item.name for item in onnx.load(made.folder / "cut" / "prefix.onnx").graph.initializer}
    frozen = {name for name in made.manifest.parameters if is_embedding(name) or layer_number(name) == 0}
    assert prefix & set(made.manifest.parameters) == frozen
    suffix = {item.name for item in onnx.load(made.folder / "cut" / "training_model.onnx").graph.input}
    assert suffix & set(made.manifest.parameters) == set(made.manifest.parameters) - frozen


@pytest.mark.parametrize("freeze", ["none", "embeddings"])
def test_nothing_is_cut_where_no_layer_is_frozen(artifacts_of: Any, freeze: str) -> None:
    made = artifacts_of(freeze)
    assert made.manifest.cut is None
    assert not (made.folder / "cut").exists()


def job(model: Path, target: Path) -> dict[str, Any]:
    source = resolve_model(str(model))
    target.mkdir()
    return {
        "folder": str(source.folder),
        "name": "tiny",
        "fingerprint": "x",
        "n_labels": 2,
        "multi_label": False,
        "freeze": "1",
        "pools_mean": False,
        "target": str(target),
    }


@pytest.mark.parametrize("reason", ["no place", "check"])
def test_what_cannot_be_cut_runs_whole(
    tiny_model: Path, artifacts_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    if reason == "no place":
        monkeypatch.setattr(child, "cut_graph", lambda *args: None)
    else:
        run = child.run_prefix
        monkeypatch.setattr(child, "run_prefix", lambda *args: run(*args) * 1.1)
    child.build_artifacts(job(tiny_model, tmp_path / "made"))
    made = load_artifacts(tmp_path / "made")
    assert made.manifest.cut is None
    assert made.manifest.notes == [
        "tiny cannot be split above layer 1: its frozen layers are computed in every step"
    ]
    assert not (made.folder / "cut").exists()
    backend, cut = OrtBackend(made, 0), OrtBackend(artifacts_of("1"), 0)
    assert (backend.depth, backend.n_parameters) == (0, cut.n_parameters)
    batch = make_batch([5, 9])
    np.testing.assert_allclose(backend.score(batch), cut.score(batch), atol=1e-6)


@pytest.mark.parametrize("name", ["prefix.onnx", "checkpoint"])
def test_missing_files_are_named(copied: Path, name: str) -> None:
    (copied / "cut" / name).unlink()
    with pytest.raises(ArtifactsError, match=rf"cut/{name}"):
        load_artifacts(copied)


@pytest.mark.parametrize("name", ["prefix.onnx", "eval_model.onnx", "checkpoint"])
def test_damaged_files_are_said_so(copied: Path, name: str) -> None:
    made = load_artifacts(copied)
    (copied / "cut" / name).write_bytes(b"damaged")
    with pytest.raises(ArtifactsError, match="ONNX Runtime"):
        OrtBackend(made, 0)
    with pytest.raises(ArtifactsError, match=rf"cut/{name} has 7 bytes"):
        load_artifacts(copied)


def test_artifacts_of_the_schema_before_are_refused_in_a_sentence(copied: Path) -> None:
    path = copied / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 1}))
    with pytest.raises(ArtifactsError, match="`edgetune export`"):
        load_artifacts(copied)


def test_head_that_is_not_linear_has_no_features(copied: Path) -> None:
    path = copied / "manifest.json"
    path.write_text(json.dumps(with_checksum(json.loads(path.read_text()) | {"linear": None})))
    backend = OrtBackend(load_artifacts(copied), 0)
    with pytest.raises(NoLinearHead, match="linear layer"):
        backend.features(make_batch([5]))
    with pytest.raises(NoLinearHead, match="linear layer"):
        backend.set_head(np.zeros((2, 32), np.float32), np.zeros(2, np.float32))


@pytest.mark.parametrize("changed", ["nothing", "trained", "frozen"])
def test_weights_of_another_model(artifacts_of: Any, tmp_path: Path, changed: str) -> None:
    """Other weights below the cut make another prefix, so the whole graph runs then."""
    trained = OrtBackend(artifacts_of("1"), 0)
    batch = make_batch([5, 9, 14])
    if changed == "trained":
        trained.train_step(batch, 1e-3)
    trained.save(tmp_path, ("no", "yes"))
    file = tmp_path / "model" / "model.safetensors"
    if changed == "frozen":
        weights = load_file(file)
        weights["bert.encoder.layer.0.output.dense.weight"] *= 2
        save_file(weights, file)
    backend = OrtBackend(artifacts_of("1"), 3)
    backend.load_weights([file])
    assert backend.depth == (0 if changed == "frozen" else 1)
    given = load_file(file)
    for name, value in backend.weights().items():
        np.testing.assert_array_equal(value, given[name], err_msg=name)
    if changed == "frozen":
        assert np.abs(backend.score(batch) - trained.score(batch)).max() > 1e-4
    else:
        np.testing.assert_array_equal(backend.score(batch), trained.score(batch))
    other = OrtBackend(artifacts_of("1"), 5, cut=False)
    other.load_weights([file])
    np.testing.assert_allclose(backend.train_step(batch, 1e-3), other.train_step(batch, 1e-3), atol=1e-5)
    np.testing.assert_allclose(backend.score(batch), other.score(batch), atol=1e-5)


def test_shared_parameters_stay_frozen_with_a_note() -> None:
    items = [onnx.numpy_helper.from_array(np.zeros(1, np.float32), name) for name in ("shared", "low")]
    prefix = onnx.helper.make_model(onnx.helper.make_graph([], "toy", [], [], initializer=items))
    frozen = child.Halves(prefix, None).prefix_weights
    notes: list[str] = []
    for trainable in (["shared", "high"], ["high"]):
        assert child._without(frozen, trainable, "the frozen layers use it too", notes) == ["high"]
    assert notes == ["shared stays frozen: the frozen layers use it too"]
