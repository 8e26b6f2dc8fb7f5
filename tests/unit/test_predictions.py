from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgetune.data.examples import DataOptions, read_examples
from edgetune.inference.inspection import CorrectedTable, Suspect
from edgetune.inference.predictions import (
    Predictions,
    predict_file,
    predict_lines,
    print_predictions,
    write_predictions,
)
from edgetune.inference.saved_run import NO_PREDICTION, Prediction
from edgetune.report.result_tables import write_corrected
from edgetune.utils.errors import UsageError


class FakeRun:
    """Labels a text by whether it is long; an empty one not at all."""

    label_names = ("short", "other", "long")
    multi_label = False

    def predict_all(self, texts: Any) -> Iterator[Prediction]:
        for text in texts:
            label = "long" if len(text) > 5 else "short"
            found = {name: 0.75 if name == label else 0.125 for name in self.label_names}
            yield Prediction(label, 0.75, found) if "".join(text) else NO_PREDICTION

    def data_options(self) -> DataOptions:
        return DataOptions()


def of_lines(*texts: str, unsure: float | None = None) -> Predictions:
    return predict_lines(FakeRun(), texts, unsure)  # type: ignore[arg-type]


def of_file(path: Path, content: str, options: DataOptions | None = None) -> Predictions:
    path.write_text(content, encoding="utf-8")
    return predict_file(FakeRun(), str(path), options or DataOptions())  # type: ignore[arg-type]


def written(predictions: Predictions, out: Path, all_classes: bool = False) -> list[dict[str, Any]]:
    write_predictions(predictions, out, all_classes)
    with out.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file)) if out.suffix == ".csv" else [json.loads(line) for line in file]


def test_a_row_for_every_line_with_its_number() -> None:
    predictions = of_lines("abc", "", "  ", "abcdefgh")
    assert [(row.line, row.text, row.predicted) for row in predictions] == [
        (1, "abc", "short"),
        (2, "", None),
        (3, "", None),
        (4, "abcdefgh", "long"),
    ]
    assert (predictions.n_rows, predictions.n_empty) == (4, 2)
    assert predictions.notes()[0].startswith("2 of 4 texts are empty")


def test_lines_are_taken_as_they_come() -> None:
    def endless() -> Iterator[str]:
        while True:
            yield "again"

    found = iter(predict_lines(FakeRun(), endless()))  # type: ignore[arg-type]
    assert [next(found).line for _ in range(3)] == [1, 2, 3]


def test_prints_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    print_predictions(of_lines("abc", "x" * 200, "two\nlines", ""), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].split() == ["short", "0.750", "abc"]
    assert lines[1].endswith("…")
    assert len(lines[1]) < 110
    assert lines[2].endswith("two lines")
    assert lines[3].split() == ["(empty)", "-"]


def test_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_predictions(of_lines("ab\u00e9", ""), as_json=True)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {
            "line": 1,
            "text": "abé",
            "predicted": "short",
            "probability": 0.75,
            "probabilities": {"short": 0.75, "other": 0.125, "long": 0.125},
        },
        {"line": 2, "text": "", "predicted": None, "probability": None, "probabilities": {}},
    ]


def test_writes_csv(tmp_path: Path) -> None:
    found = written(of_lines("a,b", 'say "hi"\nthere', ""), tmp_path / "p.csv")
    assert found[0] == {"line": "1", "text": "a,b", "predicted": "short", "probability": "0.75"}
    assert found[1]["text"] == 'say "hi"\nthere'
    assert found[2] == {"line": "3", "text": "", "predicted": "", "probability": ""}


def test_writes_jsonl(tmp_path: Path) -> None:
    found = written(of_lines("ab", "cd"), tmp_path / "p.jsonl")
    assert [row["text"] for row in found] == ["ab", "cd"]
    assert found[0]["probabilities"] == {"short": 0.75, "other": 0.125, "long": 0.125}


def test_a_column_for_every_class(tmp_path: Path) -> None:
    (row,) = written(of_lines("ab"), tmp_path / "p.csv", all_classes=True)
    assert list(row)[-3:] == ["probability_short", "probability_other", "probability_long"]
    assert row["probability_other"] == "0.125"


def test_predictions_below_the_limit_are_unsure(tmp_path: Path) -> None:
    assert [row.predicted for row in of_lines("ab", "abcdef", unsure=0.7)] == ["short", "long"]
    predictions = of_lines("ab", "", "abcdef", unsure=0.8)
    assert [row["predicted"] for row in written(predictions, tmp_path / "p.csv")] == ["unsure", "", "unsure"]
    assert (predictions.n_unsure, predictions.n_empty) == (2, 1)
    for wrong in (1.5, -0.1, float("nan")):
        with pytest.raises(UsageError, match="--unsure"):
            of_lines("ab", unsure=wrong)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_all_columns_of_the_input_are_kept(tmp_path: Path, suffix: str) -> None:
    table = "id,text,truth\n7,ab,x\n7,,y\n9,abcdefg,\n"
    found = written(of_file(tmp_path / "in.csv", table), tmp_path / f"p{suffix}")
    assert [[str(value) for value in row.values()][:4] for row in found] == [
        ["2", "7", "ab", "x"],
        ["3", "7", "", "y"],
        ["4", "9", "abcdefg", ""],
    ]
    assert list(found[0])[:6] == ["line", "id", "text", "truth", "predicted", "probability"]
    assert [row["predicted"] for row in found] == ["short", "" if suffix == ".csv" else None, "long"]


def test_values_of_any_type_are_kept(tmp_path: Path) -> None:
    lines = '{"id": 1, "text": "ab", "tags": ["x", {"y": null}]}\n{"text": null, "id": 2.5}\n'
    found = written(of_file(tmp_path / "in.jsonl", lines), tmp_path / "p.jsonl")
    assert [(row["id"], row["tags"], row["predicted"]) for row in found] == [
        (1, ["x", {"y": None}], "short"),
        (2.5, None, None),
    ]
    found = written(of_file(tmp_path / "in.jsonl", lines), tmp_path / "p.csv")
    assert [(row["id"], row["tags"]) for row in found] == [("1", '["x", {"y": null}]'), ("2.5", "")]


def test_a_text_deeper_in_an_object_adds_no_columns(tmp_path: Path) -> None:
    lines = '{"id": 1, "data": {"text": "ab", "by": "x"}}\n{"id": 2, "data": {"text": "abcdefg"}}\n'
    options = DataOptions(text=("data.text",))
    found = written(of_file(tmp_path / "in.jsonl", lines, options), tmp_path / "p.jsonl")
    assert list(found[0]) == ["line", "id", "data", "predicted", "probability", "probabilities"]
    assert [(row["data"]["text"], row["predicted"]) for row in found] == [
        ("ab", "short"),
        ("abcdefg", "long"),
    ]


def test_columns_of_an_earlier_prediction_stay(tmp_path: Path) -> None:
    """The output of one model can be the input of another."""
    write_predictions(of_lines("ab", "abcdefg"), tmp_path / "first.csv")
    again = predict_file(FakeRun(), str(tmp_path / "first.csv"), DataOptions())  # type: ignore[arg-type]
    found = written(again, tmp_path / "p.csv")
    assert found[1]["predicted"] == found[1]["predicted_2"] == "long"
    assert (found[1]["line"], found[1]["line_2"]) == ("2", "3")
    assert "predicted_2" in again.notes()[0]


def test_every_line_of_a_text_file_gets_a_row(tmp_path: Path) -> None:
    found = list(of_file(tmp_path / "in.txt", "ab\n\nabcdefg\n   \ncd\n\n"))
    assert [row.predicted for row in found] == ["short", None, "long", None, "short", None]


def test_rows_of_nothing_but_tabs_are_rows(tmp_path: Path) -> None:
    table = "id\ttext\n1\tab\n\t\n\n3\tcd\n"
    assert [(row.line, row.predicted) for row in of_file(tmp_path / "in.tsv", table)] == [
        (2, "short"),
        (3, None),
        (5, "short"),
    ]


@pytest.mark.parametrize("table", ["text\nab\n\ncd\n", 'text\n"a ""b"\n\ncd\n', "\ntext\nabcdefg\n  \ncd\n"])
def test_blank_lines_of_a_single_column_are_rows(tmp_path: Path, table: str) -> None:
    found = list(of_file(tmp_path / "in.csv", table, DataOptions(text=("text",))))
    assert [row.predicted is None for row in found] == [False, True, False]


def test_files_of_a_folder_keep_their_name(tmp_path: Path) -> None:
    for name in ("good/1.txt", "bad/1.txt"):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        (tmp_path / "in" / name).write_text("ab")
    predictions = predict_file(FakeRun(), str(tmp_path / "in"), DataOptions())  # type: ignore[arg-type]
    assert [row["file"] for row in written(predictions, tmp_path / "p.csv")] == ["bad/1.txt", "good/1.txt"]


def test_pairs_keep_both_columns(tmp_path: Path) -> None:
    options = DataOptions(text=("a", "b"), pair=True)
    found = list(of_file(tmp_path / "in.csv", "a,b\none,two\n,\n,x\n", options))
    assert [row.text for row in found] == ["one | two", " | ", " | x"]
    assert [row.predicted is None for row in found] == [False, True, False]


def test_only_what_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.csv or \.jsonl"):
        write_predictions(of_lines("a"), tmp_path / "p.xlsx")


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    def broken() -> Iterator[str]:
        yield "one"
        raise RuntimeError("half way")

    (tmp_path / "p.csv").write_text("earlier")
    with pytest.raises(RuntimeError):
        write_predictions(predict_lines(FakeRun(), broken()), tmp_path / "p.csv")  # type: ignore[arg-type]
    assert (tmp_path / "p.csv").read_text() == "earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]


@pytest.mark.parametrize("label", ["-", "+", "=", "@home", "-1.5.2", "\tx"])
def test_labels_are_written_as_they_are(tmp_path: Path, label: str) -> None:
    class Labels(FakeRun):
        label_names = (label, "other")

        def predict_all(self, texts: Any) -> Iterator[Prediction]:
            return (Prediction(label, 1.0, {label: 1.0, "other": 0.0}) for _ in texts)

    (tmp_path / "in.jsonl").write_text(json.dumps({"text": "-text", "label": label, "note": label}))
    predictions = predict_file(Labels(), str(tmp_path / "in.jsonl"), DataOptions())  # type: ignore[arg-type]
    (found,) = written(predictions, tmp_path / "p.csv")
    assert (found["label"], found["predicted"], found["text"]) == (label, label, "'-text")
    assert found["note"] == f"'{label}"


def test_labels_of_inspected_rows_are_written_as_they_are(tmp_path: Path) -> None:
    suspect = Suspect(2, "-", "+", 0.9, 0.1, True, "=1+1")
    table = CorrectedTable(("label", "text"), 0, iter([(("-", "=1+1"), suspect), (("", "no label"), None)]))
    write_corrected(tmp_path / "rows.csv", table)
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as file:
        found, without = csv.DictReader(file)
    assert (found["label"], found["text"], found["suggested_label"]) == ("-", "'=1+1", "+")
    assert (without["text"], without["suggested_label"], without["change"]) == ("no label", "", "")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_blank_lines_between_rows_of_several_columns_are_no_rows(tmp_path: Path, name: str) -> None:
    """As `evaluate`, pandas and the csv module read them; `line` says where a row was."""
    rows = ["text,label", "abc,x", "", "abcdef,y", ""]
    if name == "a.jsonl":
        rows = ['{"text": "abc", "label": "x"}', "", '{"text": "abcdef", "label": "y"}', ""]
    content = "\n".join(rows) + "\n"
    found = list(of_file(tmp_path / name, content))
    examples = list(read_examples(str(tmp_path / name), DataOptions(), lambda row: pytest.fail(str(row))))
    assert [row.line for row in found] == [example.line for example in examples]
    assert len(found) == 2
