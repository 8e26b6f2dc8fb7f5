"""A torch model's layers run apart: nothing of the model changes, and what cannot be cut is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES
from conftest import write_model
from fakes import make_batch

from edgetune.backends.backend_contract import NoLinearHead
from edgetune.backends.onnx_export import load_torch_model, torch_probe
from edgetune.backends.torch.torch_backend import TorchBackend, find_linear
from edgetune.backends.torch.torch_layers import LayerCut, encoder_layers, find_cut, shared_below
from edgetune.models.source import resolve_model, trainable_names


@pytest.fixture
def bert(tiny_model: Path) -> Any:
    torch.manual_seed(0)
    return load_torch_model(tiny_model, 3, "sdpa")[0]


def forwards(model: Any) -> list[Any]:
    return [vars(module).get("forward") for module in model.modules()]


def test_finds_the_layers_in_order(bert: Any) -> None:
    assert encoder_layers(bert) == list(bert.bert.encoder.layer)
    with pytest.raises(LookupError):
        LayerCut(bert, 3, lambda: None)


@pytest.mark.parametrize("depth", [1, 2])
def test_leaves_the_model_as_it_was(bert: Any, depth: int) -> None:
    names, before = list(bert.state_dict()), forwards(bert)
    batch = torch_probe(bert)
    expected = bert(**batch).logits
    cut = find_cut(bert, depth, bf16=False)
    assert cut is not None
    with torch.no_grad():
        hidden = cut.below(lambda: bert(**batch))
    assert hidden.shape == (2, 8, 32)
    with cut.above(hidden):
        assert torch.equal(bert(**batch).logits, expected)
    assert torch.equal(bert(**batch).logits, expected)
    with pytest.raises(ZeroDivisionError), cut.above(hidden):
        raise ZeroDivisionError
    assert list(bert.state_dict()) == names
    assert forwards(bert) == before
    assert not any(module._forward_hooks for module in bert.modules())


def test_above_runs_neither_embeddings_nor_layers_below(bert: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = find_cut(bert, 1, bf16=False)
    assert cut is not None
    batch = torch_probe(bert)
    hidden = cut.below(lambda: bert(**batch))
    for part in (bert.bert.embeddings.word_embeddings, bert.bert.encoder.layer[0].attention):
        monkeypatch.setattr(part, "forward", lambda *args, **kwargs: pytest.fail("was run"))
    with cut.above(hidden):
        bert(**batch)


def test_a_forward_of_the_last_layer_s_own_is_kept(bert: Any) -> None:
    """Another one may stand there that computes the first token only; the prefix needs them all."""
    last = bert.bert.encoder.layer[-1]
    whole = last.forward
    last.forward = lambda *args, **kwargs: (whole(*args, **kwargs)[0][:, :1],)
    mine = last.forward
    cut = find_cut(bert, 2, bf16=False)
    assert cut is not None
    assert cut.below(lambda: bert(**torch_probe(bert))).shape == (2, 8, 32)
    assert last.forward is mine


def test_gradients_are_those_of_the_whole_model(bert: Any) -> None:
    trained = trainable_names([name for name, _ in bert.named_parameters()], "1")
    for name, parameter in bert.named_parameters():
        parameter.requires_grad_(name in trained)
    batch = torch_probe(bert)
    cut = find_cut(bert, 1, bf16=False)
    assert cut is not None
    with torch.inference_mode():
        hidden = cut.below(lambda: bert(**batch)).numpy()
    grads = []
    for given in (None, torch.from_numpy(hidden)):
        bert.zero_grad()
        if given is None:
            bert(**batch).logits.square().sum().backward()
        else:
            with cut.above(given):
                bert(**batch).logits.square().sum().backward()
        grads.append({n: p.grad.clone() for n, p in bert.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys() == set(trained)
    assert all(torch.equal(grads[0][name], grads[1][name]) for name in trained)


def test_layer_that_reads_the_embeddings_cannot_be_cut(bert: Any) -> None:
    seen: list[Any] = []
    bert.bert.embeddings.register_forward_hook(lambda module, inputs, output: seen.append(output))
    bert.bert.encoder.layer[1].register_forward_pre_hook(
        lambda module, inputs: (inputs[0] + seen[-1], *inputs[1:])
    )
    assert find_cut(bert, 1, bf16=False) is None
    assert find_cut(bert, 2, bf16=False) is not None
    assert not any("forward" in vars(module) for module in bert.modules())


def test_backend_runs_whole_what_cannot_be_cut(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import edgetune.backends.torch.torch_backend as home

    source = resolve_model(str(tiny_model))
    expected = TorchBackend(source, 2, "1", 0)
    monkeypatch.setattr(home, "find_cut", lambda *args: None)
    backend = TorchBackend(source, 2, "1", 0)
    assert (backend.depth, backend.n_parameters) == (0, expected.n_parameters)
    batch = make_batch([5, 9])
    np.testing.assert_allclose(backend.score(batch), expected.score(batch), atol=1e-6)


def test_parameters_that_frozen_layers_share_stay_frozen(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "deberta", "deberta-v2", **ARCHITECTURES["deberta-v2"])
    model, _ = load_torch_model(folder, 2, "sdpa")
    trained = trainable_names([name for name, _ in model.named_parameters()], "1")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    cut = find_cut(model, 1, bf16=False)
    assert cut is not None
    shared = {f"deberta.encoder.LayerNorm.{kind}" for kind in ("weight", "bias")}
    assert shared_below(model, cut) == shared
    for settings in ({}, {"cut": False}):
        backend = TorchBackend(resolve_model(str(folder)), 2, "1", 0, **settings)
        before = backend.weights()
        backend.train_step(make_batch([5, 9]), 1e-3)
        after = backend.weights()
        assert {n for n in before if (before[n] != after[n]).any()} == set(trained) - shared


def test_bf16_is_cut_too(tiny_model: Path) -> None:
    made = {
        cut: TorchBackend(resolve_model(str(tiny_model)), 2, "1", 0, precision="bf16", cut=cut)
        for cut in (True, False)
    }
    assert made[True].depth == 1
    batch = make_batch([5, 9, 17])
    for _ in range(2):
        scores = [backend.score(batch) for backend in made.values()]
        np.testing.assert_array_equal(*scores)
        np.testing.assert_array_equal(*(backend.train_step(batch, 1e-3) for backend in made.values()))
    assert made[True].features(batch).dtype == np.float32


def test_head_that_is_not_linear_has_no_features(tiny_model: Path, bert: Any) -> None:
    batch = torch_probe(bert)
    assert find_linear(lambda: bert(**batch).logits) is bert.classifier
    assert find_linear(lambda: bert(**batch).logits * 2) is None
    backend = TorchBackend(resolve_model(str(tiny_model)), 2, "1", 0)
    backend._model.classifier = torch.nn.Sequential(backend._model.classifier, torch.nn.Tanh())
    with pytest.raises(NoLinearHead, match="linear layer"):
        backend.features(make_batch([5]))
    with pytest.raises(NoLinearHead, match="linear layer"):
        backend.set_head(np.zeros((2, 32), np.float32), np.zeros(2, np.float32))
