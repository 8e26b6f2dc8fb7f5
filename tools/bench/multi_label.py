"""Several labels a row: `edgetune finetune` beside one-versus-rest logistic regression on TF-IDF of n-grams.

Both choose a threshold for each class on held-out rows, in the same way; the rival has all the time it needs.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from edgetune import finetune, load_run
from edgetune.data.examples import DataOptions, read_examples
from edgetune.utils.multi_label import MultiLabelEvaluation, choose_thresholds, evaluate_answers, multi_hot

HELD_OUT, C = 1000, 5.0


def main(arguments: argparse.Namespace) -> None:
    out = arguments.out / "multi-label"
    if arguments.data is None or arguments.eval is None:
        raise SystemExit("Give --data and --eval: text with several labels a row.")
    for seconds in arguments.deadlines or [60]:
        started_s = time.monotonic()
        finetune(arguments.data, eval=arguments.eval, deadline=f"{seconds}s", out=out, overwrite=True)
        _say(f"edgetune, {seconds} s", load_run(out).evaluate(arguments.eval), started_s)
    started_s = time.monotonic()
    _say("logistic regression", _logistic_regression(arguments.data, arguments.eval), started_s)


def _say(system: str, found: Any, started_s: float) -> None:
    assert isinstance(found, MultiLabelEvaluation)
    print(
        f"{system:<24} micro-F1 {found.micro_f1:.4f}  macro-F1 {found.macro_f1:.4f}  subset accuracy "
        f"{found.accuracy:.4f}  {time.monotonic() - started_s:.0f} s"
    )


def _logistic_regression(train: str, test: str) -> Any:
    texts, rows = _read(train)
    names = sorted({label for labels in rows for label in labels})
    labels = _multi_hot(rows, names)
    fitted, held_out = np.split(np.random.default_rng(0).permutation(len(texts)), [-HELD_OUT])
    features = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    inputs = features.fit_transform([texts[row] for row in fitted])
    model = OneVsRestClassifier(LogisticRegression(C=C, max_iter=1000)).fit(inputs, labels[fitted])
    others = model.predict_proba(features.transform([texts[row] for row in held_out]))
    thresholds = choose_thresholds(others, labels[held_out]).tolist()
    texts, rows = _read(test)
    answers = np.log(model.predict_proba(features.transform(texts)))
    return evaluate_answers(answers, _multi_hot(rows, names), names, thresholds)


def _read(path: str) -> tuple[list[str], list[tuple[str, ...]]]:
    examples = list(read_examples(path, DataOptions(multi_label=True), lambda bad: None))
    return [example.text for example in examples], [example.labels for example in examples]


def _multi_hot(rows: list[tuple[str, ...]], names: list[str]) -> Any:
    return multi_hot(
        [[names.index(label) for label in labels if label in names] for labels in rows], len(names)
    )
