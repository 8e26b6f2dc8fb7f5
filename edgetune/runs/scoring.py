"""Forward passes under a clock: as many rows as there is time for; and which of two encoders did better."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from edgetune.backends.backend_contract import Backend
from edgetune.data.batches import Batch, TokenSource, sequential_batches
from edgetune.data.token_store import TokenView
from edgetune.inference.saved_ensemble import ENCODER
from edgetune.learners.ensemble import fit_ensemble
from edgetune.planning.candidate import EVALUATION_BATCH, EVALUATION_BATCHES, PROBE_BATCHES, scored_s
from edgetune.runs.deadline import Deadline
from edgetune.utils.metrics import Evaluation, cross_entropy
from edgetune.utils.multi_label import (
    evaluate_answers,
    is_multi_hot,
    log_odds,
    log_probabilities,
    log_sigmoid,
)
from edgetune.utils.types import FloatArray, IntArray, Labels, StepCost

FEWEST_ROWS = 8
FEWEST_WEIGHED = 20
"""The encoder takes part only if it was scored on this many held-out rows, or on all of them."""
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

    @property
    def has_enough_rows(self) -> bool:
        """Whether these are enough of the rows to fit the encoder's weight."""
        return len(self.rows) >= min(FEWEST_WEIGHED, len(self.view))


def score_in_time(
    backend: Backend,
    view: TokenView,
    order: IntArray,
    deadline: Deadline,
    stop: Callable[[], bool],
    end_s: Callable[[], float],
) -> Scored | None:
    """Score rows until all are done or the time is up, as `run_in_time`; None if no row was done."""
    score = partial(backend.score, keep=False)  # evaluation rows must not crowd the cache
    found = run_in_time(score, view, order, deadline, stop, end_s)
    return None if found is None else Scored(view, *found)


def run_in_time(
    run: Callable[[Batch], FloatArray],
    view: TokenView,
    order: IntArray,
    deadline: Deadline,
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
        deadline: predicts how long a batch takes, and learns it.
        stop: ends it with the rows done so far.
        end_s: returns when it must have ended.
        at_least: this many rows are done even if the time is up.

    Returns:
        Positions (n,) and values (n, D) of the rows that were done; None if there was no time for any.
    """
    values: list[FloatArray] = []
    reached: list[IntArray] = []
    clock, cost, speed = deadline.clock, deadline.cost, deadline.clock.speed("score")
    done, n_batches = 0, PROBE_BATCHES
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


def is_better(one: Scored | None, other: Scored | None, errors: float = 0.0) -> bool:
    """Return whether one encoder or head has a smaller log loss on held-out rows than another.

    Each is taken at the temperature that suits it best; None was not scored. The n-grams take no part: if
    held-out rows repeat phrases of training rows, as in SST-2, they are right on nearly all of them, and the
    ensemble hardly depends on the encoder. The first is also better if there was no time to score the other
    on enough rows. `errors` are standard errors of the mean difference by which the loss must be smaller.
    """
    if one is None:
        return False
    if other is None or not np.isfinite(other.logits).all():
        return True
    rows, of_other, of_one = np.intersect1d(other.rows, one.rows, return_indices=True)
    if len(rows) < min(FEWEST_WEIGHED, len(other.view)):
        return True
    labels = other.view.labels[rows]
    more = _calibrated_losses(other.logits[of_other], labels)
    more -= _calibrated_losses(one.logits[of_one], labels)
    return bool(more.mean() > errors * more.std() / math.sqrt(len(rows)))


def _calibrated_losses(logits: FloatArray, labels: Labels) -> FloatArray:
    """Return the log losses (N,) in nats of logits (N, C) at the temperature that suits these rows."""
    log_probas = {ENCODER: log_probabilities(logits, is_multi_hot(labels))}
    ensemble, _ = fit_ensemble(log_probas, labels)
    combined = ensemble.combine(log_probas)
    return cross_entropy(log_odds(combined) if ensemble.multi_label else combined, labels)
