"""Every registered selector keeps the contract of `selection.Selector`; a new one is tested by existing."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from fakes import random_labels

from edgetune.data.batches import Batch
from edgetune.selection import (
    METHODS,
    PRESETS,
    SELECTORS,
    DataShape,
    SelectionSettings,
    Selector,
    make_selector,
)

N_EXAMPLES, VOCAB, CLASSES, BATCH = 160, 50, 3, 16
REPORT_KEYS = {"method", "stage", "threshold", "stages", "reached_last_stage", "why"}

every_selector = pytest.mark.parametrize("preset", sorted(PRESETS))
every_method = pytest.mark.parametrize("method", sorted(SELECTORS))
pytestmark = [every_selector, every_method]


def build(method: str, preset: str, seed: int = 1) -> Selector:
    quick: dict[str, Any] = {"alt": 2.0, "alt_window": 3, "explore_rate": 0.3, "threshold_window": 16}
    settings = SelectionSettings(method=method, **{**PRESETS[preset], **quick})
    return make_selector(settings, DataShape(N_EXAMPLES, CLASSES, VOCAB), np.random.default_rng(seed))


def stream(n_batches: int, first: int = 0, multi_label: bool = False) -> list[tuple[Batch, np.ndarray]]:
    """Batches with one loss per example; examples with token 3 are hard."""
    made = []
    for number in range(first, first + n_batches):
        rng = np.random.default_rng(number)
        lengths = rng.integers(1, 12, BATCH)
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        tokens = rng.integers(0, VOCAB, offsets[-1]).astype(np.int32)
        hard = np.add.reduceat(tokens % 5 == 3, offsets[:-1]) > 0
        rows = np.arange(number * BATCH, (number + 1) * BATCH) % N_EXAMPLES
        labels = random_labels(rng, BATCH, CLASSES, multi_label)
        batch = Batch(rows, labels, tokens, offsets, lengths, np.zeros(BATCH, dtype=np.bool_))
        made.append((batch, rng.exponential(np.where(hard, 1.0, 0.1))))
    return made


def play(selector: Selector, batches: list[tuple[Batch, np.ndarray]]) -> list[tuple[bytes, bytes, str]]:
    """Run batches as the loop does; return every decision."""
    decisions = []
    for batch, losses in batches:
        looked_at = selector.choose_score(batch)
        assert looked_at.shape == (len(batch),)
        assert looked_at.dtype == np.bool_
        kept, paid_for = batch.take(looked_at), losses[looked_at]
        trained = np.ones(len(kept), dtype=np.bool_)
        if not selector.skips_scoring:
            trained = selector.choose_train(kept, paid_for)
            assert trained.shape == (len(kept),)
            assert trained.dtype == np.bool_
        selector.observe(kept, paid_for)
        decisions.append((looked_at.tobytes(), trained.tobytes(), selector.stage))
    return decisions


def test_is_named_by_the_settings(method: str, preset: str) -> None:
    assert set(METHODS) == set(SELECTORS)
    selector = build(method, preset)
    assert isinstance(selector, Selector)
    assert selector.name == method


def test_same_seed_same_decisions(method: str, preset: str) -> None:
    first, second = (play(build(method, preset), stream(30)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("multi_label", [False, True])
def test_leaves_its_input_as_it_was(method: str, preset: str, multi_label: bool) -> None:
    batches, untouched = (stream(12, 0, multi_label) for _ in range(2))
    play(build(method, preset), batches)
    for (batch, losses), (expected, expected_losses) in zip(batches, untouched, strict=True):
        for field in Batch.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(batch, field), getattr(expected, field))
        np.testing.assert_array_equal(losses, expected_losses)


def test_single_and_no_examples(method: str, preset: str) -> None:
    selector = build(method, preset)
    for start in (0, 3, 12):  # in each stage of those that have three
        batch, losses = stream(1, start)[0]
        none = batch.take(np.zeros(BATCH, dtype=np.bool_))
        play(selector, [(none, losses[:0]), (batch.take(np.array([4])), losses[4:5])])
        play(selector, stream(9, start))


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("n_before", [0, 1, 4, 20])
def test_continues_from_its_state(method: str, preset: str, n_before: int, multi_label: bool) -> None:
    original = build(method, preset)
    play(original, stream(n_before, 0, multi_label))
    state = original.state()
    resumed = build(method, preset, seed=99)
    resumed.load_state(state)
    rest = stream(15, n_before, multi_label)
    expected = play(original, rest)
    assert play(resumed, rest) == expected
    assert resumed.report() == original.report()
    late = build(method, preset, seed=5)
    late.load_state(state)  # the snapshot did not move with the original
    assert play(late, rest) == expected


def test_state_is_numbers_names_and_arrays(method: str, preset: str) -> None:
    selector = build(method, preset)
    play(selector, stream(20))
    plain = json.dumps(selector.state(), default=lambda array: array.tolist())
    resumed = build(method, preset, seed=99)
    resumed.load_state(json.loads(plain))
    assert play(resumed, stream(10, 20)) == play(selector, stream(10, 20))


def test_reports_what_the_summary_needs(method: str, preset: str) -> None:
    selector = build(method, preset)
    for n_batches in (0, 2, 30):
        play(selector, stream(n_batches))
        report = json.loads(json.dumps(selector.report(), allow_nan=False))
        assert report.keys() >= REPORT_KEYS
        assert report["method"] == method
        assert report["stage"] == selector.stage == report["stages"][-1]["stage"]
        assert (report["why"] is None) == (report["reached_last_stage"] is not False)


def test_stages_come_in_their_order(method: str, preset: str) -> None:
    selector = build(method, preset)
    play(selector, stream(30))
    orders = (
        ["all"],
        ["warmup", "filter_backward", "filter_forward"],
        ["reference", "subset"],
        ["warmup", "subset"],
    )
    entered = [change.stage for change in selector.stages]
    first, later = entered[:3], entered[3:]
    assert any(first == order[: len(first)] for order in orders)
    back_and_forth = ["filter_backward", "filter_forward"] * len(later)
    assert later == (back_and_forth[: len(later)] if preset == "default" else [])
    assert selector.restarts or not any(change.reset_model for change in selector.stages)
    seen = [change.n_seen for change in selector.stages]
    assert seen == sorted(seen)
