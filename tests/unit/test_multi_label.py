"""Rows with several labels: how they are read, counted, split, scored and pooled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetune.data.examples import DataOptions, read_examples
from edgetune.data.in_memory import as_path
from edgetune.learners.ensemble import Ensemble, fit_ensemble
from edgetune.learners.linear_probe import fit_linear_probe
from edgetune.learners.ngrams.learner import Ngrams
from edgetune.utils.errors import UsageError
from edgetune.utils.metrics import cross_entropy, sigmoid
from edgetune.utils.multi_label import (
    MultiLabelEvaluation,
    choose_thresholds,
    evaluate_answers,
    log_odds,
    log_sigmoid,
    multi_hot,
    restore_evaluation,
    strata,
)

Read = list[tuple[str, ...]]


def read(path: Path, **options: Any) -> tuple[Read, list[str]]:
    """Return the labels of the usable rows, and why the others are not."""
    bad: list[str] = []
    found = read_examples(str(path), DataOptions(**options), lambda row: bad.append(row.reason))
    return [example.labels for example in found], bad


ROWS: list[tuple[str, list[str]]] = [
    ("too dear", ["price"]),
    ("dear and dim", ["price", "screen"]),
    ("nothing to say", []),
    ("dim", ["screen"]),
]
WANTED = [("price",), ("price", "screen"), (), ("screen",)]


def write_lists(path: Path) -> Path:
    path.write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in ROWS))
    return path


@pytest.mark.parametrize("as_text", [json.dumps, repr])
def test_lists_as_text_are_labels(tmp_path: Path, as_text: Any) -> None:
    path = tmp_path / "data.csv"
    lines = [
        "text,label",
        *(f'{text},"{as_text(labels).replace(chr(34), chr(34) * 2)}"' for text, labels in ROWS),
    ]
    path.write_text("\n".join(lines) + "\n")
    assert read(path) == (WANTED, [])


def test_lists_of_json_lines_are_labels(tmp_path: Path) -> None:
    assert read(write_lists(tmp_path / "data.jsonl")) == (WANTED, [])


def test_a_list_column_of_parquet_is_labels(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"text": [text for text, _ in ROWS], "label": [labels for _, labels in ROWS]})
    parquet.write_table(table, tmp_path / "data.parquet")
    assert read(tmp_path / "data.parquet") == (WANTED, [])


def test_lists_of_class_labels_get_their_names(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    classes = datasets.Sequence(datasets.ClassLabel(names=["price", "screen"]))
    features = datasets.Features({"text": datasets.Value("string"), "label": classes})
    columns = {"text": [text for text, _ in ROWS], "label": [[0], [0, 1], [], [1]]}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "data")
    assert read(tmp_path / "data") == (WANTED, [])


def test_rows_in_memory_may_hold_lists_sets_and_arrays(tmp_path: Path) -> None:
    pairs = [("a b", ["x", "y"]), ("c d", {"x"}), ("e f", np.array(["y"])), ("g h", ())]
    assert read(Path(as_path(pairs, tmp_path, DataOptions()))) == ([("x", "y"), ("x",), ("y",), ()], [])


def test_separated_labels_need_the_option(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("text,label\na b,price\nc d,price; screen\ne f,\ng h,screen\n")
    assert read(path, multi_label=True) == ([("price",), ("price", "screen"), ("screen",)], ["no label"])
    assert ("price; screen",) in read(path)[0]


def test_columns_of_flags_may_hold_several_or_none(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("text,dear,dim,slow\na b,1,0,0\nc d,1,1,0\ne f,0,0,0\ng h,,x,0\n")
    found, bad = read(path, label="dear,dim,slow", multi_label=True)
    assert (found, bad) == ([("dear",), ("dear", "dim"), (), ("dim",)], [])
    path.write_text("text,dear,dim,slow\na b,1,0,0\nc d,1,1,0\ne f,0,0,0\n")
    with pytest.raises(UsageError, match='--label "dear,dim,slow" --multi-label'):
        read(path)


def test_lists_are_faults_where_a_row_has_one_label(tmp_path: Path) -> None:
    found, bad = read(write_lists(tmp_path / "data.jsonl"), multi_label=False)
    assert found == [("price",), ("screen",)]
    assert sorted(bad) == ["label is not a single value", "no label"]


@pytest.mark.parametrize("cell", ["[price]", '[["a", "b"]]', "['a' 'b']"])
def test_what_is_no_list_is_told(tmp_path: Path, cell: str) -> None:
    path = tmp_path / "data.jsonl"
    rows = [{"text": "a b", "label": ["a", "b"]}, {"text": "c d", "label": cell}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read(path) == ([("a", "b")], ["label is not a single value"])


def test_rows_are_drawn_by_their_rarest_label() -> None:
    labels = multi_hot([[0], [0, 1], [], [0, 1, 2]], 3)
    assert strata(labels).tolist() == [0, 1, 3, 2]
    assert strata(np.array([2, 0])).tolist() == [2, 0]


def test_log_odds_undo_log_sigmoid() -> None:
    logits = np.linspace(-13, 13, 27).reshape(9, 3)
    assert log_odds(log_sigmoid(logits).astype(np.float32)) == pytest.approx(logits, rel=1e-5, abs=1e-5)


def test_a_class_with_few_rows_gets_the_common_threshold() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((2000, 3)) < [0.3, 0.3, 0.002]).astype(np.float32)
    probabilities = np.clip(0.3 * labels + 0.3 * rng.random((2000, 3)), 0, 1)
    probabilities[:, 1] += 0.3
    common, higher, rare = choose_thresholds(probabilities, labels)
    assert higher > common + 0.1
    assert abs(rare - common) < 0.1


def test_of_thresholds_that_are_as_good_the_middle_one_is_chosen() -> None:
    labels = multi_hot([[0], [0, 1], [1], []] * 10, 2)
    assert choose_thresholds(np.where(labels > 0, 0.9, 0.1), labels) == pytest.approx(0.5, abs=0.02)


def test_the_figures_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    labels = (rng.random((300, 5)) < 0.3).astype(np.float32)
    logits = rng.normal(size=(300, 4)) + 2 * labels[:, :4]
    thresholds = [0.3, 0.4, 0.5, 0.6]
    found = evaluate_answers(log_sigmoid(logits), labels, list("abcde"), thresholds)
    assert isinstance(found, MultiLabelEvaluation)
    predicted = np.zeros_like(labels)
    predicted[:, :4] = sigmoid(logits) >= thresholds
    assert found.micro_f1 == pytest.approx(metrics.f1_score(labels, predicted, average="micro"))
    assert found.macro_f1 == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    assert found.accuracy == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert found.loss == pytest.approx(float(cross_entropy(logits, labels[:, :4]).mean()))
    assert found.unknown_labels == {"e": int(labels[:, 4].sum())}
    again = restore_evaluation(json.loads(json.dumps(found.to_dict())))
    assert again.to_dict() == found.to_dict()


def test_ngrams_keep_what_they_say(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    labels = (rng.random((400, 3)) < [0.5, 0.3, 0.0]).astype(np.float32)
    texts = [" ".join(["dear"] * int(a) + ["dim"] * int(b) + ["it", "is"]) for a, b, _ in labels]
    ngrams = Ngrams.fit(texts, labels, 3)
    found = ngrams.log_proba(["so dear", "dear and dim", "it is"])
    assert ((np.exp(found) > 0.5) == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]).all()
    ngrams.save(tmp_path / "model")
    again = Ngrams.load(tmp_path / "model")
    assert again.multi_label
    assert np.array_equal(again.log_proba(["so dear"]), found[:1])


def test_the_probe_is_a_logistic_regression_for_each_class() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(3)
    features = rng.normal(size=(200, 6)).astype(np.float32)
    labels = (features @ rng.normal(size=(6, 3)) > 0.5).astype(np.float32)
    probe = fit_linear_probe(features, labels, 3, strength=0.25)
    inputs = (features - features.mean(axis=0)) / features.std(axis=0)
    for at in range(3):
        rival = linear.LogisticRegression(C=0.25, max_iter=1000).fit(inputs, labels[:, at])
        expected = rival.decision_function(inputs)
        assert probe.logits(features)[:, at] == pytest.approx(expected, abs=0.05)


def test_the_pool_is_no_worse_than_its_best_learner() -> None:
    rng = np.random.default_rng(4)
    labels = (rng.random((500, 4)) < 0.3).astype(np.float32)
    signal = 4 * labels - 2
    answers = {
        "good": log_sigmoid(3 * (signal + rng.normal(size=signal.shape))),
        "fair": log_sigmoid(signal + 2 * rng.normal(size=signal.shape)),
        "noise": log_sigmoid(rng.normal(size=signal.shape)),
    }
    ensemble, members = fit_ensemble(answers, labels)
    loss = float(cross_entropy(log_odds(ensemble.combine(answers)), labels).mean())
    assert loss < min(one.log_loss for one in members)
    assert "noise" not in ensemble.names
    assert len(ensemble.thresholds) == 4
    assert Ensemble.from_dict(json.loads(json.dumps(ensemble.to_dict()))) == ensemble
