from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from architectures import ARCHITECTURES

import edgetune.models.source as models
from edgetune.models.source import (
    ModelSource,
    init_head,
    is_embedding,
    is_position_table,
    max_positions,
    resolve_model,
    takes_segments,
    trainable_names,
)
from edgetune.utils.errors import MissingDependencyError, ModelError, UsageError


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def names(request: pytest.FixtureRequest) -> list[str]:
    """Parameter names of one architecture's classifier, as transformers has them."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.for_model(
        request.param, **{"vocab_size": 99, "pad_token_id": 0, **ARCHITECTURES[request.param]}
    )
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    return [name for name, _ in model.named_parameters()]


def test_none_freezes_nothing(names: list[str]) -> None:
    assert trainable_names(names, "none") == names


def test_embeddings_are_frozen_and_nothing_above_them(names: list[str]) -> None:
    frozen = set(names) - set(trainable_names(names, "embeddings"))
    # a rule that fits these ten, not all the world
    assert frozen == {name for name in names if "embed" in name or "relative_attention_bias" in name}
    assert any("word_embeddings" in name or "tok_embeddings" in name for name in frozen)
    assert all(name in frozen for name in names if is_position_table(name))


def test_each_depth_freezes_one_layer_more(names: list[str]) -> None:
    above = trainable_names(names, "embeddings")
    if any("albert_layer_groups" in name for name in names):
        with pytest.raises(UsageError, match="share weights"):
            trainable_names(names, "1")
        return
    assert trainable_names(names, "0") == above
    upper, head = trainable_names(names, "1"), trainable_names(names, "2")
    assert set(head) < set(upper) < set(above)
    first, second = set(above) - set(upper), set(upper) - set(head)
    assert all(".0." in name for name in first)
    assert all(".1." in name for name in second)
    assert any(name.startswith("classifier") for name in head)
    with pytest.raises(UsageError, match=r"2 layers.* 0 to 2"):
        trainable_names(names, "3")


def test_order_is_the_models(names: list[str]) -> None:
    chosen = trainable_names(names, "embeddings")
    assert chosen == [name for name in names if name in set(chosen)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bert.embeddings.LayerNorm.weight", True),
        ("electra.embeddings_project.weight", True),
        ("deberta.encoder.rel_embeddings.weight", True),
        ("mpnet.encoder.relative_attention_bias.weight", True),
        ("bert.encoder.layer.0.output.dense.weight", False),
        ("model.final_norm.weight", False),
        ("albert.encoder.embedding_hidden_mapping_in.weight", True),
    ],
)
def test_what_an_embedding_is(name: str, expected: bool) -> None:
    assert is_embedding(name) is expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "mpnet", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "t5"}, 512),
        ({"model_type": "x", "max_position_embeddings": -1}, 512),
    ],
)
def test_how_many_tokens_fit(config: dict[str, Any], expected: int) -> None:
    assert max_positions(config) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "bert", "type_vocab_size": 2}, True),
        ({"model_type": "roberta", "type_vocab_size": 2}, False),
        ({"model_type": "deberta-v2", "type_vocab_size": 0}, False),
        ({"model_type": "distilbert"}, False),
    ],
)
def test_who_takes_token_types(config: dict[str, Any], expected: bool) -> None:
    assert takes_segments(config) is expected


def test_source_reads_its_config() -> None:
    source = ModelSource("x", Path(), {"pad_token_id": None, "dim": 48})
    assert (source.pad_id, source.hidden_size, source.max_positions) == (0, 48, 512)
    assert ModelSource("x", Path(), {"pad_token_id": 3, "hidden_size": 12}).pad_id == 3


def test_head_depends_on_the_seed_alone() -> None:
    shapes = {"classifier.weight": (3, 8), "classifier.bias": (3,), "norm.weight": (8,)}
    first, same = init_head(shapes, 0.02, 1), init_head(dict(reversed(shapes.items())), 0.02, 1)
    for name, value in first.items():
        np.testing.assert_array_equal(value, same[name])
        assert value.dtype == np.float32
    assert not first["classifier.bias"].any()
    assert (first["norm.weight"] == 1).all()
    assert (init_head(shapes, 0.02, 2)["classifier.weight"] != first["classifier.weight"]).all()


def test_head_has_the_spread_asked_for() -> None:
    drawn = init_head({"w": (200, 200)}, 0.05, 0)["w"]
    assert drawn.std() == pytest.approx(0.05, rel=0.05)


def test_finds_a_folder_and_a_run_folder(tiny_model: Path, tmp_path: Path) -> None:
    assert resolve_model(str(tiny_model)).folder == tiny_model
    (tmp_path / "model").symlink_to(tiny_model)
    found = resolve_model(str(tmp_path))
    assert found.folder == tmp_path / "model"
    assert found.hidden_size == 32


def test_fingerprint_is_of_contents(model_copy: Path, tiny_model: Path) -> None:
    original, copy = (resolve_model(str(path)) for path in (tiny_model, model_copy))
    assert original.fingerprint() == copy.fingerprint()
    weights = model_copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert resolve_model(str(model_copy)).fingerprint() != original.fingerprint()


def test_sharded_weights_are_found(tiny_model: Path, model_copy: Path) -> None:
    whole = model_copy / "model.safetensors"
    whole.rename(model_copy / "model-00001-of-00001.safetensors")
    assert [path.name for path in models.weight_files(model_copy)] == ["model-00001-of-00001.safetensors"]
    assert resolve_model(str(model_copy)).fingerprint()


def test_files_that_are_no_model(model_copy: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="config"):
        resolve_model(str(tmp_path / "empty"))
    with pytest.raises(ModelError, match="is a file"):
        resolve_model(str(model_copy / "config.json"))
    with pytest.raises(ModelError, match="hub name"):
        resolve_model("./not/there")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "model_type"),
        ("{}", "model_type"),
        ('{"model_type": "bert", "auto_map": {"AutoModel": "evil.py"}}', "remote code"),
    ],
)
def test_configs_that_cannot_be_used(model_copy: Path, config: str, says: str) -> None:
    (model_copy / "config.json").write_text(config)
    with pytest.raises(ModelError, match=says):
        resolve_model(str(model_copy))


def test_pickled_weights_are_never_read(model_copy: Path) -> None:
    (model_copy / "model.safetensors").rename(model_copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safe_serialization"):
        resolve_model(str(model_copy))


@pytest.mark.parametrize("keep", [0, 5, 200])
def test_cut_weights(model_copy: Path, keep: int) -> None:
    weights = model_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(ModelError, match="corrupt"):
        resolve_model(str(model_copy))


def test_built_in_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "BUILT_IN_PACKAGE", "no_such_package_anywhere")
    for name in (None, "built-in", models.BUILT_IN):
        with pytest.raises(MissingDependencyError, match=r"edgetune\[cpu\].*--model"):
            resolve_model(name)
