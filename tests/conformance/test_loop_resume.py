"""Whatever chooses the rows: a loop that is broken off and goes on does what the unbroken one does."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeBackend, FakeClock, FakeHistory, FakeSource
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetune.config.settings import TrainSettings
from edgetune.learners.loop import Loop
from edgetune.learners.progress import Progress
from edgetune.run_files.checkpoint import newest_checkpoint, write_checkpoint
from edgetune.selection import METHODS, DataShape, SelectionSettings, make_selector
from edgetune.utils.meter import Meter

N_ROWS, BATCH, EPOCHS = 96, 8, 3
TIMES = ("t_s", "train_s")


class Melting(FakeBackend):
    """A row's loss halves each time it is trained: choices depend on everything that went before."""

    def train_step(self, batch: Any, lr: float, weights: Any = None) -> np.ndarray:
        logits = super().train_step(batch, lr, weights)
        np.multiply.at(self.losses, batch.rows, 0.5)
        return logits

    def state(self) -> bytes:
        return self.losses.tobytes()

    def load_state(self, state: bytes) -> None:
        self.losses = np.frombuffer(state).copy()


def make_loop(method: Any, multi_label: bool) -> Loop:
    quick: dict[str, Any] = {"alt": 5.0, "alt_window": 3, "threshold_window": 16, "pool_rows": 24}
    quick |= {"stale_epochs": 2, "refresh_epochs": 2, "loss_window": 32}
    chosen = SelectionSettings(**quick, method=method)
    settings = TrainSettings(lr=1e-3, epochs=EPOCHS, batch_size=BATCH)
    return Loop(
        backend=Melting(np.random.default_rng(7).exponential(0.3, N_ROWS) + 0.01),
        selector=make_selector(chosen, DataShape(N_ROWS, 2, 50, batch_size=BATCH), np.random.default_rng(3)),
        source=FakeSource(N_ROWS, multi_label=multi_label),
        settings=settings,
        meter=Meter(clock=FakeClock()),
        history=FakeHistory(),
        rng=np.random.default_rng(2),
        run_progress=Progress(N_ROWS, settings),
    )


def run_from(loop: Loop, epoch: int) -> None:
    for number in range(max(1, epoch), EPOCHS + 1):
        loop.run_epoch(number)
        if loop.stopped:
            return


def through_disk(state: dict[str, Any], backend: bytes) -> tuple[dict[str, Any], bytes]:
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), state, backend)
        found = newest_checkpoint(Path(folder))
        assert found is not None
        return found.state, found.backend


def lines_of(*histories: Any) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in TIMES} for one in histories for line in one.lines]


def did(*loops: Loop) -> list[tuple[str, list[int], float | None]]:
    """What the backend was asked for, in order."""
    calls = [call for loop in loops for call in loop.backend.calls]  # type: ignore[attr-defined]
    return [(call.kind, list(call.rows), call.lr) for call in calls]


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=3), st.booleans())
def test_goes_on_as_if_never_broken_off(method: str, after: list[int], multi_label: bool) -> None:
    whole = make_loop(method, multi_label)
    whole.begin()
    run_from(whole, 1)

    loops = [make_loop(method, multi_label)]
    loops[0].begin()
    for n_batches in after:
        loop = loops[-1]
        n_asked = iter(range(10_000))

        def stop(n_asked: Any = n_asked, limit: int = n_batches) -> bool:
            return next(n_asked) >= limit

        loop.should_stop = stop
        run_from(loop, loop.epoch)
        if not loop.stopped:
            break
        state, backend = through_disk(loop.state(), loop.backend.state())
        loops.append(make_loop(method, multi_label))
        loops[-1].load_state(state, backend, loops[-1].backend.state)
    loops[-1].should_stop = lambda: False
    loops[-1].stopped = False
    run_from(loops[-1], loops[-1].epoch)

    assert did(*loops) == did(whole)
    assert lines_of(*(loop.history for loop in loops)) == lines_of(whole.history)
    assert loops[-1].counts.totals() == whole.counts.totals()
    assert loops[-1].selector.report() == whole.selector.report()
    for name, expected in whole.row_stats.state().items():
        np.testing.assert_array_equal(loops[-1].row_stats.state()[name], expected, err_msg=name)
    np.testing.assert_array_equal(loops[-1].backend.losses, whole.backend.losses)  # type: ignore[attr-defined]
