"""Rivals that edgetune does not know; run by `frontier.py`, each in an environment that has it.

    python frontier_rivals.py SYSTEM TRAIN.jsonl TEST.jsonl OUT DEADLINE_S SEED

linear-svm needs scikit-learn, fasttext fasttext-wheel, autogluon autogluon.tabular. Nothing of edgetune is
imported. Each writes `answer.json`: seconds from the start of the process to the fitted model, and the
predicted labels.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STARTED = time.time()
Rows = list[dict[str, str]]
Predict = Callable[[Rows], list[str]]

CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff]")
CJK_SHARE = 0.3
FASTTEXT_LAST_S = 3.0  # autotuning ends with one more fit
AUTOGLUON_LAST_S = 2.0


def main(system: str, train: str, test: str, out: str, deadline_s: str, seed: str) -> None:
    rows = _read(train)
    predict, notes = FITS[system](rows, float(deadline_s), int(seed), Path(out))
    seconds = time.time() - STARTED
    answer = {"seconds": seconds, "predicted": predict(_read(test)), "notes": notes}
    (Path(out) / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


def _read(path: str) -> Rows:
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _joined(rows: Rows) -> list[str]:
    return [f"{row['text']} {row.get('text_pair', '')}".strip() for row in rows]


def _without_spaces(texts: list[str]) -> bool:
    """Return whether a language is written without spaces, by its Chinese and Japanese characters."""
    sample = "".join(texts[:1000])
    return len(CJK.findall(sample)) > CJK_SHARE * max(1, len(sample))


def fit_linear_svm(rows: Rows, deadline_s: float, seed: int, out: Path) -> tuple[Predict, list[str]]:
    """Word 1–2-grams (characters 1–3 where there are no spaces), TF-IDF, LinearSVC; it has no deadline."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    texts = _joined(rows)
    words = {"token_pattern": r"(?u)\b\w+\b|[!?]", "ngram_range": (1, 2)}
    characters = {"analyzer": "char", "ngram_range": (1, 3)}
    chosen: dict[str, Any] = characters if _without_spaces(texts) else words
    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2, **chosen)
    model = make_pipeline(vectorizer, LinearSVC(C=0.5, random_state=seed))
    model.fit(texts, [row["label"] for row in rows])
    return (lambda asked: [str(label) for label in model.predict(_joined(asked))]), []


def fit_fasttext(rows: Rows, deadline_s: float, seed: int, out: Path) -> tuple[Predict, list[str]]:
    """fastText, autotuned on a tenth of the rows for the time there is."""
    import random

    import fasttext

    texts = [_words(text) for text in _joined(rows)]
    names = sorted({row["label"] for row in rows})
    ids = {name: number for number, name in enumerate(names)}
    lines = [f"__label__{ids[row['label']]} {text}" for row, text in zip(rows, texts, strict=True)]
    random.Random(seed).shuffle(lines)
    n_valid = max(1, len(lines) // 10)
    valid, train = out / "valid.txt", out / "train.txt"
    valid.write_text("\n".join(lines[:n_valid]) + "\n", encoding="utf-8")
    train.write_text("\n".join(lines[n_valid:]) + "\n", encoding="utf-8")
    left_s = max(2, int(deadline_s - (time.time() - STARTED) - FASTTEXT_LAST_S))
    model = fasttext.train_supervised(
        str(train), autotuneValidationFile=str(valid), autotuneDuration=left_s, thread=2, verbose=0, seed=seed
    )

    def predict(asked: Rows) -> list[str]:
        asked_texts = [_words(text) for text in _joined(asked)]
        # The array that model.predict makes needs an older numpy; its C++ part below it does not.
        found = model.f.multilinePredict([text + "\n" for text in asked_texts], 1, 0.0, "strict")
        return [
            names[int(labels[0].removeprefix("__label__"))] if labels else names[0] for labels in found[0]
        ]

    return predict, [f"autotuned for {left_s} s"]


def _words(text: str) -> str:
    """Lower-case words, punctuation and Chinese characters apart, in one line."""
    return " ".join(
        re.findall(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+|[^\w\s]", text.lower())
    )


def fit_autogluon(rows: Rows, deadline_s: float, seed: int, out: Path) -> tuple[Predict, list[str]]:
    """AutoGluon's tabular predictor with its defaults, given what is left as its time limit."""
    import pandas
    from autogluon.tabular import TabularPredictor

    frame = pandas.DataFrame(rows)
    predictor = TabularPredictor(label="label", path=str(out / "ag"), eval_metric="accuracy", verbosity=1)
    left_s = max(1.0, deadline_s - (time.time() - STARTED) - AUTOGLUON_LAST_S)
    predictor.fit(frame, time_limit=left_s, num_cpus=2)

    def predict(asked: Rows) -> list[str]:
        features = pandas.DataFrame(asked).drop(columns="label")
        return [str(label) for label in predictor.predict(features)]

    return predict, [f"best model {predictor.model_best}, time limit {left_s:.0f} s"]


FITS = {"linear-svm": fit_linear_svm, "fasttext": fit_fasttext, "autogluon": fit_autogluon}

if __name__ == "__main__":
    main(*sys.argv[1:])
