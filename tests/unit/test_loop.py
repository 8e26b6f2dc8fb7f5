from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from fakes import FakeBackend, FakeClock, FakeHistory, FakeSource
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetune.config.settings import TrainSettings
from edgetune.data.batches import PAD_MULTIPLE, RELEASE_EVERY
from edgetune.learners.loop import Loop
from edgetune.learners.progress import Progress
from edgetune.selection import METHODS, PRESETS, DataShape, SelectionSettings, make_selector
from edgetune.utils.meter import Meter

N_ROWS, BATCH = 203, 8
LR = 1e-3
every_method = pytest.mark.parametrize("method", METHODS)


def skewed_losses(n_rows: int) -> np.ndarray:
    """Losses (nats) of which some are far above the others."""
    return np.random.default_rng(7).exponential(0.3, n_rows) + 0.01


def make_loop(
    method: Any = "train-all",
    *,
    n_rows: int = N_ROWS,
    epochs: int = 1,
    batch_size: int = BATCH,
    decay: str = "examples",
    max_steps: int | None = None,
    preset: str = "default",
    clock: Any = None,
    **selection: Any,
) -> Loop:
    source = FakeSource(n_rows)
    quick: dict[str, Any] = {"alt": 5.0, "alt_window": 3, "threshold_window": 16}
    chosen = SelectionSettings(**{**PRESETS[preset], **quick, **selection, "method": method})
    selector = make_selector(
        chosen, DataShape(n_rows, 2, 50, batch_size=batch_size), np.random.default_rng(3)
    )
    settings = TrainSettings(lr=LR, epochs=epochs, batch_size=batch_size, decay=decay, max_steps=max_steps)
    return Loop(
        backend=FakeBackend(skewed_losses(n_rows)),
        selector=selector,
        source=source,
        settings=settings,
        meter=Meter(clock=clock or FakeClock()),
        history=FakeHistory(),
        rng=np.random.default_rng(2),
        run_progress=Progress(n_rows, settings),
    )


def run(loop: Loop) -> Loop:
    loop.begin()
    for epoch in range(1, loop.settings.epochs + 1):
        loop.run_epoch(epoch)
    return loop


def backend_of(loop: Loop) -> FakeBackend:
    assert isinstance(loop.backend, FakeBackend)
    return loop.backend


def history_of(loop: Loop) -> FakeHistory:
    assert isinstance(loop.history, FakeHistory)
    return loop.history


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("n_rows", [1, 7, 8, 64, 203])
def test_train_all_trains_every_row_once_per_epoch(n_rows: int, epochs: int) -> None:
    loop = run(make_loop(n_rows=n_rows, epochs=epochs))
    trained = Counter(backend_of(loop).rows_of("train"))
    assert trained == dict.fromkeys(range(n_rows), epochs)
    assert not backend_of(loop).rows_of("score")
    counts = loop.counts
    assert counts.n_seen == counts.n_trained == n_rows * epochs
    assert counts.n_scored == counts.n_skipped_both == counts.n_skipped_backward == 0
    assert counts.n_steps == len(backend_of(loop).calls)


@every_method
def test_batches_are_full_and_of_one_bucket_until_the_flush(method: str) -> None:
    loop = make_loop(method, epochs=2)
    loop.begin()
    loop.run_epoch(1)
    before_flush = len(backend_of(loop).calls)
    loop._flush = lambda: None  # type: ignore[method-assign]  # look at what went out before it
    loop.run_epoch(2)
    calls = backend_of(loop).calls
    assert len(calls) > before_flush
    for call in (call for call in calls if call.kind in ("score", "train")):
        assert len(call.rows) == BATCH
        assert len({-(-length // PAD_MULTIPLE) for length in call.lengths}) == 1


@every_method
def test_the_flush_leaves_nothing_waiting(method: str) -> None:
    loop = run(make_loop(method, epochs=2))
    assert loop.n_waiting == 0
    assert loop.progress == 1
    sizes = [len(call.rows) for call in backend_of(loop).calls]
    assert max(sizes) == BATCH
    assert sum(size < BATCH for size in sizes) <= 4  # a rest of each queue, at the end


@every_method
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_counts_add_up(method: str, preset: str) -> None:
    loop = run(make_loop(method, preset=preset, epochs=2))
    counts, backend = loop.counts, backend_of(loop)
    straight = counts.n_seen - counts.n_scored - counts.n_skipped_both - counts.n_left
    assert counts.n_seen == 2 * N_ROWS
    assert counts.n_left == 0 or loop.selector.restarts  # queued when the model started afresh
    assert straight >= 0
    assert loop.prices.n.sum() == counts.n_trained  # nothing is cached here, so every step tells a price
    assert counts.n_scored == len(backend.rows_of("score"))
    assert counts.n_trained == len(backend.rows_of("train"))
    assert counts.n_trained == straight + counts.n_scored - counts.n_skipped_backward
    if method in ("train-all", "random"):
        assert counts.n_scored == 0
    if method == "three-stage":
        assert loop.selector.stage == "filter_forward"
        assert counts.n_skipped_both > 0


@every_method
def test_a_loss_is_observed_once_at_most_per_epoch(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = make_loop(method, epochs=3)
    observed: Counter[int] = Counter()
    original = loop.selector.observe

    def watch(batch: Any, losses: Any) -> None:
        assert losses.shape == (len(batch),)
        np.testing.assert_allclose(losses, skewed_losses(N_ROWS)[batch.rows], rtol=1e-6)
        observed.update(batch.rows.tolist())
        original(batch, losses)

    monkeypatch.setattr(loop.selector, "observe", watch)
    run(loop)
    assert max(observed.values()) <= 3 + loop.selector.restarts  # then the pass is drawn anew
    assert sum(observed.values()) == loop.counts.n_seen - loop.counts.n_skipped_both - loop.counts.n_left


def test_straight_rows_are_not_scored_and_others_are_before_they_train() -> None:
    loop = run(make_loop("three-stage", epochs=2, warmup_fraction=0.5))
    scored: Counter[int] = Counter()
    trained_unscored: Counter[int] = Counter()
    for call in backend_of(loop).calls:
        for row in call.rows:
            if call.kind == "score":
                scored[row] += 1
            elif scored[row]:
                scored[row] -= 1
            else:
                trained_unscored[row] += 1
    assert max(trained_unscored.values()) == 1  # in the warm-up, and never again
    straight = loop.counts.n_seen - loop.counts.n_scored - loop.counts.n_skipped_both
    assert sum(trained_unscored.values()) == straight
    entered = {change.stage: change.n_seen for change in loop.selector.stages}
    assert straight == entered["filter_backward"]


@pytest.mark.parametrize("decay", ["examples", "steps"])
@pytest.mark.parametrize("max_steps", [None, 5])
def test_rate_falls_linearly_from_the_peak_to_zero(decay: str, max_steps: int | None) -> None:
    loop = make_loop(n_rows=160, decay=decay, max_steps=max_steps)
    assert isinstance(loop.source, FakeSource)
    loop.source.lengths[:] = 9  # one bucket: every batch of the stream is a step
    n_steps = max_steps or 20
    rates = [call.lr for call in backend_of(run(loop)).calls]
    assert rates == pytest.approx([LR * (1 - number / n_steps) for number in range(n_steps)])
    assert loop.progress == 1


@every_method
def test_every_step_has_a_rate_above_zero_and_none_above_the_peak(method: str) -> None:
    loop = run(make_loop(method, epochs=2))
    falls: list[list[float]] = [[]]
    for call in backend_of(loop).calls:
        if call.kind == "load first":
            falls.append([])
        elif call.kind == "train":
            assert call.lr is not None
            assert 0 < call.lr <= LR
            falls[-1].append(call.lr)
    assert len(falls) == 1 + loop.selector.restarts
    assert all(rates == sorted(rates, reverse=True) for rates in falls)


@every_method
def test_progress_only_grows(method: str) -> None:
    loop = make_loop(method, epochs=2)
    shares: list[float] = []
    loop.on_progress = lambda counts, loss: shares.append(loop.progress)
    run(loop)
    assert shares[-1] == 1
    assert shares[0] >= 0
    assert max(shares) <= 1


@every_method
@pytest.mark.parametrize("max_steps", [1, 5])
def test_stops_at_the_limit_of_steps(method: str, max_steps: int) -> None:
    loop = run(make_loop(method, epochs=2, max_steps=max_steps))
    assert not loop.stopped
    assert loop.progress == 1
    if loop.selector.restarts and not loop.finished:  # the reference took its share; the subset ended first
        assert loop.counts.n_steps < max_steps
        return
    assert loop.counts.n_steps == max_steps
    assert loop.finished


@every_method
def test_stops_after_the_step_in_which_it_was_asked(method: str) -> None:
    loop = make_loop(method, epochs=2)
    loop.should_stop = lambda: loop.counts.n_steps >= 3
    run(loop)
    assert loop.stopped
    assert not loop.finished
    assert loop.counts.n_steps == 3
    assert backend_of(loop).calls[-1].kind == "train"


def test_asked_before_the_first_batch() -> None:
    loop = make_loop()
    loop.should_stop = lambda: True
    run(loop)
    assert loop.stopped
    assert not backend_of(loop).calls
    assert loop.counts.n_seen == 0


@every_method
def test_history_has_a_line_for_every_step_or_skipped_batch(method: str) -> None:
    loop = run(make_loop(method, epochs=2))
    history, calls = history_of(loop), backend_of(loop).calls
    steps = history.of("step")
    trained = [call for call in calls if call.kind == "train"]
    assert [line["step"] for line in steps] == list(range(1, loop.counts.n_steps + 1))
    for line, call in zip(steps, trained, strict=True):
        assert line["n"] == len(call.rows)
        assert line["lr"] == call.lr
        assert line["width"] == -(-max(call.lengths) // PAD_MULTIPLE) * PAD_MULTIPLE
        assert line["loss"] == pytest.approx(skewed_losses(N_ROWS)[call.rows].mean())
    assert steps[-1]["n_trained"] == loop.counts.n_trained
    assert [line["stage"] for line in history.of("stage")] == [c.stage for c in loop.selector.stages]
    assert history.lines[0]["t_s"] <= history.lines[-1]["t_s"]
    n_stream = 2 * -(-N_ROWS // BATCH)
    assert len(history.of("skip")) <= n_stream
    if method == "train-all":
        assert not history.of("skip")


def test_random_keeps_about_its_share() -> None:
    loop = run(make_loop("random", n_rows=2000, keep_rate=0.3))
    assert loop.counts.n_trained == pytest.approx(600, abs=80)
    assert loop.counts.n_skipped_both == 2000 - loop.counts.n_trained


def test_a_threshold_trains_exactly_the_rows_above_it() -> None:
    loop = run(make_loop("fixed-threshold", threshold=0.3))
    expected = set(np.flatnonzero(skewed_losses(N_ROWS) > 0.3).tolist())
    assert sorted(backend_of(loop).rows_of("train")) == sorted(expected)
    assert sorted(backend_of(loop).rows_of("score")) == list(range(N_ROWS))


def test_nothing_kept_is_no_step() -> None:
    loop = run(make_loop("fixed-threshold", threshold=99.0))
    assert loop.counts.n_steps == 0
    assert loop.counts.n_skipped_backward == N_ROWS
    assert loop.progress == 1
    assert history_of(loop).of("skip")[-1]["n_skipped_backward"] == N_ROWS
    assert 0 < len(history_of(loop).of("skip")) <= -(-N_ROWS // BATCH) + 1


@every_method
def test_same_seed_same_run(method: str) -> None:
    first, second = (run(make_loop(method, epochs=2)) for _ in range(2))
    assert backend_of(first).calls == backend_of(second).calls
    assert first.counts == second.counts


@every_method
def test_time_is_charged_to_phases(method: str) -> None:
    loop = run(make_loop(method, clock=FakeClock(tick_s=1.0)))
    split = loop.meter.split_s()
    assert sum(split.values()) == pytest.approx(loop.meter.elapsed_s(), abs=1.5)
    n_kept = loop.counts.n_steps - loop.counts.n_steps_reference
    assert split["train"] == pytest.approx(n_kept)
    assert split["train"] + split["prepare"] >= loop.counts.n_steps
    n_scores = sum(call.kind == "score" for call in backend_of(loop).calls)
    assert split["score"] == pytest.approx(n_scores)
    assert split["load"] > 0
    assert split["select"] > 0
    if method == "train-all":
        assert loop.prices.seconds.sum() >= loop.counts.n_steps
    assert loop.counts.first_step_s is not None


@settings(max_examples=40, deadline=None)
@given(
    method=st.sampled_from(METHODS),
    n_rows=st.integers(1, 90),
    batch_size=st.integers(1, 20),
    epochs=st.integers(1, 3),
)
def test_any_shape_of_run_ends_with_everything_accounted_for(
    method: str, n_rows: int, batch_size: int, epochs: int
) -> None:
    loop = run(make_loop(method, n_rows=n_rows, batch_size=batch_size, epochs=epochs))
    counts = loop.counts
    assert counts.n_seen == n_rows * epochs
    n_skipped = counts.n_skipped_backward + counts.n_skipped_both
    assert counts.n_trained + n_skipped + counts.n_left == counts.n_seen
    assert loop.progress == pytest.approx(1)


def test_pages_are_released_now_and_then() -> None:
    loop = run(make_loop(n_rows=200, batch_size=1))
    assert isinstance(loop.source, FakeSource)
    assert loop.source.n_released == 1 + -(-200 // RELEASE_EVERY)  # and once after the preparation
