"""Mean pooling: an added layer computes it, alike in both backends, and in transformers after saving."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES
from backend_factories import FACTORIES
from conftest import says_mean, write_model

from edgetune.backends.model_loader import find_model_loader
from edgetune.backends.onnx_export import load_torch_model
from edgetune.config.toml_config import make_config
from edgetune.models.mean_pooling import TANH_SCALE, can_pool
from edgetune.models.source import resolve_model, trainable_names
from edgetune.utils.errors import ModelError, UsageError
from tests.fakes import ragged

LABELS = ("a", "b", "c")
LENGTHS = ([5, 6, 7], [9, 8, 11, 4, 5, 6, 7], [4], [12, 10, 9, 8])


@pytest.fixture(scope="module", params=["bert", "roberta", "xlm-roberta"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pooled") / request.param
    return says_mean(write_model(folder, request.param, **ARCHITECTURES[request.param]))


def mean_of(folder: Path, batch: Any) -> np.ndarray:
    """Compute what the head reads by the definition: masked mean, LayerNorm, tanh of a small multiple."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder).eval()
    padded = batch.padded(resolve_model(str(folder)).pad_id)
    padded = {name: torch.from_numpy(value) for name, value in padded.items()}
    if model.config.model_type != "bert":
        padded.pop("token_type_ids")
    with torch.no_grad():
        hidden = model(**padded).last_hidden_state
    mask = padded["attention_mask"][..., None].float()
    mean = (hidden * mask).sum(1) / mask.sum(1)
    return np.tanh(TANH_SCALE * torch.nn.functional.layer_norm(mean, mean.shape[-1:]).numpy())


@pytest.mark.parametrize("backend", sorted(FACTORIES))
def test_the_head_reads_the_mean_of_all_tokens(encoder: Path, backend: str, artifacts_of: Any) -> None:
    batch = ragged(list(LENGTHS))
    made = FACTORIES[backend](artifacts_of, encoder, n_labels=3)
    np.testing.assert_allclose(made.features(batch), mean_of(encoder, batch), atol=5e-3)


def test_both_backends_train_the_same_model(encoder: Path, artifacts_of: Any) -> None:
    ort, torch_ = (FACTORIES[name](artifacts_of, encoder, n_labels=3) for name in ("ort", "torch"))
    batch, before = ragged(list(LENGTHS)), torch_.weights()
    for _ in range(4):
        np.testing.assert_allclose(ort.train_step(batch, 1e-3), torch_.train_step(batch, 1e-3), atol=2e-3)
    after = torch_.weights()
    changed = {name for name, value in after.items() if (value != before[name]).any()}
    assert changed <= set(trainable_names(list(before), "embeddings", pools_mean=True))
    assert not any(".layer.2." in name for name in changed)  # two layers of its own: the third pools
    assert any("classifier" in name for name in changed)


@pytest.mark.parametrize("backend", sorted(FACTORIES))
def test_transformers_reads_the_saved_folder(
    encoder: Path, backend: str, artifacts_of: Any, tmp_path: Path
) -> None:
    from transformers import pipeline

    made = FACTORIES[backend](artifacts_of, encoder, n_labels=3)
    made.train_step(ragged(list(LENGTHS)), 1e-3)
    made.save(tmp_path, LABELS)
    classify = pipeline("text-classification", model=str(tmp_path / "model"), top_k=None)
    found = {one["label"]: one["score"] for one in classify(["please help me"])[0]}
    assert set(found) == set(LABELS)
    ids = classify.tokenizer("please help me")["input_ids"]
    batch = replace(ragged([ids]), first_lengths=np.array([len(ids)]))  # no second text
    logits = made.score(batch)[0]
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert [found[name] for name in LABELS] == pytest.approx(shares.tolist(), abs=1e-4)


def test_a_saved_model_pools_when_it_is_trained_again(
    encoder: Path, artifacts_of: Any, tmp_path: Path
) -> None:
    made = FACTORIES["torch"](artifacts_of, encoder, n_labels=3)
    made.save(tmp_path, LABELS)
    again = resolve_model(str(tmp_path))
    assert again.pools_mean
    model, missing = load_torch_model(again.folder, 3, "sdpa", again.pools_mean)
    assert missing == []
    assert model.config.num_hidden_layers == 3
    with pytest.raises(ModelError, match="--pooling"):
        resolve_model(str(tmp_path), "cls")


def test_the_mean_is_read_where_the_encoder_was_trained_with_it(tmp_path: Path, tiny_model: Path) -> None:
    plain = Path(shutil.copytree(tiny_model, tmp_path / "plain"))
    assert not resolve_model(str(plain)).pools_mean
    assert resolve_model(str(plain), "mean").pools_mean
    before = resolve_model(str(plain)).fingerprint()
    says_mean(plain)
    assert resolve_model(str(plain)).pools_mean
    assert resolve_model(str(plain)).fingerprint() != before
    assert not resolve_model(str(plain), "cls").pools_mean
    config = json.loads((plain / "config.json").read_text())
    config["architectures"] = ["BertForSequenceClassification"]  # it has a head, which reads the first token
    (plain / "config.json").write_text(json.dumps(config))
    assert not resolve_model(str(plain)).pools_mean


@pytest.mark.parametrize("text", ["", "[]", "{", '{"pooling_mode_mean_tokens": "yes"}'])
def test_a_damaged_pooling_file_is_ignored(text: str, tmp_path: Path, tiny_model: Path) -> None:
    folder = says_mean(Path(shutil.copytree(tiny_model, tmp_path / "plain")))
    (folder / "1_Pooling" / "config.json").write_text(text)
    assert not resolve_model(str(folder)).pools_mean


def test_other_architectures_are_refused_in_a_sentence(tmp_path: Path) -> None:
    folder = says_mean(write_model(tmp_path / "other", "distilbert", **ARCHITECTURES["distilbert"]))
    assert not resolve_model(str(folder)).pools_mean
    with pytest.raises(ModelError, match="distilbert"):
        resolve_model(str(folder), "mean")


def test_relative_positions_do_not_pool() -> None:
    assert can_pool({"model_type": "bert"})
    assert not can_pool({"model_type": "bert", "position_embedding_type": "relative_key"})
    assert not can_pool({"model_type": "roberta", "is_decoder": True})


@pytest.mark.parametrize("backend", sorted(FACTORIES))
def test_the_head_learns_faster_than_the_encoder(backend: str, tiny_pooled: Path, artifacts_of: Any) -> None:
    made = FACTORIES[backend](artifacts_of, tiny_pooled, n_labels=2)
    weights, (head, _) = made.weights(), made.head()
    made.train_step(ragged(list(LENGTHS)), 1e-4)
    moved = np.abs(made.head()[0] - head).max()
    name = next(name for name in weights if name.endswith("layer.0.output.dense.weight"))
    encoder_moved = np.abs(made.weights()[name] - weights[name]).max()
    assert moved == pytest.approx(40 * encoder_moved, rel=0.1)


@pytest.fixture(scope="module")
def tiny_pooled(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return says_mean(Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("pooled") / "tiny")))


@pytest.mark.parametrize("backend", sorted(FACTORIES))
def test_its_layers_can_be_frozen(backend: str, tiny_pooled: Path, artifacts_of: Any) -> None:
    whole, cut = (FACTORIES[backend](artifacts_of, tiny_pooled, freeze=word) for word in ("embeddings", "2"))
    batch = ragged(list(LENGTHS))
    assert cut.depth == 2
    np.testing.assert_allclose(whole.score(batch), cut.score(batch), atol=1e-4)
    assert cut.n_parameters == sum(part.size for part in cut.head())  # all of its own layers are frozen


def test_artifacts_pool_as_they_were_exported(
    tiny_model: Path, tiny_pooled: Path, artifacts_of: Any, tmp_path: Path
) -> None:
    def loader(model: Path, pooling: str) -> Any:
        settings = {"artifacts": str(artifacts_of("embeddings", 2, model).folder), "pooling": pooling}
        config = make_config({"data": {"train": "x.csv"}, "model": settings})
        with contextlib.ExitStack() as stack:
            return find_model_loader(config, tmp_path, stack)

    assert not loader(tiny_model, "auto").source.pools_mean
    assert loader(tiny_pooled, "mean").source.pools_mean
    with pytest.raises(UsageError, match="--pooling mean"):
        loader(tiny_model, "mean")
    with pytest.raises(UsageError, match="--pooling cls"):
        loader(tiny_pooled, "cls")
