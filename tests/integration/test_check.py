"""`edgetune check`: what it finds in files with faults; terminal, JSON, page and Python."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import RunCli

import edgetune
from edgetune.data.demo import demo_rows
from edgetune.utils.errors import DataError

DEMO_WORDS = {word for text, _ in demo_rows(400, seed=0) for word in text.lower().split() if word.isalpha()}
MARKS, WORDS = sorted(DEMO_WORDS)[:3], sorted(DEMO_WORDS)[3:23]
"""Words that the tiny model knows."""
SCRIPT = "<script>alert(1)</script>"


def some_rows(n: int, labels: Sequence[str] = ("good", "bad")) -> list[tuple[str, str]]:
    """Return texts whose first word tells their label."""
    rng = random.Random(0)
    return [
        (f"{MARKS[i % len(labels)]} " + " ".join(rng.choices(WORDS, k=9)), labels[i % len(labels)])
        for i in range(n)
    ]


def write_rows(path: Path, rows: Sequence[Sequence[str]], header: Sequence[str] = ("text", "label")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture
def checked(run_cli: RunCli, tiny_model: Path) -> Any:
    """`edgetune check --json FILE ARGS`, its exit code and what it found."""

    def call(path: Path, *args: object) -> tuple[int, dict[str, Any]]:
        code, out, err = run_cli("check", path, "--model", tiny_model, "--json", *args)
        assert out, err
        return code, json.loads(out)

    return call


def mended(found: dict[str, Any]) -> str:
    return " ".join(finding["text"] for finding in found["findings"] if finding["mend"])


def test_a_file_without_faults_is_fine(checked: Any, tmp_path: Path) -> None:
    code, found = checked(write_rows(tmp_path / "a.csv", some_rows(100)))
    assert (code, mended(found)) == (0, "")
    assert found["n_rows"] == found["n_read"] == found["n_sampled"] == 100
    assert found["classes"] == [
        {"label": "bad", "rows": 50, "share": 0.5},
        {"label": "good", "rows": 50, "share": 0.5},
    ]
    read = {fact["what"]: (fact["found"], fact["option"]) for fact in found["reading"]}
    assert read["text"] == ('"text"', "--text")
    assert read["delimiter"] == ("comma", "--delimiter")
    assert found["cross_validation"]["majority"] == 0.5
    assert found["cross_validation"]["accuracy"] > 0.9
    assert [one["unit"] for one in found["lengths"]] == ["words", "tokens"]
    assert found["lengths"][0]["median"] == 10
    assert [one["script"] for one in found["scripts"]] == ["Latin"]


def test_faults_are_counted(checked: Any, tmp_path: Path) -> None:
    rows = some_rows(100)
    twins = [(text, "bad" if label == "good" else "good") for text, label in rows[:4]]
    more = [(rows[50][0].upper(), rows[50][1]), ("no label", ""), ("", "good"), ("one more text", "Good")]
    code, found = checked(write_rows(tmp_path / "a.csv", [*rows, *twins, *more]))
    assert code == 3
    assert (found["n_unlabelled"], found["unusable"]) == (1, {"no label": 1, "empty text": 1})
    assert (found["n_duplicates"], found["n_conflicts"]) == (5, 4)
    assert found["conflicts"][0]["labels"] == ["bad", "good"]
    assert {line for one in found["conflicts"] for line in one["lines"]} == {2, 3, 4, 5, 102, 103, 104, 105}
    assert "--merge-labels" in mended(found)
    assert "conflicting" in mended(found)
    assert not any(finding["mend"] for finding in found["findings"][4:])


def test_merged_labels_are_one_class(checked: Any, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.csv", some_rows(120, ("good", "bad", "Good")))
    assert len(checked(path)[1]["classes"]) == 3
    code, found = checked(path, "--merge-labels")
    assert (code, len(found["classes"])) == (0, 2)


def test_mislabelled_rows_are_the_most_surprising(checked: Any, tmp_path: Path) -> None:
    rows = some_rows(200)
    rows[60] = (rows[60][0], "bad")
    _, found = checked(write_rows(tmp_path / "a.csv", rows))
    first = found["surprising"][0]
    assert (first["line"], first["label"], first["predicted"]) == (62, "bad", "good")


def test_near_duplicates_are_counted(checked: Any, tmp_path: Path) -> None:
    rows = some_rows(60)
    parts = [(" ".join(text.split()[:7]), label) for text, label in rows[:10]]
    _, found = checked(write_rows(tmp_path / "a.csv", [*rows, *parts]))
    assert found["n_near_duplicates"] == 10
    assert found["n_duplicates"] == 0


def test_evaluation_rows_are_compared(checked: Any, tmp_path: Path) -> None:
    rows = some_rows(60)
    evaluation = write_rows(tmp_path / "eval.csv", [*rows[:5], ("something else", "unheard")])
    code, found = checked(write_rows(tmp_path / "a.csv", rows), "--eval", evaluation)
    assert code == 3
    assert "5 of 6 " in mended(found)
    assert '"unheard"' in mended(found)


def test_lengths_are_those_of_the_encoder(checked: Any, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.csv", [(f"{text} {text} {text} {text}", y) for text, y in some_rows(60)])
    cuts = {cut["max_length"]: cut["rows"] for cut in checked(path)[1]["cuts"]}
    assert cuts[32] == 60
    assert set(cuts) == {32, 64, 128}  # the model has 128 positions


def test_a_script_that_the_vocabulary_cannot_write(checked: Any, tmp_path: Path) -> None:
    rows = [(f"единственный отзыв номер {i} {WORDS[i % 14]}", "ab"[i % 2]) for i in range(60)]
    code, found = checked(write_rows(tmp_path / "a.csv", rows))
    assert code == 3
    assert "Cyrillic" in mended(found)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([("a text of some words", "same")] * 30, "Every row has the label"),
        ([(f"text number {i}", f"{i}.5") for i in range(40)], "number, not a category"),
        ([(f"text number {i}", "['a', 'b']" if i == 5 else "ab"[i % 2]) for i in range(40)], "--multi-label"),
    ],
)
def test_labels_of_which_nothing_can_be_learned(
    checked: Any, tmp_path: Path, rows: list[tuple[str, str]], says: str
) -> None:
    code, found = checked(write_rows(tmp_path / "a.csv", rows))
    assert code == 3
    assert says in mended(found)


def test_a_large_file_is_sampled_and_counted_whole(checked: Any, tmp_path: Path) -> None:
    code, found = checked(write_rows(tmp_path / "a.csv", some_rows(21_000)))
    assert code == 0
    assert found["n_rows"] == sum(one["rows"] for one in found["classes"]) == 21_000
    assert 20_000 <= found["n_sampled"] < 20_100


def test_terminal_and_page_show_labels_as_text(run_cli: RunCli, tiny_model: Path, tmp_path: Path) -> None:
    rows = some_rows(60, (SCRIPT, "red \x1b[31m", "x"))
    path, page = write_rows(tmp_path / "a.csv", rows), tmp_path / "check.html"
    code, out, err = run_cli("check", path, "--model", tiny_model, "--out", page)
    assert code == 0, err
    assert SCRIPT in out
    assert "\x1b" not in out
    html = page.read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "Content-Security-Policy" in html
    assert "prefers-color-scheme: dark" in html
    assert "http" not in html.replace("http-equiv", "")


def test_a_label_column_that_was_guessed_is_said(run_cli: RunCli, tiny_model: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.csv", some_rows(60), ("Customer wrote", "Kind of ticket"))
    code, out, _ = run_cli("check", path, "--model", tiny_model)
    assert code == 0
    assert '"Kind of ticket" (' in out


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("missing.csv",), 1),
        (("a.csv", "--eval", "missing.csv"), 1),
        (("a.csv", "--label", "nothing"), 2),
        (("a.csv", "--max-length", "-3"), 2),
        (("a.csv", "--out", "page.pdf"), 2),
        (("a.csv", "--out", "a.csv"), 2),
        (("a.csv", "--out", "taken.html"), 2),
        (("a.csv", "--out", "nowhere/at/all.html"), 0),
        (("empty.csv",), 1),
        (("unlabelled.csv",), 1),
    ],
)
def test_bad_input_gets_a_sentence(
    run_cli: RunCli,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: tuple[str, ...],
    expected: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = write_rows(tmp_path / "a.csv", some_rows(40)).read_bytes()
    (tmp_path / "taken.html").write_text("mine")
    (tmp_path / "empty.csv").touch()
    write_rows(tmp_path / "unlabelled.csv", [("some text", "")] * 9)
    code, _, err = run_cli("check", *args, "--model", tiny_model)
    assert code == expected, err
    assert "Traceback" not in err
    assert expected == 0 or len(err.strip().splitlines()) == 1
    assert (tmp_path / "a.csv").read_bytes() == before
    assert (tmp_path / "taken.html").read_text() == "mine"


def test_from_python_with_rows_in_memory(tiny_model: Path, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(some_rows(60), columns=["text", "label"])
    found = edgetune.check(frame, model=str(tiny_model), cache_dir=tmp_path)
    assert not found.needs_mending
    classes = found.frame("classes")
    assert classes.set_index("label")["rows"].to_dict() == {"bad": 30, "good": 30}
    with pytest.raises(DataError):
        edgetune.check([], model=str(tiny_model), cache_dir=tmp_path)


def test_finetune_shows_three_sentences_on_the_data_and_says_where_the_others_are(
    run_cli: RunCli, tiny_model: Path, tmp_path: Path
) -> None:
    rows = some_rows(120)
    faults = [(rows[0][0], "bad"), (rows[1][0], rows[1][1]), ("one more", "Good"), *[("again", "rare")] * 2]
    path = write_rows(tmp_path / "a.csv", [*rows, *faults])
    args = ("--out", tmp_path / "run", "--max-steps", 1, "--max-length", 8, "--no-ngrams")
    code, _, err = run_cli("finetune", path, "--model", tiny_model, *args)
    assert code in (0, 3)
    assert "edgetune check" in err
    assert "labels differ" in err
    assert "truncated" not in err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert any("truncated" in text for text in summary["warnings"])
