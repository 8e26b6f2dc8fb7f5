"""Forward passes under a clock: as many rows as there is time for, in random order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from edgetune.backends.backend_contract import Backend
from edgetune.data.batches import Batch, TokenSource, sequential_batches
from edgetune.data.token_store import TokenView
from edgetune.planning.candidate import EVALUATION_BATCH, EVALUATION_BATCHES, PROBE_BATCHES, scored_s
from edgetune.planning.clock import Clock
from edgetune.utils.metrics import Evaluation
from edgetune.utils.multi_label import evaluate_answers, is_multi_hot, log_sigmoid
from edgetune.utils.types import FloatArray, IntArray, StepCost

FEWEST_ROWS = 8
GROUP_RATE = 0.5
"""Share of the time left that one group of rows may take: the rest absorbs a stall of the machine."""


@dataclass(frozen=True)
class Scored:
    """Logits (n, C) of the encoder for some rows of a view, with their positions (n,)."""

    view: TokenView
    rows: IntArray
    logits: FloatArray

    def evaluation(self) -> Evaluation:
        """Return all figures for these rows; there must be at least one."""
        labels = self.view.labels[self.rows]
        answers = log_sigmoid(self.logits) if is_multi_hot(labels) else self.logits
        return evaluate_answers(answers, labels, self.view.label_names)


def score_in_time(
    backend: Backend,
    view: TokenView,
    clock: Clock,
    cost: StepCost,
    rng: np.random.Generator,
    stop: Callable[[], bool] = lambda: False,
    end_s: Callable[[], float] | None = None,
) -> Scored | None:
    """Score rows in random order until all are done, the time is up or `stop` says so.

    Arguments are as for `run_in_time`; `rng` decides the order, and by default scoring ends when evaluation
    must. Returns None if there was no time for any row.
    """
    run, order = partial(backend.score, keep=False), rng.permutation(len(view))
    found = run_in_time(run, view, order, clock, cost, stop, end_s or clock.evaluation_end_s)
    return None if found is None else Scored(view, *found)


def run_in_time(
    run: Callable[[Batch], FloatArray],
    view: TokenView,
    order: IntArray,
    clock: Clock,
    cost: StepCost,
    stop: Callable[[], bool],
    end_s: Callable[[], float],
    at_least: int = 0,
) -> tuple[IntArray, FloatArray] | None:
    """Run a forward pass over rows in a given order until all are done or the time is up.

    Rows are processed in groups, so that each group's batches are of nearly one length; a group is begun only
    if it should end in time.

    Args:
        run: takes a batch, returns an array (B, D).
        view: the rows.
        order: (N,) positions in the view.
        clock: learns how long it takes.
        cost: predicted seconds of a batch.
        stop: ends it with the rows done so far.
        end_s: returns when it must have ended.
        at_least: this many rows are done even if the time is up.

    Returns:
        Positions (n,) and values (n, D) of the rows that were done; None if there was no time for any.
    """
    values: list[FloatArray] = []
    reached: list[IntArray] = []
    done, n_batches, speed = 0, PROBE_BATCHES, clock.speed("score")
    while done < len(order) and not (stop() and done >= at_least):
        fits_s = (end_s() - clock.elapsed_s()) / speed.cautious
        rows = order[done : done + n_batches * EVALUATION_BATCH]
        n_fit = _rows_in(view, rows, GROUP_RATE * fits_s, cost)
        n_fit = n_fit or _rows_in(view, rows[:FEWEST_ROWS], fits_s, cost)
        rows = rows[: max(n_fit, at_least - done)]
        if not len(rows):
            break
        for batch in sequential_batches(view.subset(rows), EVALUATION_BATCH):
            started_s = clock.elapsed_s()
            values.append(run(batch))
            speed.observe(cost("score", len(batch), batch.width), clock.elapsed_s() - started_s)
            reached.append(view.positions[batch.rows])
        view.release()
        done += len(rows)
        n_batches = EVALUATION_BATCHES
    return (np.concatenate(reached), np.concatenate(values)) if values else None


def _rows_in(view: TokenSource, rows: IntArray, left_s: float, cost: StepCost) -> int:
    """Return how many of the rows to score next: all, half, a quarter …, as fit into `left_s` seconds."""
    n_rows = len(rows)
    while n_rows >= FEWEST_ROWS:
        if scored_s(view.lengths[rows[:n_rows]], cost) <= left_s:
            return n_rows
        n_rows //= 2
    return 0
