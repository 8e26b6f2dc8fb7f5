"""What the loop offers to methods that weigh rows, decide over pools, prepare, or start afresh."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
from fakes import FakeBackend, FakeClock, FakeHistory, FakeSource

from edgetune.config.settings import TrainSettings
from edgetune.data.batches import Batch, TokenSource
from edgetune.learners.loop import Loop
from edgetune.learners.progress import Progress
from edgetune.selection import DataShape, SelectionSettings, Selector, make_selector
from edgetune.selection.selector_contract import REFERENCE, SUBSET
from edgetune.utils.meter import Meter
from edgetune.utils.types import BoolArray, FloatArray

N_ROWS, BATCH, LR = 96, 8, 1e-3


class Watched(Selector):
    """Remembers what the loop told it."""

    name: ClassVar[str] = "watched"

    def __init__(self, **how: Any) -> None:
        if how.get("afresh_at"):
            self.first_stage = REFERENCE  # type: ignore[misc]
        super().__init__(None, DataShape(N_ROWS, 2, 50), np.random.default_rng(0))
        self.how = how
        self.restarts = "afresh_at" in how  # type: ignore[misc]
        self.pools: list[int] = []
        self.asked: list[int] = []
        self.told: list[tuple[float, int]] = []
        self.prepared: list[int] = []

    @property
    def skips_scoring(self) -> bool:
        return bool(self.how.get("straight"))

    @property
    def lookahead(self) -> int:
        return int(self.how.get("ahead", 1))

    @property
    def decision_size(self) -> int:
        return int(self.how.get("pool", 1))

    @property
    def span(self) -> tuple[float, float]:
        at = self.how.get("afresh_at")
        if at is None:
            return 0.0, 1.0
        return (0.0, at) if self.stage == REFERENCE else (at, 1.0)

    def prepare(self, source: TokenSource, should_stop: Callable[[], bool]) -> None:
        assert not should_stop()
        self.prepared.append(len(source.labels))

    def on_batch_start(self, progress: float, epoch: int) -> None:
        super().on_batch_start(progress, epoch)
        self.told.append((progress, epoch))
        if self.stage == REFERENCE and progress >= self.how["afresh_at"]:
            self._enter(SUBSET, "now", reset_model=True)

    def choose_score(self, batch: Batch) -> BoolArray:
        self.asked.append(len(batch))
        return super().choose_score(batch)

    def choose_train(self, batch: Batch, losses: FloatArray) -> BoolArray:
        self.pools.append(len(batch))
        return losses >= np.median(losses)

    def loss_weights(self, batch: Batch) -> FloatArray | None:
        return np.where(batch.rows % 2 == 0, 2.0, 1.0) if self.how.get("weighs") else None


def make(n_rows: int = N_ROWS, epochs: int = 1, **how: Any) -> tuple[Loop, Watched, FakeBackend]:
    selector = Watched(**how)
    backend = FakeBackend(np.random.default_rng(1).exponential(0.5, n_rows) + 0.01)
    settings = TrainSettings(lr=LR, epochs=epochs, batch_size=BATCH)
    loop = Loop(
        backend=backend,
        selector=selector,
        source=FakeSource(n_rows),
        settings=settings,
        meter=Meter(clock=FakeClock(tick_s=1.0)),
        history=FakeHistory(),
        rng=np.random.default_rng(2),
        run_progress=Progress(n_rows, settings),
    )
    return loop, selector, backend


def run(loop: Loop) -> None:
    loop.begin()
    for epoch in range(1, loop.settings.epochs + 1):
        loop.run_epoch(epoch)


def test_preparation_sees_every_row_once_and_is_charged() -> None:
    loop, selector, _ = make()
    run(loop)
    assert selector.prepared == [N_ROWS]
    assert loop.meter.split_s()["prepare"] > 0


def test_progress_and_pass_are_told_before_every_batch() -> None:
    loop, selector, _ = make(epochs=3, straight=True)
    run(loop)
    shares, passes = zip(*selector.told, strict=True)
    assert list(passes) == sorted(passes)
    assert set(passes) == {1, 2, 3}
    assert list(shares) == sorted(shares)
    assert shares[0] == 0
    assert 0.8 < shares[-1] < 1


@pytest.mark.parametrize("ahead", [1, 8, 20, 1000])
def test_several_batches_of_the_stream_are_asked_about_at_once(ahead: int) -> None:
    loop, selector, backend = make(ahead=ahead)
    run(loop)
    assert sum(selector.asked) == N_ROWS == loop.counts.n_seen == loop.counts.n_scored
    assert all(ahead <= size < ahead + BATCH for size in selector.asked[:-1])
    assert all(len(call.rows) <= BATCH for call in backend.calls)
    assert sorted(backend.rows_of("score")) == list(range(N_ROWS))


@pytest.mark.parametrize("pool", [1, 8, 24, 1000])
def test_a_pool_is_decided_on_at_once(pool: int) -> None:
    loop, selector, backend = make(pool=pool)
    run(loop)
    assert sum(selector.pools) == N_ROWS == loop.counts.n_scored
    assert all(size >= pool for size in selector.pools[:-1])
    assert loop.n_waiting == 0
    assert loop.counts.n_trained + loop.counts.n_skipped_backward == N_ROWS
    assert len(backend.rows_of("train")) == loop.counts.n_trained
    if pool == 1000:  # one decision over everything: exactly the upper half
        upper = np.flatnonzero(backend.losses >= np.median(backend.losses))
        assert sorted(backend.rows_of("train")) == upper.tolist()


def test_rows_waiting_for_their_pool_are_not_done_yet() -> None:
    loop, _, _ = make(pool=1000)
    loop.begin()
    seen: list[float] = []
    loop.on_progress = lambda counts, loss: seen.append(loop.progress)
    loop.run_epoch(1)
    assert max(seen[:-1]) < 0.2
    assert seen[-1] == 1


def test_weights_reach_the_train_step_row_by_row() -> None:
    loop, _, backend = make(straight=True, weighs=True)
    run(loop)
    trained = [call for call in backend.calls if call.kind == "train"]
    assert len(trained) == len(backend.weights) > 0
    for call, weights in zip(trained, backend.weights, strict=True):
        assert weights is not None
        assert weights.tolist() == [2.0 if row % 2 == 0 else 1.0 for row in call.rows]


def test_no_weights_by_default() -> None:
    loop, _, backend = make(straight=True)
    run(loop)
    assert set(map(type, backend.weights)) == {type(None)}


def test_starting_afresh_loads_the_first_weights_and_drops_the_queues() -> None:
    loop, _, backend = make(epochs=2, straight=True, afresh_at=0.5)
    run(loop)
    kinds = [call.kind for call in backend.calls]
    assert kinds.count("load first") == 1
    at = kinds.index("load first")
    assert "train" in kinds[:at]
    assert "train" in kinds[at:]
    assert loop.counts.n_left > 0
    assert loop.counts.n_trained + loop.counts.n_left == loop.counts.n_seen == 2 * N_ROWS
    rates = [call.lr for call in backend.calls if call.kind == "train"]
    n_before = kinds[:at].count("train")
    before, after = rates[:n_before], rates[n_before:]
    assert before[0] == LR
    assert before[-1] < 0.35 * LR
    assert after[0] > 0.8 * LR  # near the peak again
    assert after[-1] < 0.2 * LR
    assert before == sorted(before, reverse=True)
    assert after == sorted(after, reverse=True)


def test_the_first_weights_are_kept_for_those_that_restart_only() -> None:
    loop, _, _ = make(straight=True)
    run(loop)
    assert loop._first_state is None


def test_the_record_counts_rows_as_the_loop_does() -> None:
    loop, _, backend = make(epochs=2, pool=16)
    run(loop)
    record = loop.row_stats
    assert record.n_seen.tolist() == [2] * N_ROWS
    assert record.n_scored.sum() == loop.counts.n_scored
    assert record.n_trained.tolist() == np.bincount(backend.rows_of("train"), minlength=N_ROWS).tolist()
    assert record.n_measured.tolist() == [2] * N_ROWS
    np.testing.assert_allclose(record.mean_loss(), backend.losses, rtol=1e-5)
    np.testing.assert_allclose(record.confidence(), np.exp(-backend.losses), rtol=1e-5)
    np.testing.assert_allclose(record.variability(), 0.0, atol=1e-3)


def test_a_straight_row_is_measured_by_its_train_step() -> None:
    loop, _, _ = make(straight=True)
    run(loop)
    assert loop.row_stats.n_scored.sum() == 0
    assert loop.row_stats.n_measured.tolist() == [1] * N_ROWS


@pytest.mark.parametrize("method", ["cartography-ambiguous", "cartography-hard", "ftft"])
@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_subset_is_trained_even_where_the_reference_ends_in_mid_pass(method: str, epochs: int) -> None:
    n_rows = 400
    settings = SelectionSettings.model_validate({"method": method})
    loop, _, backend = make(n_rows, epochs)
    loop.selector = make_selector(settings, DataShape(n_rows, 2, 50), np.random.default_rng(3))
    run(loop)
    kinds = [call.kind for call in backend.calls]
    after = backend.calls[kinds.index("load first") + 1 :]
    assert loop.counts.n_seen == epochs * n_rows
    assert sum(len(call.rows) for call in after) >= 0.04 * n_rows
    assert loop.counts.n_steps_reference == kinds[: kinds.index("load first")].count("train") > 0
    assert loop.meter.split_s()["prepare"] > loop.counts.n_steps_reference  # by ticks of the clock
