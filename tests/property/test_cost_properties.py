"""The cost function: never negative, never falling where it must not, exact at its own points."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetune.devices.cost_function import CostFunction, monotone_envelope, nnls
from edgetune.devices.device_profile import BackendProfile, MeasuredPoint, ModelShape, Operation
from tests.profile_samples import SHAPE, make_backend

LARGER = SHAPE.model_copy(
    update={"name": "base", "n_layers": 12, "hidden_size": 768, "intermediate_size": 3072}
)
LENGTHS, BATCHES, DEPTHS = (8, 16, 32, 64, 128), (8, 32), (0, 2, 4)
OPS: tuple[Operation, ...] = ("prefix", "score", "train")


def truth(op: Operation, batch: int, length: int, depth: int, shape: ModelShape = SHAPE) -> float:
    """Seconds of an imagined machine: affine in batch, length and layers, a little quadratic in length."""
    layers = depth if op == "prefix" else shape.n_layers - depth
    weights = 4 * shape.hidden_size**2 + 2 * shape.hidden_size * shape.intermediate_size
    tokens = batch * length
    forward = (
        2e-3 + 1e-11 * tokens * layers * weights + 1.5e-11 * tokens * length * layers * shape.hidden_size
    )
    return 3 * forward + 2e-9 * layers * weights if op == "train" else forward


def profile_of(points: list[MeasuredPoint]) -> BackendProfile:
    return make_backend().model_copy(update={"points": points})


def point(op: Operation, batch: int, length: int, depth: int, seconds: float) -> MeasuredPoint:
    where = {"op": op, "batch": batch, "length": length, "depth": depth}
    return MeasuredPoint(**where, s=seconds, low_s=seconds, high_s=seconds, n=5)


def grid(depths: tuple[int, ...] = DEPTHS, noise: list[float] | None = None) -> list[MeasuredPoint]:
    cells = [
        (op, b, t, d) for op, b, t, d in product(OPS, BATCHES, LENGTHS, depths) if d > 0 or op != "prefix"
    ]
    factors = [1.0] * len(cells) if noise is None else np.resize(noise, len(cells))
    return [point(*cell, truth(*cell) * float(f)) for cell, f in zip(cells, factors, strict=True)]


noises = st.lists(st.floats(0.6, 1.6), min_size=7, max_size=60)
places = st.tuples(st.integers(1, 200), st.integers(1, 512), st.integers(0, 6))
depth_sets = st.sampled_from([(0,), (0, 3), (0, 2, 4), (0, 1, 5)])
targets = st.sampled_from([None, LARGER])


@settings(max_examples=60, deadline=None)
@given(noises, st.lists(places, min_size=2, max_size=12), depth_sets, targets, st.sampled_from(OPS))
def test_it_never_falls_where_it_must_not(
    noise: list[float],
    chosen: list[tuple[int, int, int]],
    depths: tuple[int, ...],
    target: ModelShape | None,
    op: Operation,
) -> None:
    cost = CostFunction(profile_of(grid(depths, noise)), SHAPE, target)
    for batch, length, depth in chosen:
        here = cost.seconds(op, batch, length, depth)
        slack = 1e-9 * (1 + here)
        assert 0 <= here < np.inf
        for more_batch, more_length in ((1, 0), (0, 1), (7, 0), (0, 9), (40, 100)):
            assert cost.seconds(op, batch + more_batch, length + more_length, depth) >= here - slack
        deeper = cost.seconds(op, batch, length, depth + 1)
        if op == "prefix":
            assert deeper >= here - slack
        else:
            assert deeper <= here + slack


@pytest.mark.parametrize("depths", [(0,), (0, 3), (0, 2, 4)])
def test_it_is_exact_at_monotone_points(depths: tuple[int, ...]) -> None:
    cost = CostFunction(profile_of(grid(depths)), SHAPE)
    for p in grid(depths):
        assert cost.seconds(p.op, p.batch, p.length, p.depth) == pytest.approx(p.s, rel=1e-12)


def test_between_and_beyond_its_points_it_is_near_an_affine_machine() -> None:
    cost = CostFunction(profile_of(grid()), SHAPE)
    for op, batch, length, depth in product(OPS, (4, 16, 24, 48), (8, 24, 96, 256), (1, 3, 5)):
        expected = truth(op, batch, length, depth)
        assert cost.seconds(op, batch, length, depth) == pytest.approx(expected, rel=0.05)


def test_a_last_layer_that_reads_one_token_is_found_out() -> None:
    def trimmed_truth(op: Operation, batch: int, length: int, depth: int) -> float:
        whole = truth(op, batch, length, depth)
        last = truth("score", batch, length, SHAPE.n_layers - 1) - truth(
            "score", batch, length, SHAPE.n_layers
        )
        return whole if op == "prefix" else whole - (3 if op == "train" else 1) * 0.83 * last

    points = [
        point(p.op, p.batch, p.length, p.depth, trimmed_truth(p.op, p.batch, p.length, p.depth))
        for p in grid()
    ]
    cost = CostFunction(profile_of(points), SHAPE)
    for op, batch, length, depth in product(OPS, (4, 16, 24), (24, 96, 256), (1, 3, 5)):
        expected = trimmed_truth(op, batch, length, depth)
        assert cost.seconds(op, batch, length, depth) == pytest.approx(expected, rel=0.08)


def test_another_model_goes_by_its_operation_count() -> None:
    profile = profile_of(grid())
    cost = CostFunction(profile, SHAPE, LARGER)
    assert cost.seconds("train", 32, 64, 0) == pytest.approx(truth("train", 32, 64, 0, LARGER), rel=0.1)
    twin = CostFunction(profile, SHAPE, SHAPE.model_copy(update={"name": "twin"}), scale=2.0)
    assert twin.seconds("train", 32, 64, 0) == pytest.approx(2 * truth("train", 32, 64, 0))


def test_no_prefix_costs_nothing_at_depth_0_and_something_above() -> None:
    without = [p for p in grid((0,)) if p.op != "prefix"]
    cost = CostFunction(profile_of(without), SHAPE)
    assert cost.seconds("prefix", 32, 64, 0) == 0.0
    assert cost.seconds("prefix", 32, 64, 3) == pytest.approx(truth("prefix", 32, 64, 3), rel=0.1)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 4), st.integers(4, 9), st.integers(0, 2**31))
def test_nnls_finds_what_its_conditions_ask(k: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    features, target = rng.normal(size=(n, k)), rng.normal(size=n)
    found = nnls(features, target)
    gradient = features.T @ (features @ found - target)
    assert (found >= 0).all()
    assert (gradient >= -1e-7).all()  # no coefficient at zero wants to grow
    assert np.abs(gradient[found > 0]).max(initial=0.0) < 1e-7


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31))
def test_isotonic_rises_along_every_axis_and_leaves_monotone_input_alone(seed: int) -> None:
    values = np.random.default_rng(seed).random((3, 4, 2))
    found = monotone_envelope(values)
    for axis in range(3):
        assert (np.diff(found, axis=axis) >= -1e-12).all()
    assert np.array_equal(monotone_envelope(found), found)
