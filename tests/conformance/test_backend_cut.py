"""Frozen layers that run apart, kept or not, give what the whole model gives; on every backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from architectures import ARCHITECTURES
from backend_factories import BACKENDS, FACTORIES, LR, Factory, losses_of
from conftest import write_model
from fakes import make_batch

from edgetune.backends.hidden_cache import HiddenCache
from edgetune.data.batches import Batch
from edgetune.models.source import is_embedding, layer_number
from edgetune.utils.errors import UsageError

UNCUT = {"albert"}  # all layers are one, so none of them can be frozen alone


@pytest.fixture(scope="module", params=sorted(BACKENDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def make(kind: str, artifacts_of: Any, tiny_model: Path) -> Factory:
    """Build one kind of backend on the tiny model, its lowest layer frozen."""
    return lambda freeze="1", **settings: FACTORIES[kind](artifacts_of, tiny_model, freeze, **settings)


def some_batches(n: int = 10, n_classes: int = 2) -> list[Batch]:
    """Batches of changing sizes and widths."""
    rng = np.random.default_rng(0)
    return [make_batch(rng.integers(4, 40, 4 + i % 5).tolist(), i, n_classes) for i in range(n)]


def assert_trains_alike(backend: Any, other: Any, batches: list[Batch]) -> None:
    """Hold logits, losses and weights against another backend's, passing over the batches twice."""
    for batch in batches:
        np.testing.assert_allclose(backend.score(batch), other.score(batch), atol=1e-5)
    losses = [losses_of(each, batches + batches) for each in (backend, other)]
    np.testing.assert_allclose(*losses, atol=1e-4)
    ours, theirs = backend.weights(), other.weights()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], atol=1e-4, err_msg=name)


@pytest.mark.parametrize("freeze", ["1", "2"])
def test_cut_equals_whole(make: Factory, freeze: str) -> None:
    backend, whole = make(freeze), make(freeze, cut=False)
    assert (backend.depth, whole.depth) == (int(freeze), 0)
    assert backend.n_parameters == whole.n_parameters
    assert_trains_alike(backend, whole, some_batches())


@pytest.mark.parametrize("freeze", ["none", "embeddings", "0"])
def test_without_frozen_layers_there_is_no_prefix(make: Factory, freeze: str) -> None:
    backend = make(freeze, cache=HiddenCache(1, 0, None))
    assert backend.depth == 0
    backend.score(some_batches()[0])
    assert len(backend.cache) == 0
    with pytest.raises(ValueError, match="depth"):
        backend.prefix(some_batches()[0])


def test_kept_in_fp32_is_exact(make: Factory) -> None:
    batches = some_batches()
    uncached, cached = make(), make(cache=HiddenCache(10, 0, None, "fp32"))
    for _ in range(2):
        for batch in batches:
            np.testing.assert_array_equal(cached.score(batch), uncached.score(batch))
            np.testing.assert_array_equal(cached.train_step(batch, LR), uncached.train_step(batch, LR))
    n_rows = sum(len(batch) for batch in batches)
    assert (cached.cache.n_misses, cached.cache.n_hits) == (n_rows, 3 * n_rows)
    assert cached.cache.memory_mb_used == pytest.approx(sum(len(b.tokens) for b in batches) * 32 * 4 / 1e6)


def test_rows_in_new_company_are_the_same(make: Factory) -> None:
    """Kept rows meet others, in other widths: only rounding of sums may differ."""
    uncached, cached = make(), make(cache=HiddenCache(10, 0, None, "fp32"))
    batch = make_batch([4, 30, 11, 17, 8])
    cached.score(batch.take(np.array([0, 2])))
    cached.score(batch.take(np.array([3, 1])))
    np.testing.assert_allclose(cached.score(batch), uncached.score(batch), atol=1e-5)
    assert (cached.cache.n_misses, cached.cache.n_hits) == (5, 4)


def test_kept_in_fp16_is_near(make: Factory) -> None:
    uncached, cached = make(), make(cache=HiddenCache(10, 0, None))
    for _ in range(2):
        for batch in some_batches():
            np.testing.assert_allclose(cached.score(batch), uncached.score(batch), atol=5e-3)
    losses = [losses_of(each, some_batches()) for each in (cached, uncached)]
    np.testing.assert_allclose(*losses, atol=5e-3)


def test_full_memory_then_file_then_computed(make: Factory, tmp_path: Path) -> None:
    batches = some_batches()
    size = sum(len(batch.tokens) for batch in batches) * 32 * 4 / 1e6
    cache = HiddenCache(0.3 * size, max(0.07, 0.3 * size), tmp_path, "fp32")
    uncached, cached = make(), make(cache=cache)
    for _ in range(2):
        for batch in batches:
            np.testing.assert_array_equal(cached.train_step(batch, LR), uncached.train_step(batch, LR))
    assert 0 < cache.memory_mb_used <= 0.3 * size
    assert cache.file_mb_used > 0
    n_rows = sum(len(batch) for batch in batches)
    assert cache.n_hits == len(cache)
    assert cache.n_misses == 2 * n_rows - cache.n_hits > n_rows
    cache.close()


def test_scoring_may_keep_nothing(make: Factory) -> None:
    backend = make(cache=HiddenCache(10, 0, None, "fp32"))
    batch = some_batches()[0]
    expected = make().score(batch)
    np.testing.assert_array_equal(backend.score(batch, keep=False), expected)
    assert len(backend.cache) == 0
    np.testing.assert_array_equal(backend.score(batch), expected)
    np.testing.assert_array_equal(backend.score(batch, keep=False), expected)
    assert (len(backend.cache), backend.cache.n_hits) == (len(batch), len(batch))


def test_prefix_is_frozen(make: Factory) -> None:
    backend = make()
    batch = make_batch([9, 17, 4])
    before = backend.prefix(batch)
    assert before.shape == (3, 24, 32)
    assert before.dtype == np.float32
    backend.train_step(batch, LR)
    np.testing.assert_array_equal(backend.prefix(batch), before)


def test_saves_what_was_trained_above_the_cut(make: Factory, tmp_path: Path) -> None:
    backend, whole = make(cache=HiddenCache(10, 0, None, "fp32")), make(cut=False)
    for each, name in ((backend, "cut"), (whole, "whole")):
        losses_of(each, some_batches())
        (tmp_path / name).mkdir()
        each.save(tmp_path / name, ("no", "yes"))
    from safetensors.numpy import load_file

    ours, theirs = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("cut", "whole"))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        frozen = is_embedding(name) or layer_number(name) == 0
        np.testing.assert_allclose(value, theirs[name], atol=0 if frozen else 1e-4, err_msg=name)


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def architecture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random encoder of one architecture."""
    folder = tmp_path_factory.mktemp("architectures") / request.param
    return write_model(folder, request.param, **ARCHITECTURES[request.param])


def test_architecture_can_be_cut(artifacts_of: Any, architecture: Path) -> None:
    batches = some_batches(5, n_classes=3)
    if architecture.name in UNCUT:
        for factory in FACTORIES.values():
            with pytest.raises(UsageError, match="share weights"):
                factory(artifacts_of, architecture, "1", n_labels=3)
        return
    made = {}
    for name, factory in FACTORIES.items():
        made[name] = factory(artifacts_of, architecture, "1", n_labels=3)
        assert made[name].depth == 1
        whole = factory(artifacts_of, architecture, "1", n_labels=3, cut=False)
        assert_trains_alike(made[name], whole, batches)
        features = made[name].features(batches[0])
        linear = [np.zeros((3, features.shape[1]), np.float32), np.array([1.0, 2.0, 3.0], np.float32)]
        made[name].set_head(*linear)
        np.testing.assert_array_equal(made[name].score(batches[0])[0], linear[1])
    check = made["ort"].artifacts.manifest.cut.check
    assert max(check.logits, check.loss, check.gradients) < 1e-4
    assert made["ort"].n_parameters == made["torch"].n_parameters
