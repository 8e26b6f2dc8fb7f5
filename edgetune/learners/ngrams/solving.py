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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgetune.learners.ngrams.counting import MISSING, Matrix, scipy_sparse, squared_lengths
from edgetune.utils.errors import MissingDependencyError
from edgetune.utils.metrics import cross_entropy, log_softmax
from edgetune.utils.multi_label import class_counts, is_multi_hot, log_sigmoid
from edgetune.utils.types import FloatArray, IntArray, Labels

# Fitting by dual coordinate descent
MOST_EXACT_ENTRIES = 10_000_000  # n-grams of all rows; liblinear has a copy with 16 bytes for each
EXACT_PASSES = 8  # at most; 15 are no better on six sets
TRIAL_ROWS = 6_000  # that a trial is fitted on, to predict cost and scale of the whole fit
LEAST_TRIED, MOST_TRIED = 0.25, 0.75  # bounds of the same as shares of all rows
MOST_COMPARED = 8  # classes, the most frequent ones, on which weighted and plain features are compared
ROWS_AT_ONCE = 10_000  # whose n-grams are counted by class, or whose margins are computed, together
RECENT_CLASSES = 5  # whose fits tell how long the other classes will take
EXACT_CAUTION = 1.5  # times the cost that the trial predicts
EXACT_SCALE = 0.9  # of the scale of the trial: a fit on all rows has wider margins

# Fitting by stochastic gradient descent
MANY_ROWS = 30_000  # from where on noise costs more than slowness
C_FEW, ETA_FEW = 1.0, 0.5  # weight of the losses against the penalty, and learning rate
C_MANY, ETA_MANY = 0.7, 0.25
MOST_STEP = 0.75  # learning rate times squared length of a row: from 1 on, contradicting rows diverge
FEWEST_PASSES, MOST_PASSES, WANTED_STEPS = 6, 50, 30_000
FIRST_BLOCKS = 4  # of the first pass, at least
UNSEEN_SCORES = 200_000  # of rows predicted before they are learned, to set the scale
LATER_SCALE = 0.85  # of the scale of the first pass: later ones widen margins, more of them even more

# Making logits of margins
FEWEST_UNSEEN = 50  # rows that the scale is fitted on
USUAL_SCALE, USUAL_SCALE_OF_TWO = 6.0, 3.0  # means of the prior; the second for two classes or multi-label
SCALE_SPREAD, OFFSET_SPREAD = 0.5, 1.5  # its standard deviations: of the scale's logarithm, of the offset

# What SGD costs where it was measured (Zen 3), nanoseconds
CALL_NS, ROW_NS, ENTRY_NS = 7e5, 300.0, 12.0  # of SGD, by class: a call, a row in it, an n-gram of the row
BLOCK_NS, CALL_SHARE = 1e8, 0.2  # of a call, and which share of it may be the call's own cost

PLANNED_PASSES = 3  # of SGD that rows leave time for; what a first fit is taken to cost
SPARE_SHARE = 0.05  # of the time left to the fit, for what comes after it
CAUTION = 2.0  # a block or a trial is begun only if this many times its expected seconds are left


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
        weighted: whether the features are weighted (`FeatureWeights`).
        trial_s: seconds of the fits on some of the rows by which this was found.
        fit_s: seconds of the fit on all rows.
    """

    to_logits: ToLogits
    weighted: bool
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
        time_left_s: asked before the trial, before the SVM of each class, and before every block.
        before: an exact fit on most of the rows, with the seconds that a fit would take now.
    """
    n, n_features = rows.shape
    several = is_multi_hot(labels)
    if (n_seen < 2 and not several) or not n_features:
        shares = class_counts(labels, n_seen) / n
        weights = np.zeros((n_features, n_seen), dtype=np.float32)
        odds = shares / np.maximum(1 - shares, 1 / (n + 1))
        return LinearScores(weights, np.log(odds).astype(np.float32), n)
    given_s = time_left_s()
    spare_s = SPARE_SHARE * given_s if math.isfinite(given_s) else 0.0

    def left_s() -> float:
        return time_left_s() - spare_s

    known = _try(rows, labels, n_seen, seed, left_s) if before is None else before
    svms, exact, to_logits, n_rows = None, None, known.to_logits, n
    if rows.nnz <= MOST_EXACT_ENTRIES and _can_be_told_apart(labels) and left_s() >= known.fit_s:
        started_s = time.monotonic()
        svms = _fit_exactly(rows, labels, n_seen, n, seed, known.weighted, left_s)
        exact = replace(known, fit_s=time.monotonic() - started_s)
    if svms is None:
        exact = None
        svms, to_logits, n_rows = _fit_by_passes(rows, labels, n_seen, seed, known.weighted, left_s)
    return LinearScores(*svms.as_logits(to_logits), n_rows, exact)


def _try(rows: Matrix, labels: Labels, n_seen: int, seed: int, time_left_s: Callable[[], float]) -> ExactFit:
    """Fit on some of the rows, to know how to fit on all of them; arguments as of `fit_scores`.

    The log loss on other rows says whether to weight the features and what turns margins into logits; the
    time, with a factor of caution, says what a fit on all rows will cost. If there are too few rows for a
    trial, the usual scale and cost are returned; if there is no time for one, `fit_s` is infinite.
    """
    n, several = len(labels), is_multi_hot(labels)
    least = LEAST_TRIED * n if rows.nnz <= MOST_EXACT_ENTRIES else 0.0
    n_trial = max(int(min(MOST_TRIED * n, max(least, TRIAL_ROWS))), n_seen)
    expected_s = PLANNED_PASSES * row_ns(rows.nnz / n, n_seen) * n_trial / 1e9
    unseen = slice(n_trial, n_trial + UNSEEN_SCORES // n_seen + 1)
    usual, _ = fit_logits([], 1.0, n_seen, several)
    if len(labels[unseen]) < FEWEST_UNSEEN or not _can_be_told_apart(labels[:n_trial]):
        return ExactFit(usual, False, 0.0, CAUTION * expected_s)
    untried, started_s = ExactFit(usual, False, 0.0, math.inf), time.monotonic()

    def tried(wanted: Labels, n_classes: int, weighted: bool) -> tuple[float, ExactFit]:
        """Return the log loss and the fit, also for some classes alone."""
        begun_s, independent = time.monotonic(), is_multi_hot(wanted)
        part = _some(rows, slice(n_trial)), wanted[:n_trial]
        svms = _fit_exactly(*part, n_classes, n, seed, weighted, time_left_s)
        if svms is None:
            return math.inf, untried
        took_s = (time.monotonic() - begun_s) * n_scores(n_seen) / n_scores(n_classes)
        margins = [(svms.margins(_some(rows, unseen)), wanted[unseen])]
        to_logits, loss = fit_logits(margins, EXACT_SCALE, n_classes, independent)
        return loss, ExactFit(to_logits, weighted, 0.0, EXACT_CAUTION * took_s * n / n_trial)

    if time_left_s() < CAUTION * expected_s:
        return untried
    known = labels[: unseen.stop]  # those of the trial: of millions of rows, several columns are large
    some, n_some = known, n_seen
    if n_seen > MOST_COMPARED:
        frequent = np.argsort(-class_counts(labels[:n_trial], n_seen), kind="stable")[:MOST_COMPARED]
        some, n_some = known[:, frequent] if several else (known[:, None] == frequent) * 1, MOST_COMPARED
    loss, found = tried(some, n_some, weighted=False)
    if time_left_s() >= 2 * found.fit_s:
        found = min((loss, found), tried(some, n_some, weighted=True), key=lambda one: one[0])[1]
    may_be_exact = rows.nnz <= MOST_EXACT_ENTRIES and time_left_s() >= found.fit_s / EXACT_CAUTION
    if n_some < n_seen and may_be_exact:  # else nothing depends on the scale for all classes
        _, of_all = tried(known, n_seen, found.weighted)
        found = replace(of_all, weighted=found.weighted)
    return replace(found, trial_s=time.monotonic() - started_s)


def _fit_exactly(
    rows: Matrix,
    labels: Labels,
    n_seen: int,
    n: int,
    seed: int,
    weighted: bool,
    time_left_s: Callable[[], float],
) -> OneVersusRest | None:
    """Fit SVMs by coordinate descent; None if the time does not suffice for all classes.

    Arguments are those of `fit_scores`, and two more: `n`, the number of rows of the whole fit, which sets
    the penalty, and `weighted`, whether the features are.
    """
    svms = OneVersusRest(rows, labels, n_seen, lambda: _svm(n, seed), weighted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # liblinear's, that more passes would change something yet
        return svms if svms.fit(rows, labels, time_left_s) else None


def _can_be_told_apart(labels: Labels) -> bool:
    """Return whether each label of multi-hot ones (n, K) is in some rows and not in others.

    Class ids (n,) of a stratified order always can.
    """
    return labels.ndim == 1 or bool((labels.any(axis=0) & ~labels.all(axis=0)).all())


def _fit_by_passes(
    rows: Matrix,
    labels: Labels,
    n_seen: int,
    seed: int,
    weighted: bool,
    time_left_s: Callable[[], float],
) -> tuple[OneVersusRest, ToLogits, int]:
    """Fit SVMs by SGD until the time is up; arguments as of `_fit_exactly`.

    Scale and offset of the logits are fitted on rows of the second half of the first pass, the last ones of
    each block, which are predicted before they are learned.

    Returns:
        The SVMs, how their margins become logits, and the number of rows.
    """
    n = len(labels)
    svms = OneVersusRest(rows, labels, n_seen, lambda: _sgd(n, seed), weighted)
    row_s, n_rows, n_steps = 0.0, 0, 0
    n_unseen, unseen = UNSEEN_SCORES // n_seen + 1, []
    for start, stop, first in _blocks(n, rows.nnz / n, n_seen):
        if n_rows and time_left_s() < CAUTION * row_s * (stop - start):
            break
        started_s = time.monotonic()
        block, wanted = rows[start:stop], labels[start:stop]
        if first and start:
            unseen.append((start, svms.margins(block[-n_unseen:]), wanted[-n_unseen:]))
        svms.partial_fit(block, wanted)
        n_rows, n_steps = max(n_rows, stop), n_steps + stop - start
        row_s = (time.monotonic() - started_s) / (stop - start)
    widened = math.pow(min(1.0, FEWEST_PASSES * n_rows / n_steps), 1 / 3)
    late = [(margins, wanted) for start, margins, wanted in unseen if start >= n_rows // 2]
    to_logits, _ = fit_logits(late, LATER_SCALE * widened, n_seen, is_multi_hot(labels))
    return svms, to_logits, n_rows


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
) -> tuple[ToLogits, float]:
    """Fit the scale and the offset that turn margins into logits, by log loss with a normal prior.

    With fewer than `FEWEST_UNSEEN` rows, the means of the prior are returned. For two classes the offset is
    0, because their margins differ in the sign alone.

    Args:
        unseen: blocks of margins (n, K) and labels, of rows that the SVMs were not fitted on.
        factor: the scale is multiplied by it, because the final SVMs have wider margins.
        n_classes: K.
        several: whether a row may have several labels.

    Returns:
        Scale and offset, and the log loss of these rows, prior included, before `factor` is applied.
    """
    from scipy.optimize import minimize

    usual = math.log(USUAL_SCALE_OF_TWO if several or n_classes == 2 else USUAL_SCALE)
    if sum(len(labels) for _, labels in unseen) < FEWEST_UNSEEN:
        return ToLogits(factor * math.exp(usual), 0.0), math.inf
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
    found = minimize(loss, [usual, 0.0], jac=True, method="L-BFGS-B", bounds=[(None, None), offsets])
    return ToLogits(factor * math.exp(found.x[0]), float(found.x[1])), float(found.fun)


def log_shares(logits: FloatArray, several: bool) -> FloatArray:
    """Return the logarithm (N, C) of sigmoids; where a row has one label, these are divided by their sum."""
    log_p = log_sigmoid(logits)
    return log_p if several else log_softmax(log_p)


def row_ns(n_entries: float, n_seen: int) -> float:
    """Return what a row of a pass of SGD costs, without the calls."""
    return n_scores(n_seen) * (ROW_NS + ENTRY_NS * n_entries)


def n_scores(n_seen: int) -> int:
    """Return how many SVMs are fitted, as far as costs go: one for two classes (or for two labels)."""
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


class FeatureWeights:
    """By what the features of a class are multiplied before its SVM is fitted (Wang and Manning 2012).

    The weight of a feature is, in equal parts, 1 and |log(p / q)| relative to its mean over the features,
    where p is the share of the feature among the n-grams of the class's rows, and q that among all others.
    They are scaled so that the mean squared length of the rows is 1. SVMs of long texts gain (3.8 points
    on Ohsumed-23), those of many classes on a few words lose (0.9 on CLINC150), so a trial decides.
    """

    def __init__(self, rows: Matrix, labels: Labels, n_seen: int) -> None:
        """Count the rows (n, F) that have each feature, by class; labels as of `fit_scores`."""
        sparse = scipy_sparse()
        n, n_features = rows.shape
        self._own = sparse.csr_matrix((n_seen, n_features), dtype=np.float32)
        self._squares = np.zeros(n_features)
        self._all = np.zeros(n_features)
        for start in range(0, n, ROWS_AT_ONCE):
            some, own = rows[start : start + ROWS_AT_ONCE], labels[start : start + ROWS_AT_ONCE]
            members = own if is_multi_hot(own) else np.arange(n_seen) == own[:, None]
            present = sparse.csr_matrix((np.ones_like(some.data), some.indices, some.indptr), some.shape)
            self._own += sparse.csr_matrix(members.T, dtype=np.float32) @ present
            self._squares += np.bincount(some.indices, some.data.astype(np.float64) ** 2 / n, n_features)
            self._all += np.bincount(some.indices, minlength=n_features)

    def of(self, number: int) -> FloatArray:
        """Return the weights (F,) of the class with this number."""
        own = self._own[number].toarray().ravel().astype(np.float64)
        have, others_have = own + 1, self._all - own + 1  # one row more, so that no share is 0
        ratios = np.abs(np.log(have / have.sum()) - np.log(others_have / others_have.sum()))
        weights = 1 + ratios / max(float(ratios.mean()), np.finfo(np.float32).tiny)
        found: FloatArray = weights / np.sqrt(self._squares @ weights**2)
        return found.astype(np.float32)


class OneVersusRest:
    """SVMs, one for each class (a single one for two classes), fitted and read together."""

    def __init__(
        self, rows: Matrix, labels: Labels, n_seen: int, make: Callable[[], Any], weighted: bool
    ) -> None:
        """Prepare SVMs that `make` makes, and the weights of the features by all rows and labels."""
        self._is_one = n_seen == 2 and not is_multi_hot(labels)
        self._numbers = [1] if self._is_one else [*range(n_seen)]
        self._svms = [make() for _ in self._numbers]
        weights = FeatureWeights(rows, labels, n_seen) if weighted else None
        self._weights = [None if weights is None else weights.of(number) for number in self._numbers]

    def fit(self, rows: Matrix, labels: Labels, time_left_s: Callable[[], float]) -> bool:
        """Fit one SVM after the other; return False once too little time is left for those that remain."""
        seconds: list[float] = []
        for at, svm in enumerate(self._svms):
            recent = seconds[-RECENT_CLASSES:]
            if recent and time_left_s() < (len(self._svms) - at) * sum(recent) / len(recent):
                return False
            before_s = time_left_s()
            svm.fit(*self._own(rows, labels, at))
            seconds.append(before_s - time_left_s())
        return True

    def partial_fit(self, rows: Matrix, labels: Labels) -> None:
        """Fit on more rows; weighted ones that are too long for the solver's learning rate are shortened."""
        for at, svm in enumerate(self._svms):
            own, wanted = self._own(rows, labels, at)
            if self._weights[at] is not None:
                _shorten(own, MOST_STEP / svm.eta0)
            svm.partial_fit(own, wanted, classes=(0, 1))

    def _own(self, rows: Matrix, labels: Labels, at: int) -> tuple[Matrix, IntArray]:
        """Return the rows as an SVM sees them, and which of them (n,) are of its class."""
        number, weights = self._numbers[at], self._weights[at]
        wanted = labels[:, number] > 0 if is_multi_hot(labels) else labels == number
        if weights is not None:
            entries = (rows.data * weights[rows.indices], rows.indices, rows.indptr)
            rows = scipy_sparse().csr_matrix(entries, shape=rows.shape)
        return rows, wanted.astype(np.int64)

    def margins(self, rows: Matrix) -> FloatArray:
        """Return the margins (n, K) of rows (n, F)."""
        starts = range(0, rows.shape[0], ROWS_AT_ONCE)  # as entries in float64 are made for each product
        parts = [_some(rows, slice(start, start + ROWS_AT_ONCE)) for start in starts]
        own = [np.concatenate([part @ one for part in parts]) + intercept for one, intercept in self._found()]
        return np.stack([-own[0], own[0]] if self._is_one else own, axis=1)

    def as_logits(self, to_logits: ToLogits) -> tuple[FloatArray, FloatArray]:
        """Return weights (F, K) and intercepts (K,) whose margins are logits, both float32."""
        columns: list[FloatArray] = []
        intercepts: list[float] = []
        for weights, intercept in self._found():  # one after the other: there may be millions of features
            for sign in (-1, 1) if self._is_one else (1,):
                columns.append((sign * to_logits.scale * weights).astype(np.float32))
                intercepts.append(sign * to_logits.scale * intercept + to_logits.offset)
        return np.stack(columns, axis=1), np.array(intercepts, dtype=np.float32)

    def _found(self) -> Iterator[tuple[FloatArray, float]]:
        """Yield the weights (F,) and the intercept of each SVM."""
        for svm, weights in zip(self._svms, self._weights, strict=True):
            own = svm.coef_[0]
            yield own if weights is None else own * weights, float(svm.intercept_[0])


def _some(rows: Matrix, span: slice) -> Matrix:
    """Return consecutive rows, whose entries are not copied."""
    start, stop, _ = span.indices(rows.shape[0])
    starts = rows.indptr[start : stop + 1]
    entries = slice(starts[0], starts[-1])
    found = scipy_sparse().csr_matrix((stop - start, rows.shape[1]), dtype=rows.dtype)
    found.data, found.indices = rows.data[entries], rows.indices[entries]  # the constructor would copy them
    found.indptr = starts - starts[0]
    return found


def _shorten(rows: Matrix, most: float) -> None:
    """Shorten rows whose squared length is above `most`, in place."""
    numbers, squares = squared_lengths(rows)
    rows.data *= np.sqrt(most / np.maximum(squares, most)).astype(np.float32)[numbers]


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
