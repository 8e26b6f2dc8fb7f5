"""TF-IDF and logistic regression, without any encoder.

What: scikit-learn's TfidfVectorizer over words and word pairs (sublinear term counts, only terms that
    occur in two rows or more if there are any) and LogisticRegression, as most people write them; the two
    texts of a pair are joined by a space. The time of a fit is not known in advance, so under a deadline it
    is fitted on more and more rows while the next fit is expected to end in time; the last model is kept.
Use when: the words alone determine the label (topics, spam, routing of tickets), there are thousands of
    rows, and a model of a few MB that predicts in microseconds matters more than the last points of accuracy.
Costs: seconds for tens of thousands of rows, on one core: scikit-learn's sparse solver has no threads.
    Memory grows with the number of different word pairs.
Loses when: there are few rows, word order or negation matters (sentiment, entailment), the texts of a
    pair must be compared, or words have spellings that did not occur in training.
Source: Salton and Buckley, Term-weighting approaches in automatic text retrieval, 1988; Pedregosa et
    al., Scikit-learn, JMLR 2011.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from edgetune.compare.baselines import Baseline
from edgetune.compare.baselines.task import BaselineClock, BaselineTask, Fitted, Texts, TrainRows
from edgetune.utils.errors import DataError
from edgetune.utils.types import IntArray

FIRST_ROWS = 2_000  # of the first of several fits under a deadline
GROWTH = 8  # the next fit has so many times the rows at most, since its time is only guessed
LEAST_GROWTH = 1.5  # fewer more rows are not worth a fit
CAUTION = 2.0  # a fit on more rows takes more time per row: more words, more iterations
MAX_ITERATIONS = 1_000  # of the solver; its default of 100 often ends in a warning
SAVE_S = 1.0


def fit(task: BaselineTask, rows: TrainRows, watch: BaselineClock) -> Fitted:
    """Train and save `model.joblib`, a scikit-learn pipeline."""
    with watch.meter.phase("open"):
        import joblib
        import sklearn.feature_extraction.text
        import sklearn.linear_model
        import sklearn.pipeline  # noqa: F401  # imported here so that the first fit is not charged for it
    if watch.left_s(SAVE_S) <= 0:
        raise watch.out_of_time_error()
    sizes: list[int] = []
    more: int | None = min(len(rows), FIRST_ROWS) if watch.limited else len(rows)
    with watch.meter.phase("train"):
        while more is not None:
            sizes.append(more)
            started_s = watch.meter.elapsed_s()
            pipeline = _pipeline(rows.sample(more), task.seed)
            took_s = watch.meter.elapsed_s() - started_s
            more = next_size(more, len(rows), took_s, watch.left_s(SAVE_S))
    with watch.meter.phase("save"):
        joblib.dump(pipeline, task.out / "model.joblib")

    def predict(texts: Texts) -> IntArray:
        return np.asarray(pipeline.predict(texts.joined()), dtype=np.int64)

    return Fitted(predict, sizes[-1], sizes[-1], _notes(pipeline, sizes, len(rows), watch))


def next_size(n_rows: int, n_all: int, took_s: float, left_s: float) -> int | None:
    """Return how many of all rows the next fit should have; None: there is no time for one that is worth it.

    The last fit had `n_rows` and took `took_s`; `left_s` are left for the next.
    """
    if n_rows >= n_all or left_s <= 0:
        return None
    that_fit = n_rows * left_s / (CAUTION * max(took_s, 1e-3))
    more = int(min(n_all, GROWTH * n_rows, that_fit))
    return more if more == n_all or more >= LEAST_GROWTH * n_rows else None


def _pipeline(rows: TrainRows, seed: int) -> Any:
    """Fit the vectorizer, on terms of two rows or more if there are any, and the classifier."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts = rows.texts.joined()
    for min_df in (2, 1):
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=min_df)
        with contextlib.suppress(ValueError):  # no term is left
            vectors = vectorizer.fit_transform(texts)
            break
    else:
        raise DataError(
            f"tfidf-logreg found no word of two letters or more in {len(texts):,} training texts; it cannot "
            "use them."
        )
    classifier = LogisticRegression(max_iter=MAX_ITERATIONS, random_state=seed)
    return make_pipeline(vectorizer, classifier.fit(vectors, rows.labels))


def _notes(pipeline: Any, sizes: list[int], n_all: int, watch: BaselineClock) -> tuple[str, ...]:
    vectorizer, classifier = pipeline[0], pipeline[-1]
    n_iterations = int(np.max(classifier.n_iter_))
    notes = [
        f"TF-IDF of words and word pairs (min_df {vectorizer.min_df}, "
        f"{len(vectorizer.vocabulary_):,} terms), "
        f"then logistic regression with C=1 ({n_iterations:,} iterations); every row counts once."
    ]
    if n_iterations >= MAX_ITERATIONS:
        notes.append("The solver did not converge within its iteration limit.")
    if watch.limited:
        earlier = ", ".join(f"{size:,}" for size in sizes[:-1])
        before = f" after fits on {earlier} rows, which gave an estimate of its time" if earlier else ""
        rest = "all rows" if sizes[-1] == n_all else f"{sizes[-1]:,} of {n_all:,} rows, a random sample"
        notes.append(
            "scikit-learn has no deadline of its own; edgetune adds one: the model was fitted on "
            f"{rest}{before}."
        )
    return tuple(notes)


BASELINE = Baseline(
    "tfidf-logreg",
    "TF-IDF of words and word pairs, and logistic regression (scikit-learn)",
    ("scikit-learn",),
    fit,
)
