"""Linear scores of n-grams: one-against-rest SVMs, fitted exactly or by as many passes as time allows.

Their margins become probabilities: a logit is scale x margin + offset, with the same two numbers for all
classes. Where a text has one class, the sigmoids are divided by their sum. A softmax of the margins is too
certain where the largest is high, and not certain enough where all are low: on Ohsumed-23 (3,357 rows) it has
a calibration error of 0.081 and a log loss of 1.13 nats on test rows, the sigmoids 0.037 and 1.04.
"""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgetune.learners.ngrams.counting import MISSING, Matrix
from edgetune.utils.errors import MissingDependencyError
from edgetune.utils.metrics import cross_entropy, log_softmax
from edgetune.utils.multi_label import class_counts, is_multi_hot, log_sigmoid
from edgetune.utils.types import FloatArray, IntArray, Labels

# Fitting by dual coordinate descent
MOST_EXACT_ENTRIES = 10_000_000  # n-grams of all rows; liblinear has a copy with 16 bytes for each
EXACT_PASSES = 8  # at most; 15 are no better on six sets
MOST_TRIED, TRIAL_ROWS, LEAST_TRIED = 0.75, 6_000, 0.25  # of a first fit on some rows, for cost and scale
RECENT_CLASSES = 5  # whose fits tell how long the other classes will take
EXACT_CAUTION = 1.5  # times the cost that the trial predicts
EXACT_SCALE = 0.9  # of the scale of the trial: a fit on all rows has wider margins

# Fitting by stochastic gradient descent
MANY_ROWS = 30_000  # from where on noise costs more than slowness
C_FEW, ETA_FEW = 1.0, 0.5  # weight of the losses against the penalty, and learning rate
C_MANY, ETA_MANY = 0.7, 0.25
FEWEST_PASSES, MOST_PASSES, WANTED_STEPS = 6, 50, 30_000
FIRST_BLOCKS = 4  # of the first pass, at least
UNSEEN_SCORES = 200_000  # of rows predicted before they are learned, to set the scale
LATER_SCALE = 0.85  # of the scale of the first pass: later ones widen margins, more of them even more

# Making logits of margins
FEWEST_UNSEEN = 50  # rows that the scale is fitted on
USUAL_SCALE, USUAL_SCALE_OF_TWO = 6.0, 3.0  # means of the prior; of two classes or several labels
SCALE_SPREAD, OFFSET_SPREAD = 0.5, 1.5  # its standard deviations: of the scale's logarithm, of the offset

# What SGD costs where it was measured (Zen 3), nanoseconds
CALL_NS, ROW_NS, ENTRY_NS = 7e5, 300.0, 12.0  # of SGD, by class: a call, a row in it, an n-gram of the row
BLOCK_NS, CALL_SHARE = 1e8, 0.2  # of a call, and which share of it may be the call's own cost

PLANNED_PASSES = 3  # of SGD that rows leave time for; what a first fit is taken to cost
SPARE_SHARE = 0.05  # of the time left to the fit, for what comes after it
CAUTION = 2.0  # times what the last block took


@dataclass(frozen=True)
class ToLogits:
    """Turns the margins of SVMs into logits: scale x margin + offset."""

    scale: float
    offset: float


@dataclass(frozen=True)
class ExactFit:
    """What a fit on some more rows need not find out again.

    Attributes:
        to_logits: how margins become logits.
        trial_s: seconds of the fit on some of the rows by which this was found.
        fit_s: seconds of the fit on all rows.
    """

    to_logits: ToLogits
    trial_s: float
    fit_s: float


@dataclass(frozen=True)
class LinearScores:
    """What a solver found, as logits.

    Attributes:
        weights: (F, K) float32, of the K classes that have rows.
        intercept: (K,) float32.
        n_rows: that it was fitted on.
        exact: how an exact fit was made; None if there was no time for one.
    """

    weights: FloatArray
    intercept: FloatArray
    n_rows: int
    exact: ExactFit | None = None


def fit_scores(
    rows: Matrix,
    labels: Labels,
    n_seen: int,
    seed: int,
    time_left_s: Callable[[], float],
    before: ExactFit | None = None,
) -> LinearScores:
    """Fit scores that are logits: exactly where there is time, else by as many passes as there is time for.

    Args:
        rows: (n, F) TF-IDF, in a stratified order.
        labels: (n,) of 0 … n_seen - 1, or multi-hot (n, n_seen).
        n_seen: K.
        seed: of the order within a block.
        time_left_s: asked before every block.
        before: an exact fit on most of the rows, with the seconds that a fit would take now.
    """
    n, n_features = rows.shape
    several = is_multi_hot(labels)
    if (n_seen < 2 and not several) or not n_features:
        shares = class_counts(labels, n_seen) / n
        weights = np.zeros((n_features, n_seen), dtype=np.float32)
        odds = shares / np.maximum(1 - shares, 1 / (n + 1))
        return LinearScores(weights, np.log(odds).astype(np.float32), n)
    spare_s = SPARE_SHARE * time_left_s()
    exact, found = None, _fit_exactly(rows, labels, n_seen, seed, lambda: time_left_s() - spare_s, before)
    if found is None:
        solver, to_logits, n_rows = _fit_by_passes(rows, labels, n_seen, seed, time_left_s, spare_s)
    else:
        solver, exact = found
        to_logits, n_rows = exact.to_logits, n
    weights, intercept = solver.coef_.T, solver.intercept_
    if not several:
        weights, intercept = _both_margins(weights), _both_margins(intercept)
    weights, intercept = to_logits.scale * weights, to_logits.scale * intercept + to_logits.offset
    return LinearScores(weights.astype(np.float32), intercept.astype(np.float32), n_rows, exact)


def _fit_exactly(
    rows: Matrix,
    labels: Labels,
    n_seen: int,
    seed: int,
    time_left_s: Callable[[], float],
    before: ExactFit | None,
) -> tuple[Any, ExactFit] | None:
    """Fit SVMs by coordinate descent; arguments as of `fit_scores`.

    A trial on some of the rows tells what a fit on all costs; scale and offset of the logits are fitted on
    other rows. After an exact fit on most of the rows there is no trial. The fit of a class cannot be
    stopped. Under a deadline classes are therefore fitted one after the other, and the fit is given up as
    soon as there is not enough time for the remaining ones.

    Returns:
        The solver, and how it was fitted. None if time or memory does not suffice, or if a label belongs to
        all rows or to none.
    """
    n, several = len(labels), is_multi_hot(labels)
    n_trial = max(int(min(MOST_TRIED * n, max(LEAST_TRIED * n, TRIAL_ROWS))), n_seen)
    expected_s = PLANNED_PASSES * row_ns(rows.nnz / n, n_seen) * n_trial / 1e9
    if (
        rows.nnz > MOST_EXACT_ENTRIES
        or time_left_s() < CAUTION * expected_s
        or not _can_be_told_apart(labels)
    ):
        return None

    def fitted(some_rows: Matrix, some_labels: Labels, by_class: bool = several) -> Any:
        if not by_class:
            return _svm(n, seed).fit(some_rows, some_labels)
        wanted = some_labels if several else some_labels[:, None] == np.arange(n_seen)
        return _OneVersusRest([_svm(n, seed) for _ in range(n_seen)]).fit(some_rows, wanted, time_left_s)

    unseen, factor, trial_s = slice(n_trial, n_trial + UNSEEN_SCORES // n_seen + 1), 1.0, 0.0
    tried: list[tuple[FloatArray, Labels]] = []
    by_class = several or (n_seen > 2 and math.isfinite(time_left_s()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # liblinear's, that more passes would change something yet
        if before is not None:
            solver = None if time_left_s() < before.fit_s else fitted(rows, labels, by_class)
            return None if solver is None else (solver, before)
        if len(labels[unseen]) >= FEWEST_UNSEEN and _can_be_told_apart(labels[:n_trial]):
            started_s = time.monotonic()
            trial = fitted(rows[:n_trial], labels[:n_trial])
            if trial is None:
                return None
            trial_s = time.monotonic() - started_s
            if time_left_s() < EXACT_CAUTION * trial_s * n / n_trial:
                return None
            margins = rows[unseen] @ trial.coef_.T + trial.intercept_
            tried, factor = [(margins if several else _both_margins(margins), labels[unseen])], EXACT_SCALE
        started_s = time.monotonic()
        solver = fitted(rows, labels, by_class)
        fit_s = time.monotonic() - started_s
        if solver is None:
            return None
        return solver, ExactFit(fit_logits(tried, factor, n_seen, several), trial_s, fit_s)


def _can_be_told_apart(labels: Labels) -> bool:
    """Return whether each label of multi-hot ones (n, K) is in some rows and not in others.

    Class ids (n,) of a stratified order always can.
    """
    return labels.ndim == 1 or bool((labels.any(axis=0) & ~labels.all(axis=0)).all())


def _fit_by_passes(
    rows: Matrix, labels: Labels, n_seen: int, seed: int, time_left_s: Callable[[], float], spare_s: float
) -> tuple[Any, ToLogits, int]:
    """Fit SVMs by SGD until only `spare_s` of the time is left; other arguments as of `fit_scores`.

    Scale and offset of the logits are fitted on the last rows of the first pass, which are predicted before
    they are learned.

    Returns:
        The solver, how its margins become logits, and the number of rows.
    """
    n, several = len(labels), is_multi_hot(labels)
    solver = _OneVersusRest([_sgd(n, seed) for _ in range(n_seen)]) if several else _sgd(n, seed)
    classes = np.arange(n_seen)
    row_s, n_rows, n_steps = 0.0, 0, 0
    n_unseen, unseen = UNSEEN_SCORES // n_seen + 1, []
    for start, stop, first in _blocks(n, rows.nnz / n, n_seen):
        if n_rows and time_left_s() < spare_s + CAUTION * row_s * (stop - start):
            break
        started_s = time.monotonic()
        block = rows[start:stop]
        if first and start:
            last = block[-n_unseen:] @ solver.coef_.T + solver.intercept_
            unseen.append((start, last if several else _both_margins(last), labels[start:stop][-n_unseen:]))
        solver.partial_fit(block, labels[start:stop], classes=classes)
        n_rows, n_steps = max(n_rows, stop), n_steps + stop - start
        row_s = (time.monotonic() - started_s) / (stop - start)
    widened = math.pow(min(1.0, FEWEST_PASSES * n_rows / n_steps), 1 / 3)
    late = [(margins, wanted) for start, margins, wanted in unseen if start >= n_rows // 2]
    return solver, fit_logits(late, LATER_SCALE * widened, n_seen, several), n_rows


def _blocks(n: int, n_entries: float, n_seen: int) -> list[tuple[int, int, bool]]:
    """Return start and stop of the blocks of all passes, and whether it is the first pass.

    Args:
        n: rows.
        n_entries: n-grams of a row in the mean.
        n_seen: classes.
    """
    call_rows = CALL_NS / (ROW_NS + ENTRY_NS * n_entries)  # that cost as much as a call
    size = int(max(BLOCK_NS / row_ns(n_entries, n_seen), call_rows / CALL_SHARE, n_seen)) + 1
    first_size = min(size, max(n // FIRST_BLOCKS, n_seen, FEWEST_UNSEEN))
    n_passes = min(MOST_PASSES, max(FEWEST_PASSES, -(-WANTED_STEPS // n)))
    blocks = []
    for at in range(n_passes):
        n_parts = max(1, n // (size if at else first_size))
        edges = [n * part // n_parts for part in range(n_parts + 1)]  # equal, as each has the cost of a call
        blocks += [(start, stop, at == 0) for start, stop in itertools.pairwise(edges)]
    return blocks


def fit_logits(
    unseen: list[tuple[FloatArray, Labels]], factor: float, n_classes: int, several: bool
) -> ToLogits:
    """Fit the scale and the offset that turn margins into logits, by log loss with a normal prior.

    With fewer than `FEWEST_UNSEEN` rows, the means of the prior are returned. For two classes the offset is
    0, because their margins differ in the sign alone.

    Args:
        unseen: blocks of margins (n, K) and labels, of rows that the SVMs were not fitted on.
        factor: the scale is multiplied by it, because the final SVMs have wider margins.
        n_classes: K.
        several: whether a row may have several labels.
    """
    from scipy.optimize import minimize

    usual = math.log(USUAL_SCALE_OF_TWO if several or n_classes == 2 else USUAL_SCALE)
    if sum(len(labels) for _, labels in unseen) < FEWEST_UNSEEN:
        return ToLogits(factor * math.exp(usual), 0.0)
    margins, labels = (np.concatenate(parts) for parts in zip(*unseen, strict=True))
    wide = margins.astype(np.float64)
    wanted = labels > 0 if several else np.arange(n_classes) == labels[:, None]

    def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
        logits = math.exp(parameters[0]) * wide + parameters[1]
        log_p, share = log_shares(logits, several), np.exp(log_sigmoid(logits))
        slopes = share - wanted if several else (np.exp(log_p) - wanted) * (1 - share)
        total = cross_entropy(logits, labels).sum() * n_classes if several else -log_p[wanted].sum()
        off = (parameters[0] - usual) / SCALE_SPREAD, parameters[1] / OFFSET_SPREAD
        by_scale = math.exp(parameters[0]) * float((slopes * wide).sum()) + off[0] / SCALE_SPREAD
        by_offset = float(slopes.sum()) + off[1] / OFFSET_SPREAD
        total += (off[0] ** 2 + off[1] ** 2) / 2
        return total / len(wide), np.array([by_scale, by_offset]) / len(wide)

    offsets = (0.0, 0.0) if n_classes == 2 and not several else (None, None)
    found = minimize(loss, [usual, 0.0], jac=True, method="L-BFGS-B", bounds=[(None, None), offsets]).x
    return ToLogits(factor * math.exp(found[0]), float(found[1]))


def log_shares(logits: FloatArray, several: bool) -> FloatArray:
    """Return the logarithm (N, C) of sigmoids; where a row has one label, these are divided by their sum."""
    log_p = log_sigmoid(logits)
    return log_p if several else log_softmax(log_p)


def _both_margins(found: FloatArray) -> FloatArray:
    """Return the columns of both classes where a solver has one, that of the second."""
    return np.concatenate([-found, found], axis=-1) if found.shape[-1] == 1 else found


def row_ns(n_entries: float, n_seen: int) -> float:
    """Return what a row of a pass of SGD costs, without the calls."""
    return n_scores(n_seen) * (ROW_NS + ENTRY_NS * n_entries)


def n_scores(n_seen: int) -> int:
    """Return how many solvers are fitted: one for two classes."""
    return 1 if n_seen <= 2 else n_seen


def _sgd(n_rows: int, seed: int) -> Any:
    from sklearn.linear_model import SGDClassifier

    c, eta = (C_FEW, ETA_FEW) if n_rows < MANY_ROWS else (C_MANY, ETA_MANY)
    return SGDClassifier(
        loss="squared_hinge",
        alpha=1 / (c * max(n_rows, 10)),
        learning_rate="constant",
        eta0=eta,
        average=True,
        random_state=seed,
    )


def _svm(n_rows: int, seed: int) -> Any:
    from sklearn.svm import LinearSVC

    return LinearSVC(C=C_FEW if n_rows < MANY_ROWS else C_MANY, max_iter=EXACT_PASSES, random_state=seed)


class _OneVersusRest:
    """A solver for each class, fitted and read as one solver for all."""

    def __init__(self, solvers: Sequence[Any]) -> None:
        self._solvers = solvers

    def fit(self, rows: Matrix, labels: Labels, time_left_s: Callable[[], float]) -> _OneVersusRest | None:
        """Fit on multi-hot labels (n, K); return None once too little time is left for the other labels."""
        seconds: list[float] = []
        for solver, own in zip(self._solvers, labels.T, strict=True):
            recent = seconds[-RECENT_CLASSES:]
            if recent and time_left_s() < (len(labels.T) - len(seconds)) * sum(recent) / len(recent):
                return None
            before_s = time_left_s()
            solver.fit(rows, own.astype(np.int64))
            seconds.append(before_s - time_left_s())
        return self

    def partial_fit(self, rows: Matrix, labels: Labels, classes: IntArray) -> None:
        """Fit on more rows with multi-hot labels (n, K)."""
        for solver, own in zip(self._solvers, labels.T, strict=True):
            solver.partial_fit(rows, own.astype(np.int64), classes=(0, 1))

    @property
    def coef_(self) -> FloatArray:
        """(K, F)."""
        return np.concatenate([solver.coef_ for solver in self._solvers])

    @property
    def intercept_(self) -> FloatArray:
        """(K,)."""
        return np.concatenate([solver.intercept_ for solver in self._solvers])


def import_solvers() -> None:
    """Import scikit-learn's solvers.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    try:
        import sklearn.linear_model
        import sklearn.svm  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(MISSING) from error
