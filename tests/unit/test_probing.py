"""The linear probe of a run: more rows while they pay, and never later than the end of training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_deadline_run import Scorer, View, cost, some_plan

from edgetune.data.batches import Batch
from edgetune.planning.clock import Clock
from edgetune.planning.plan import LINEAR_PROBE
from edgetune.runs.deadline import Deadline
from edgetune.runs.probing import ProbeInTime
from tests.fakes import FakeClock

WIDTH = 40


class Learnable(Scorer):
    """Features from which a class can be told, the better the more rows of it were seen."""

    noise = 1.0

    def features(self, batch: Batch) -> np.ndarray:
        super().features(batch)
        found = np.random.default_rng(batch.rows[0]).normal(0, 1, (len(batch), WIDTH))
        centres = np.random.default_rng(7).normal(0, 1, (2, WIDTH))
        return (centres[batch.labels] + self.noise * found).astype(np.float32)


def stage_of(
    backend: Scorer,
    n_train: int,
    n_held_out: int | None = 300,
    method: str = "train-all",
    stop: Callable[[], bool] = lambda: False,
    **plan: Any,
) -> tuple[ProbeInTime, Deadline]:
    followed = replace(some_plan(), method=method, n_weighed=300, **plan)
    started_s = backend.clock.now_s
    clock = Clock(60.0, followed.lines, lambda: backend.clock.now_s - started_s)
    deadline = Deadline(followed, clock, cost, 1.0)
    data = SimpleNamespace(train=View(n_train), held_out=None if n_held_out is None else View(n_held_out))
    run = SimpleNamespace(
        data=data,
        backend=backend,
        config=SimpleNamespace(train=SimpleNamespace(seed=0)),
        model_loader=SimpleNamespace(source=SimpleNamespace(pools_mean=True)),
        deadline=deadline,
        stop=stop,
    )
    return ProbeInTime(run), deadline  # type: ignore[arg-type]


def test_rows_are_added_while_they_pay() -> None:
    hard = Learnable(np.full(20_000, 0.5), clock=FakeClock())
    hard.noise = 6.0
    easy = Learnable(np.full(20_000, 0.5), clock=FakeClock())
    easy.noise = 0.1
    # A plan of ten rows: training would see too few a class, and the probe may have the time.
    many, few = (stage_of(each, 20_000, n_probe_rows=64, n_rows=10)[0].fit() for each in (hard, easy))
    assert few.n_rows == 512  # nothing is to be won any more
    assert many.n_rows > 512
    dear = stage_of(hard, 20_000, n_probe_rows=64, probe_row_s=1.0)[0].fit()
    assert dear.n_rows == 64  # training is worth more than rows that take so long
    assert few.held_out is not None
    assert len(few.held_out.rows) == 300
    assert (few.held_out.logits.argmax(1) == few.held_out.view.labels[few.held_out.rows]).mean() > 0.95


@pytest.mark.parametrize("method", ["train-all", LINEAR_PROBE])
@pytest.mark.parametrize("n_held_out", [None, 300])
def test_a_slow_machine_gets_fewer_rows_and_ends_in_time(method: str, n_held_out: int | None) -> None:
    backend = Learnable(np.full(90_000, 0.5), clock=FakeClock(), slow=4.0)
    backend.noise = 6.0
    stage, deadline = stage_of(backend, 90_000, n_held_out, method, n_probe_rows=4000)
    found = stage.fit()
    assert 0 < found.n_rows < 90_000
    assert deadline.clock.elapsed_s() <= deadline.clock.end_s()
    assert (found.held_out is None) == (n_held_out is None)


def test_a_probe_that_is_the_only_learner_sees_all_rows_that_it_has_time_for() -> None:
    backend = Learnable(np.full(6_000, 0.5), clock=FakeClock())
    stage, _ = stage_of(backend, 6_000, None, LINEAR_PROBE, n_probe_rows=64)
    assert stage.fit().n_rows == 6_000


def test_without_training_held_out_rows_are_fitted_on_and_answered_by_probes_that_do_not_know_them() -> None:
    backend = Learnable(np.full(20_000, 0.5), clock=FakeClock(), slow=6.0)
    backend.noise = 3.0
    stage, deadline = stage_of(backend, 20_000, method=LINEAR_PROBE, n_probe_rows=64)
    backend.clock.now_s += deadline.clock.left_s() - 10.0
    found = stage.fit()
    assert found.held_out is not None
    rows, logits = found.held_out.rows, found.held_out.logits
    assert len(rows) > 100
    assert found.n_rows >= len(rows)
    labels = found.held_out.view.labels[rows]
    own = backend.features(found.held_out.view.batch(rows))
    knows_them = (found.probe.logits(own).argmax(1) == labels).mean()
    assert knows_them > (logits.argmax(1) == labels).mean() > 0.6


def test_without_time_for_cross_fitting_the_probe_has_no_say() -> None:
    backend = Learnable(np.full(20_000, 0.5), clock=FakeClock(), slow=6.0)
    begun_s = 55.0

    def stop() -> bool:  # whoever asks after the features were read finds ten seconds gone
        backend.clock.now_s += 10.0 if backend.clock.now_s > begun_s else 0.0
        return False

    stage, deadline = stage_of(backend, 20_000, method=LINEAR_PROBE, stop=stop, n_probe_rows=64)
    backend.clock.now_s += deadline.clock.left_s() - 10.0
    begun_s = backend.clock.now_s
    found = stage.fit()
    assert found.held_out is None
    assert found.n_rows > 100  # held-out rows, as there was no time for others
    assert np.isfinite(found.probe.weight).all()


def test_a_few_rows_are_read_even_when_it_is_too_late() -> None:
    backend = Learnable(np.full(500, 0.5), clock=FakeClock())
    stage, _ = stage_of(backend, 500)
    backend.clock.now_s += 59.0
    found = stage.fit()
    assert 16 <= found.n_rows <= 64
    assert found.held_out is None
    assert np.isfinite(found.probe.weight).all()


def test_training_starts_from_the_probe_where_rows_are_few_a_class() -> None:
    backend = Learnable(np.full(20_000, 0.5), clock=FakeClock())
    stage, deadline = stage_of(backend, 20_000)
    assert deadline.steps_that_fit() * deadline.plan.batch_size > 200
    assert not stage.starts_training()
    backend.clock.now_s += deadline.clock.left_s() - 0.1
    assert stage.starts_training()


def test_time_given_to_the_probe_is_in_the_plan() -> None:
    _, deadline = stage_of(Learnable(np.full(100, 0.5), clock=FakeClock()), 100)
    assert deadline.trains
    deadline.give_to_probe(80)
    assert not deadline.trains
    assert (deadline.plan.n_rows, deadline.plan.n_steps) == (80, 0)


def test_the_head_of_a_trained_encoder_is_fitted_on_all_rows_if_there_is_time() -> None:
    backend = Learnable(np.full(500, 0.5), clock=FakeClock())
    backend.noise = 3.0
    stage, deadline = stage_of(backend, 200, n_held_out=100, probe_row_s=0.001, read_again_row_s=0.001)
    found = stage.fit_again()
    assert found is not None
    assert found.n_rows == 200
    assert found.held_out is not None
    assert len(found.held_out.rows) == 100
    assert found.refit is not None
    again, own = found.refit(), backend.features(found.held_out.view.batch(found.held_out.rows))
    labels = found.held_out.view.labels[found.held_out.rows]
    right = [(head.logits(own).argmax(1) == labels).mean() for head in (found.probe, again)]
    assert right[1] > right[0]  # it has seen the held-out rows, too
    late, _ = stage_of(backend, 200, n_held_out=100, read_again_row_s=1.0)
    assert late.fit_again() is None
    assert stage_of(backend, 200, n_held_out=None)[0].fit_again() is None
    assert deadline.clock.elapsed_s() < deadline.clock.end_s()
