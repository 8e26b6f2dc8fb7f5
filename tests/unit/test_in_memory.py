"""Rows in memory: what `finetune`, `evaluate` and `predict` take from Python, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
from conftest import Trained

import edgetune
from edgetune import check, finetune, load_run
from edgetune.data.examples import DataOptions, read_examples
from edgetune.data.in_memory import as_path, texts_of
from edgetune.utils.errors import DataError, EdgetuneError, UsageError

ROWS = [("good film", "pos"), ("a bore", "neg"), ("great", "pos")]
COLUMNS = {"text": [text for text, _ in ROWS], "label": [label for _, label in ROWS]}
OPTIONS = DataOptions()
LABELLED = {
    "pairs": ROWS,
    "lists": [list(row) for row in ROWS],
    "dicts": [{"label": label, "id": n, "text": text} for n, (text, label) in enumerate(ROWS)],
    "columns": COLUMNS,
    "arrays": {name: np.array(values) for name, values in COLUMNS.items()},
    "frame": pd.DataFrame({"id": [7, 8, 9], **COLUMNS}, index=[3, 1, 2]),
    "categories": pd.DataFrame(COLUMNS).astype("category"),
    "dataset": datasets.Dataset.from_dict(COLUMNS).class_encode_column("label"),
}


def examples(data: Any, cache: Path, options: DataOptions = OPTIONS) -> list[tuple[str, str]]:
    path = as_path(data, cache, options)
    return [(row.text, row.label) for row in read_examples(path, options, pytest.fail)]


@pytest.mark.parametrize("kind", LABELLED)
def test_labelled_rows_of_every_kind(tmp_path: Path, kind: str) -> None:
    assert examples(LABELLED[kind], tmp_path) == ROWS


def test_a_text_may_lie_deeper_in_a_dict(tmp_path: Path) -> None:
    rows = [{"data": {"text": text}, "notes": [{"label": label}]} for text, label in ROWS]
    options = DataOptions(text=("data.text",), label="notes.label")
    assert examples(rows, tmp_path, options) == ROWS
    assert texts_of(rows, options) == [text for text, _ in ROWS]


def test_a_path_is_a_path(tmp_path: Path) -> None:
    assert as_path("a.csv", tmp_path, OPTIONS) == as_path(Path("a.csv"), tmp_path, OPTIONS) == "a.csv"
    assert not list(tmp_path.iterdir())


def test_equal_rows_have_one_copy(tmp_path: Path) -> None:
    assert as_path(ROWS, tmp_path, OPTIONS) == as_path(list(ROWS), tmp_path, OPTIONS)
    assert len(list((tmp_path / "rows").iterdir())) == 1


def test_pairs_have_the_columns_that_are_wanted(tmp_path: Path) -> None:
    assert examples(ROWS, tmp_path, DataOptions(text=("words",), label="kind")) == ROWS


def test_labels_and_missing_values_are_those_of_a_file(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": ["a", None, "c", "d"], "label": [1, 2, np.nan, 1]})
    bad: list[Any] = []
    path = as_path(frame, tmp_path, OPTIONS)
    assert [row.label for row in read_examples(path, OPTIONS, bad.append)] == ["1", "1"]
    assert [(row.line, row.reason) for row in bad] == [(2, "empty text"), (3, "no label")]


TEXTS = ["good film", "", "a bore"]


@pytest.mark.parametrize(
    "data",
    [
        TEXTS,
        tuple(TEXTS),
        np.array(TEXTS),
        (text for text in TEXTS),
        pd.Series(["good film", None, "a bore"]),
        {"text": ["good film", None, "a bore"]},
        {"id": [1, 2, 3], "text": pd.Series(["good film", np.nan, "a bore"])},
        [{"text": text, "id": 1} for text in TEXTS],
        pd.DataFrame({"text": ["good film", pd.NA, "a bore"]}),
        datasets.Dataset.from_dict({"text": TEXTS}),
    ],
    ids=lambda data: type(data).__name__,
)
def test_texts_of_every_kind(data: Any) -> None:
    assert texts_of(data, OPTIONS) == TEXTS


class Shown(str):
    def __str__(self) -> str:
        return "shown"


def test_a_text_of_another_class_is_what_it_holds() -> None:
    assert texts_of([Shown("good film")], OPTIONS) == ["good film"]


def test_pairs_of_texts() -> None:
    assert texts_of([("who", "me"), "alone"], OPTIONS) == [("who", "me"), "alone"]
    options = DataOptions(text=("a", "b"), pair=True)
    assert texts_of(pd.DataFrame({"b": ["me"], "a": ["who"]}), options) == [("who", "me")]


WIDE = pd.DataFrame({f"column {n}": ["x" * 50] * 100 for n in range(30)})


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([None], "Item 0 .*None"),
        (["fine", 3], r"Item 1 .* 3 \(int\)"),
        (["fine", float("nan")], r"Item 1 .* nan"),
        ([("a", None)], "Item 0"),
        ([["a", "b", "c"]], "Item 0"),
        ([b"bytes"], "Item 0"),
        (["half \ud800"], "Item 0 .*surrogate"),
        ([{"text": "a"}, None], "Item 1 .* None"),
        ("text", "takes a list of texts, not a single string"),
        (Path("a.csv"), "takes a list of texts"),
        (None, "None cannot be read"),
        (5, "5"),
        (WIDE, "--text"),
        ([WIDE], "Item 0 .*DataFrame"),
        ({"text": "one string"}, 'Column "text"'),
        ({"text": ["a"], "id": [1, 2]}, "different numbers"),
        ({"words": ["a"], "id": [1]}, "--text"),
        ({"text": [["a"]]}, "not a string"),
    ],
)
def test_what_is_no_text(data: Any, says: str) -> None:
    with pytest.raises(EdgetuneError, match=says) as caught:
        texts_of(data, OPTIONS)
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (None, "None cannot be read.*path of a file"),
        (5, "path of a file"),
        (b"a.csv", "path of a file"),
        ([], "no rows"),
        ({"text": ["a"]}, "of the data in memory contains the label"),
        (WIDE, "of the data in memory contains the text"),
        (pd.DataFrame({"text": [], "label": []}), "no rows"),
        (["only", "texts"], r"Item 0 .*\(text, label\) pair"),
        ([("a", "x"), None], "Item 1 .* None"),
        ([(None, "x")], "Item 0"),
        (datasets.DatasetDict(train=datasets.Dataset.from_dict(COLUMNS)), "splits train"),
        (pd.DataFrame([["a", "b"]], columns=["text", "text"]), 'two columns named "text"'),
        ({"text": ["a", "b"], "label": ["x"]}, "different numbers"),
    ],
)
def test_what_is_no_labelled_data(tmp_path: Path, data: Any, says: str) -> None:
    with pytest.raises(EdgetuneError, match=says) as caught:
        as_path(data, tmp_path, OPTIONS)
    assert len(str(caught.value)) < 1_000
    assert not list(tmp_path.glob("rows/*"))


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EdgetuneError, match="cache_dir"):
        as_path(ROWS, tmp_path / "file", OPTIONS)


def test_evaluates_and_predicts_a_data_frame(trained: Trained) -> None:
    run, frame = load_run(trained.folder), pd.read_csv(trained.evaluation)
    assert run.evaluate(frame).accuracy == trained.result["accuracy"]
    right = [found.label for found in run.predict(frame)] == frame["label"]
    assert right.mean() == pytest.approx(trained.result["accuracy"])
    with pytest.raises(UsageError, match=r"Item 0 .*None"):
        run.predict([None])


def test_finetunes_on_a_data_frame(trained: Trained, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"model": str(trained.model), "backend": "ort", "max_steps": 2, "seed": 3}
    frame, evaluation = pd.read_csv(trained.train), pd.read_csv(trained.evaluation)
    found = finetune(frame, eval=evaluation, out=tmp_path / "frame", **settings)
    expected = finetune(trained.train, eval=trained.evaluation, out=tmp_path / "file", **settings)
    assert found.accuracy == expected.accuracy
    assert found.n_eval == 100
    assert json.loads((tmp_path / "frame" / "summary.json").read_text())["n_train"] == expected.n_train
    with pytest.raises(UsageError, match="path"):
        finetune(None, out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_messages_name_no_copy_in_the_cache(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        finetune([("good", None)] * 5, cache_dir=tmp_path, out=tmp_path / "run")
    assert "in memory" in str(error.value)
    assert str(tmp_path) not in str(error.value)
    found = check([(f"good film {i}", "ab"[i % 2]) for i in range(30)] * 2, cache_dir=tmp_path)
    assert str(tmp_path) not in str(found.to_dict())


def test_predict_and_evaluate_as_one_call(trained: Trained) -> None:
    (found,) = edgetune.predict(trained.folder, ["the parcel is late"])
    assert found.label in load_run(trained.folder).label_names
    assert edgetune.evaluate(trained.folder, trained.evaluation).accuracy == trained.result["accuracy"]
