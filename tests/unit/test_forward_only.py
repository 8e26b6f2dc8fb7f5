"""The encoder that is not trained: what PyTorch computes, without PyTorch; the texts of a pair apart."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES
from backend_factories import FACTORIES
from conftest import says_mean, write_model
from safetensors.torch import load_file, save_file

from edgetune.backends.ort.bert_graph import can_write
from edgetune.backends.ort.forward_only import ForwardOnly
from edgetune.data.batches import Batch
from edgetune.inference.saved_ensemble import onnx_scorer, torch_scorer
from edgetune.models.source import resolve_model
from edgetune.utils.errors import ModelError
from tests.fakes import ragged

LABELS = ("a", "b", "c")
CLS, SEP = 2, 3
FIRST = ([5, 6, 7], [9, 8, 11, 4, 5, 6, 7], [4], [12, 10])
SECOND = ([8, 9], [4], [7, 6, 5, 12, 11, 10, 9], [12, 10])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return says_mean(write_model(tmp_path_factory.mktemp("mean") / "bert", "bert", **ARCHITECTURES["bert"]))


@pytest.fixture
def backend(encoder: Path) -> ForwardOnly:
    made = ForwardOnly(resolve_model(str(encoder)), len(LABELS))
    weight, bias = made.head()
    rng = np.random.default_rng(0)
    made.set_head(rng.normal(size=weight.shape), rng.normal(size=bias.shape))
    return made


def pairs() -> Batch:
    """Return [CLS] first [SEP] second [SEP] of each pair, the second text with token type 1."""
    rows = [[CLS, *first, SEP, *second, SEP] for first, second in zip(FIRST, SECOND, strict=True)]
    return replace(ragged(rows), first_lengths=np.array([len(first) + 2 for first in FIRST]))


def apart(texts: tuple[list[int], ...]) -> Batch:
    batch = ragged([[CLS, *text, SEP] for text in texts])
    return replace(batch, first_lengths=batch.lengths)


def test_its_features_are_those_of_the_backends_that_train(
    encoder: Path, backend: ForwardOnly, artifacts_of: Any
) -> None:
    batch = apart(FIRST)
    expected = FACTORIES["torch"](artifacts_of, encoder, n_labels=3).features(batch)
    np.testing.assert_allclose(backend.features(batch), expected, atol=2e-5)


def test_the_texts_of_a_pair_are_encoded_apart_and_compared(encoder: Path, backend: ForwardOnly) -> None:
    u, v = backend.features(apart(FIRST)), backend.features(apart(SECOND))
    of_pairs = ForwardOnly(resolve_model(str(encoder)), len(LABELS), pair=True)
    expected = np.concatenate([u, v, np.abs(u - v), u * v], axis=1)
    np.testing.assert_allclose(of_pairs.features(pairs()), expected, atol=2e-5)
    for row in range(len(FIRST)):  # padding makes no difference
        alone = of_pairs.features(pairs().take(np.array([row])))
        np.testing.assert_allclose(alone, expected[[row]], atol=2e-5)


def test_a_pair_without_a_second_text_has_features(encoder: Path) -> None:
    of_pairs = ForwardOnly(resolve_model(str(encoder)), len(LABELS), pair=True)
    assert np.isfinite(of_pairs.features(apart(FIRST))).all()


@pytest.mark.parametrize("scorer", ["onnx", "torch"])
def test_both_saved_models_answer_as_it_does(backend: ForwardOnly, tmp_path: Path, scorer: str) -> None:
    backend.save(tmp_path, LABELS)
    batch = apart(FIRST)
    saved = (
        onnx_scorer(tmp_path / "onnx" / "model.onnx")
        if scorer == "onnx"
        else torch_scorer(tmp_path / "model", len(LABELS))
    )
    np.testing.assert_allclose(saved(batch.padded(0)), backend.score(batch), atol=1e-4)


def test_the_saved_onnx_answers_pairs_and_the_folder_is_an_encoder_to_train(
    encoder: Path, tmp_path: Path, artifacts_of: Any
) -> None:
    of_pairs = ForwardOnly(resolve_model(str(encoder)), len(LABELS), pair=True)
    weight, bias = of_pairs.head()
    of_pairs.set_head(np.random.default_rng(1).normal(size=weight.shape), bias + 1)
    of_pairs.save(tmp_path, LABELS)
    padded = pairs().padded(0)
    scores = onnx_scorer(tmp_path / "onnx" / "model.onnx")(padded)
    np.testing.assert_allclose(scores, of_pairs.score(pairs()), atol=1e-4)
    again = FACTORIES["torch"](artifacts_of, tmp_path / "model", n_labels=3)
    assert again.features(apart(FIRST)).shape == (len(FIRST), 32)


def test_the_saved_folders_say_that_rows_have_several_labels(encoder: Path, tmp_path: Path) -> None:
    ForwardOnly(resolve_model(str(encoder)), len(LABELS), multi_label=True).save(tmp_path, LABELS)
    for home in ("model", "onnx"):
        config = json.loads((tmp_path / home / "config.json").read_text())
        assert config["problem_type"] == "multi_label_classification"


def test_its_head_is_its_state(encoder: Path, backend: ForwardOnly) -> None:
    other = ForwardOnly(resolve_model(str(encoder)), len(LABELS))
    other.load_state(backend.state())
    batch = apart(SECOND)
    np.testing.assert_array_equal(other.score(batch), backend.score(batch))


@pytest.mark.parametrize(
    ("change", "pools_mean"),
    [
        ({"model_type": "roberta"}, True),
        ({"hidden_act": "relu"}, True),
        ({"edgetune_pooling": "mean"}, True),
        ({"is_decoder": True}, True),
        ({}, False),
    ],
)
def test_other_encoders_are_left_to_the_backends_that_train(
    encoder: Path, change: dict[str, Any], pools_mean: bool
) -> None:
    config = json.loads((encoder / "config.json").read_text())
    assert can_write(config, True, encoder)
    assert not can_write(config | change, pools_mean, encoder)


def rewritten(encoder: Path, folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """Copy an encoder with other weights."""
    shutil.copytree(encoder, folder)
    save_file(change(load_file(encoder / "model.safetensors")), folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: {name: value.bfloat16() for name, value in weights.items()},
        lambda weights: {
            name.replace("LayerNorm.weight", "LayerNorm.gamma"): weights[name] for name in weights
        },
        lambda weights: {name: weights[name] for name in weights if ".layer.1.output.dense.bias" not in name},
        lambda weights: weights | {"encoder.layer.0.output.dense.bias": torch.zeros(5)},
    ],
)
def test_weights_that_only_transformers_can_read_are_left_to_the_backends_that_train(
    encoder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    folder = rewritten(encoder, tmp_path / "other", change)
    config = json.loads((folder / "config.json").read_text())
    assert not can_write(config, True, folder)


def test_halved_weights_in_two_files_and_other_heads_make_no_difference(
    encoder: Path, backend: ForwardOnly, tmp_path: Path
) -> None:
    folder = rewritten(
        encoder,
        tmp_path / "shards",
        lambda weights: {f"bert.{name}": value.half() for name, value in weights.items()},
    )
    weights = load_file(folder / "model.safetensors") | {"cls.predictions.bias": torch.zeros(9)}
    (folder / "model.safetensors").unlink()
    for number in (0, 1):
        part = {name: weights[name] for name in sorted(weights)[number::2]}
        save_file(part, folder / f"model-0000{number + 1}-of-00002.safetensors")
    config = json.loads((folder / "config.json").read_text())
    assert can_write(config, True, folder)
    found = ForwardOnly(resolve_model(str(folder)), len(LABELS))
    np.testing.assert_allclose(found.features(apart(FIRST)), backend.features(apart(FIRST)), atol=5e-3)
    found.save(tmp_path, LABELS)
    assert not [name for name in load_file(tmp_path / "model" / "model.safetensors") if "cls." in name]


def test_the_encoder_that_a_probe_on_pairs_saves_is_trained_with_its_mean_again_and_answers_nothing(
    encoder: Path, tmp_path: Path
) -> None:
    of_pairs = ForwardOnly(resolve_model(str(encoder)), len(LABELS), pair=True)
    of_pairs.save(tmp_path, LABELS)
    again = resolve_model(str(tmp_path))
    assert again.pools_mean
    np.testing.assert_array_equal(
        ForwardOnly(again, len(LABELS)).features(apart(FIRST)),
        ForwardOnly(resolve_model(str(encoder)), len(LABELS)).features(apart(FIRST)),
    )
    with pytest.raises(ModelError, match="classifier"):
        torch_scorer(tmp_path / "model", len(LABELS))
