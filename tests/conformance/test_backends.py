"""Every backend keeps the contract of `backends/base.py`, and they train the same numbers.

A new `*_backend` module is tested by existing, once it has a factory in `backend_factories`.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from architectures import ARCHITECTURES
from backend_factories import BACKENDS, FACTORIES, LR, Factory, build_ort, build_torch, losses_of
from conftest import write_model
from fakes import make_batch

from edgetune.backends.backend_contract import ADAMW
from edgetune.data.batches import Batch
from edgetune.models.source import is_position_table, trainable_names
from edgetune.utils.metrics import cross_entropy

LABELS = ("no", "yes")


def test_every_backend_is_tested() -> None:
    assert set(FACTORIES) == set(BACKENDS), "give the new backend a factory in backend_factories"


@pytest.fixture(scope="module", params=sorted(BACKENDS))
def make(request: pytest.FixtureRequest, artifacts_of: Any, tiny_model: Path) -> Factory:
    """Build one kind of backend on the tiny model."""
    factory = FACTORIES[request.param]
    return lambda **settings: factory(artifacts_of, tiny_model, **settings)


def shapes() -> list[Batch]:
    """Batches of changing sizes and widths."""
    sizes = [[9, 4, 12, 7], [30, 25], [3] * 6, [17, 33, 8], [5], [40, 12, 12, 12, 12]]
    return [make_batch(lengths, seed) for seed, lengths in enumerate(sizes)]


def test_score_gives_logits_and_changes_nothing(make: Factory) -> None:
    backend = make()
    for batch in shapes():
        logits = backend.score(batch)
        assert logits.shape == (len(batch), 2)
        assert logits.dtype == np.float32
        assert np.isfinite(logits).all()
    again = [backend.score(batch) for batch in shapes()]
    before = [backend.score(batch) for batch in shapes()]
    for first, second in zip(again, before, strict=True):
        np.testing.assert_array_equal(first, second)


def test_padding_does_not_change_a_row(make: Factory) -> None:
    backend = make()
    batch = make_batch([4, 30, 11])
    together = backend.score(batch)
    for row in range(3):
        alone = backend.score(batch.take(np.array([row])))
        np.testing.assert_allclose(alone[0], together[row], atol=1e-5)


def test_train_step_returns_the_logits_from_before_it(make: Factory) -> None:
    backend = make()
    for batch in shapes():
        expected = backend.score(batch)
        given = backend.train_step(batch, LR)
        assert given.dtype == np.float32
        np.testing.assert_allclose(given, expected, atol=1e-5)
        assert np.abs(backend.score(batch) - expected).max() > 1e-6


def test_a_rate_of_zero_changes_nothing(make: Factory) -> None:
    backend = make()
    batch = shapes()[0]
    expected = backend.score(batch)
    backend.train_step(batch, 0.0)
    np.testing.assert_array_equal(backend.score(batch), expected)


def test_learns_a_fixed_batch(make: Factory) -> None:
    backend = make()
    batch = make_batch([8, 20, 13, 6, 9, 9, 31, 12], seed=3)
    losses = [float(cross_entropy(backend.train_step(batch, 5e-3), batch.labels).mean()) for _ in range(30)]
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("freeze", ["embeddings", "1"])
def test_continues_from_its_state_bit_for_bit(make: Factory, freeze: str) -> None:
    backend = make(freeze=freeze)
    for batch in shapes()[:3]:
        backend.train_step(batch, LR)
    state = backend.state()
    assert isinstance(state, bytes)
    expected = [backend.train_step(batch, LR) for batch in shapes()[:5]]
    for other in (backend, make(freeze=freeze, seed=9)):
        other.load_state(state)
        for batch, logits in zip(shapes()[:5], expected, strict=True):
            np.testing.assert_array_equal(other.train_step(batch, LR), logits)


def test_leaves_its_input_as_it_was(make: Factory) -> None:
    backend = make()
    batch, untouched = shapes()[0], shapes()[0]
    backend.score(batch)
    backend.train_step(batch, LR)
    for field in dataclasses.fields(Batch):
        np.testing.assert_array_equal(getattr(batch, field.name), getattr(untouched, field.name))


def test_head_is_drawn_from_the_seed(make: Factory) -> None:
    batch = shapes()[0]
    first, same, other = (make(seed=seed).score(batch) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 1e-3


@pytest.mark.parametrize("freeze", ["none", "embeddings", "1", "2"])
def test_trains_what_is_not_frozen_and_nothing_else(make: Factory, freeze: str) -> None:
    backend = make(freeze=freeze)
    before = backend.weights()
    for batch in shapes()[:2]:
        backend.train_step(batch, LR)
    after = backend.weights()
    changed = {name for name in before if (before[name] != after[name]).any()}
    expected = set(trainable_names(before, freeze))
    if backend.name == "ort":
        expected = {name for name in expected if not is_position_table(name)}
    assert changed == expected
    assert backend.n_parameters == sum(before[name].size for name in expected)


@pytest.mark.parametrize("freeze", ["embeddings", "1"])
def test_saves_a_folder_that_others_open(make: Factory, tmp_path: Path, freeze: str) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from edgetune.backends.ort.ort_runtime import import_ort

    backend = make(freeze=freeze)
    batch = shapes()[0]
    backend.train_step(batch, LR)
    expected = backend.score(batch)
    backend.end_training()
    np.testing.assert_array_equal(backend.score(batch), expected)
    backend.save(tmp_path, LABELS)

    padded = batch.padded(0)
    session = import_ort().InferenceSession(str(tmp_path / "onnx" / "model.onnx"))
    feeds = {item.name: padded[item.name] for item in session.get_inputs()}
    np.testing.assert_allclose(session.run(["logits"], feeds)[0], expected, atol=1e-5)

    import torch

    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    assert model.config.id2label == dict(enumerate(LABELS))
    assert model.config.label2id == {"no": 0, "yes": 1}
    with torch.inference_mode():
        logits = model(**{name: torch.from_numpy(value) for name, value in padded.items()}).logits
    np.testing.assert_allclose(logits.numpy(), expected, atol=1e-5)
    for home in ("model", "onnx"):
        assert json.loads((tmp_path / home / "config.json").read_text())["id2label"] == {
            "0": "no",
            "1": "yes",
        }
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / home)
        assert tokenizer("the invoice")["input_ids"][0] == tokenizer.cls_token_id
    np.testing.assert_array_equal(backend.score(batch), expected)  # saving changed nothing
    backend.train_step(batch, LR)  # and training goes on


@pytest.mark.parametrize("freeze", ["embeddings", "1"])
def test_fifty_steps_agree(artifacts_of: Any, tiny_model: Path, freeze: str) -> None:
    rng = np.random.default_rng(0)
    batches = [make_batch(rng.integers(4, 40, 8).tolist(), seed) for seed in range(50)]
    ort = build_ort(artifacts_of, tiny_model, freeze, seed=4)
    torch = build_torch(artifacts_of, tiny_model, freeze, seed=4)
    ours, theirs = ort.weights(), torch.weights()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)
    np.testing.assert_allclose(losses_of(ort, batches), losses_of(torch, batches), atol=1e-4)


def test_head_is_linear_in_the_features(make: Factory) -> None:
    rng = np.random.default_rng(0)
    for freeze in ("embeddings", "1"):
        backend = make(freeze=freeze)
        for batch in shapes()[:3]:
            expected = backend.score(batch)
            features = backend.features(batch)
            assert features.shape == (len(batch), 32)
            np.testing.assert_array_equal(backend.score(batch), expected)
            weight, bias = rng.normal(size=(2, 32)).astype(np.float32), np.array([0.5, -1.0], np.float32)
            backend.set_head(weight, bias)
            np.testing.assert_allclose(backend.score(batch), features @ weight.T + bias, atol=1e-5)
            np.testing.assert_array_equal(backend.features(batch), features)
        backend.train_step(batch, LR)
        assert 0 < np.abs(backend.weights()["classifier.weight"] - weight).max() < 0.01
        with pytest.raises(ValueError, match="shape"):
            backend.set_head(weight[:, :3], bias)


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def architecture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random encoder of one architecture."""
    folder = tmp_path_factory.mktemp("architectures") / request.param
    return write_model(folder, request.param, **ARCHITECTURES[request.param])


def test_architecture_trains_like_torch(artifacts_of: Any, architecture: Path) -> None:
    made = artifacts_of("embeddings", 3, architecture)
    check = made.manifest.check
    assert max(check.logits, check.loss, check.gradients) < 1e-4
    ort = build_ort(artifacts_of, architecture, n_labels=3)
    torch = build_torch(artifacts_of, architecture, n_labels=3)
    assert set(made.manifest.trainable) <= set(trainable_names(torch.weights(), "embeddings"))
    rng = np.random.default_rng(1)
    batches = [make_batch(rng.integers(4, 40, 6).tolist(), seed, n_classes=3) for seed in range(5)]
    np.testing.assert_allclose(losses_of(ort, batches), losses_of(torch, batches), atol=1e-4)


def test_no_two_parameters_share_an_initializer(artifacts_of: Any, architecture: Path) -> None:
    """Fresh zero biases have equal contents, which torch's exporter would merge into one."""
    import onnx

    from edgetune.backends.onnx_export import load_torch_model

    made = artifacts_of("embeddings", 3, architecture)
    model, _ = load_torch_model(architecture, 3, "eager")
    wanted = trainable_names([name for name, _ in model.named_parameters()], "embeddings")
    assert not set(wanted) - set(made.manifest.trainable) - unused_parameters(model)
    graph = onnx.load(made.folder / "training_model.onnx").graph
    gradients = {item.name for item in graph.input if item.name.endswith("_grad.accumulation.buffer")}
    assert gradients == {f"{name}_grad.accumulation.buffer" for name in made.manifest.trainable}


def unused_parameters(model: Any) -> set[str]:
    """Return parameters that a classifier's loss does not reach, by torch's own gradients."""
    import torch

    ids = torch.tensor([[2, 7, 8, 9, 3], [2, 11, 12, 13, 3]])
    model.zero_grad()
    model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=torch.tensor([0, 1])).loss.backward()
    return {name for name, p in model.named_parameters() if p.grad is None}


def test_weights_of_one_are_no_weights(make: Factory) -> None:
    one, other = make(), make()
    for batch in shapes()[:4]:
        one.train_step(batch, LR)
        other.train_step(batch, LR, np.ones(len(batch)))
    for batch in shapes():
        np.testing.assert_allclose(one.score(batch), other.score(batch), atol=1e-5)


def test_a_row_of_no_weight_does_not_train(make: Factory) -> None:
    """Weights 2 and 0 over two rows are the mean loss of the first row alone."""
    both, alone = make(), make()
    for seed in range(4):
        batch = make_batch([9, 14], seed)
        given = both.train_step(batch, LR, np.array([2.0, 0.0]))
        expected = alone.train_step(batch.take(np.array([0])), LR)
        np.testing.assert_allclose(given[0], expected[0], atol=1e-4)
    for batch in shapes():
        np.testing.assert_allclose(both.score(batch), alone.score(batch), atol=1e-4)


def test_weighted_backends_train_alike(artifacts_of: Any, tiny_model: Path) -> None:
    made = {name: factory(artifacts_of, tiny_model) for name, factory in FACTORIES.items()}
    weights = np.array([2.0, 0.5, 1.0, 3.0])
    for seed in range(5):
        batch = make_batch([9, 4, 12, 7], seed)
        given = [backend.train_step(batch, LR, weights) for backend in made.values()]
        for logits in given[1:]:
            np.testing.assert_allclose(logits, given[0], atol=1e-4)


def several(seed: int) -> Batch:
    """A batch of rows with any number of three labels."""
    return make_batch([9, 4, 12, 7, 20], seed, n_classes=3, multi_label=True)


WEIGHTS = np.array([2.0, 0.5, 1.0, 3.0, 0.0])


@pytest.fixture(scope="module")
def make_several(make: Factory) -> Factory:
    """Build the backend for rows with any number of three labels."""
    return lambda **settings: make(n_labels=3, multi_label=True, **settings)


@pytest.mark.parametrize("freeze", ["embeddings", "1"])
def test_backends_train_alike_on_several_labels(artifacts_of: Any, tiny_model: Path, freeze: str) -> None:
    made = {
        name: factory(artifacts_of, tiny_model, freeze, n_labels=3, multi_label=True)
        for name, factory in FACTORIES.items()
    }
    for seed in range(10):
        given = [one.train_step(several(seed), LR, WEIGHTS if seed % 2 else None) for one in made.values()]
        for logits in given[1:]:
            np.testing.assert_allclose(logits, given[0], atol=1e-4)
    manifest = made["ort"].artifacts.manifest
    for check in (manifest.check, *([] if manifest.cut is None else [manifest.cut.check])):
        assert max(check.logits, check.loss) < 1e-5
        assert check.gradients < 5e-4  # that of key biases, which is 0 but for rounding


def test_learns_several_labels_and_goes_on_from_its_state(make_several: Factory) -> None:
    backend, batch = make_several(), several(3)
    losses = [float(cross_entropy(backend.train_step(batch, 5e-3), batch.labels).mean()) for _ in range(30)]
    assert losses[-1] < 0.2 * losses[0]
    other = make_several(seed=9)
    other.load_state(backend.state())
    np.testing.assert_array_equal(other.train_step(batch, LR), backend.train_step(batch, LR))


def gradient_of_head(backend: Any, batch: Batch, weights: np.ndarray) -> np.ndarray:
    """Return the gradient (C, F + 1) that a fresh backend's step is made from.

    The first step of AdamW is -lr (g / (|g| + epsilon) + decay w), which tells g where that is near epsilon.
    """
    before, lr = np.column_stack(backend.head()).astype(np.float64), 0.1
    scale = 1e-7
    backend.train_step(batch, lr, scale * weights)
    step = -(np.column_stack(backend.head()) - before) / lr - ADAMW["weight_decay"] * before
    return np.asarray(ADAMW["eps"] * step / (1 - np.abs(step)) / scale)


@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0])
def test_steps_on_several_labels_follow_the_finite_differences(make_several: Factory, scale: float) -> None:
    """Of the weighted mean loss, in the head; also where logits are 0 or far from it."""
    backend, batch = make_several(), several(1)
    head = scale * np.random.default_rng(0).normal(size=(3, 33)).astype(np.float32)
    backend.set_head(head[:, :-1], head[:, -1])
    features = np.column_stack([backend.features(batch), np.ones(len(batch))]).astype(np.float64)

    def loss(head: np.ndarray) -> float:
        return float((WEIGHTS * cross_entropy(features @ head.T, batch.labels)).mean())

    slopes, h = np.zeros(head.shape), 1e-4
    for at in np.ndindex(head.shape):
        off = np.zeros(head.shape)
        off[at] = h
        slopes[at] = (loss(head + off) - loss(head - off)) / (2 * h)
    assert np.abs(slopes).max() > 0.01
    np.testing.assert_allclose(gradient_of_head(backend, batch, WEIGHTS), slopes, atol=1e-3)


def test_a_saved_folder_answers_with_a_sigmoid_of_each_label(make_several: Factory, tmp_path: Path) -> None:
    from transformers import pipeline

    backend = make_several()
    backend.train_step(several(0), LR)
    backend.save(tmp_path, ("price", "screen", "battery"))
    pipe = pipeline("text-classification", model=str(tmp_path / "model"), top_k=None)
    found = {one["label"]: one["score"] for one in pipe(["the invoice"])[0]}
    logits = pipe.model(**pipe.tokenizer("the invoice", return_tensors="pt")).logits[0].tolist()
    expected = 1 / (1 + np.exp(-np.array(logits)))
    assert found == pytest.approx(dict(zip(("price", "screen", "battery"), expected, strict=True)), abs=1e-6)
    for home in ("model", "onnx"):
        config = json.loads((tmp_path / home / "config.json").read_text())
        assert config["problem_type"] == "multi_label_classification"
