from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgetune.inference.inspection import InspectedRow
from edgetune.inference.predictions import Row, predict_lines, print_predictions, write_predictions
from edgetune.inference.saved_run import Prediction
from edgetune.report.inspection_table import write_inspection
from edgetune.utils.errors import UsageError


class FakeRun:
    """Labels a text by whether it is long."""

    def predict_all(self, texts: Any) -> Iterator[Prediction]:
        for text in texts:
            label = "long" if len(text) > 5 else "short"
            yield Prediction(label, 0.75, {label: 0.75, "other": 0.25})


def rows(*texts: str) -> Iterator[Row]:
    return predict_lines(FakeRun(), texts)  # type: ignore[arg-type]


def test_empty_lines_are_left_out_and_lines_keep_their_number() -> None:
    found = list(rows("abc", "", "  ", "abcdefgh"))
    assert [(row.line, row.text, row.prediction.label) for row in found] == [
        (1, "abc", "short"),
        (4, "abcdefgh", "long"),
    ]


def test_lines_are_taken_as_they_come() -> None:
    def endless() -> Iterator[str]:
        while True:
            yield "again"

    found = predict_lines(FakeRun(), endless())  # type: ignore[arg-type]
    assert [next(found).line for _ in range(3)] == [1, 2, 3]


def test_prints_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    print_predictions(rows("abc", "x" * 200, "two\nlines"), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].split() == ["short", "0.750", "abc"]
    assert lines[1].endswith("…")
    assert len(lines[1]) < 110
    assert lines[2].endswith("two lines")


def test_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_predictions(rows("ab\u00e9"), as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "text": "abé",
        "label": "short",
        "probability": 0.75,
        "probabilities": {"short": 0.75, "other": 0.25},
    }


def test_writes_csv(tmp_path: Path) -> None:
    assert write_predictions(rows("a,b", 'say "hi"\nthere'), tmp_path / "p.csv") == 2
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert found[0] == {"text": "a,b", "label": "short", "probability": "0.75"}
    assert found[1]["text"] == 'say "hi"\nthere'


def test_writes_jsonl(tmp_path: Path) -> None:
    assert write_predictions(rows("ab", "cd"), tmp_path / "p.jsonl") == 2
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == ["ab", "cd"]
    assert lines[0]["probabilities"] == {"short": 0.75, "other": 0.25}


def test_pairs_have_two_texts(tmp_path: Path) -> None:
    pair = Row(1, "one", "two", Prediction("yes", 1.0, {"yes": 1.0}))
    write_predictions([pair], tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text().splitlines() == [
        "text,text_pair,label,probability",
        "one,two,yes,1.0",
    ]


def test_only_what_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.csv or \.jsonl"):
        write_predictions(rows("a"), tmp_path / "p.xlsx")


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    def broken() -> Iterator[Row]:
        yield from rows("one")
        raise RuntimeError("half way")

    (tmp_path / "p.csv").write_text("earlier")
    with pytest.raises(RuntimeError):
        write_predictions(broken(), tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text() == "earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]


@pytest.mark.parametrize("label", ["-", "+", "=", "@home", "-1.5.2", "\tx"])
def test_labels_are_written_as_they_are(tmp_path: Path, label: str) -> None:
    write_predictions([Row(1, "-text", None, Prediction(label, 1.0, {label: 1.0}))], tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as file:
        (found,) = csv.DictReader(file)
    assert (found["label"], found["text"]) == (label, "'-text")


def test_labels_of_inspected_rows_are_written_as_they_are(tmp_path: Path) -> None:
    row = InspectedRow("trained", 1, 2, "-", "=1+1", None, None, 0, 0, 0, 0)
    write_inspection(tmp_path / "rows.csv", [row])
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as file:
        (found,) = csv.DictReader(file)
    assert (found["label"], found["text"]) == ("-", "'=1+1")
