"""What strangers write is shown, and never acts: on a terminal, on a page, in Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import RunCli
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from edgetune.data.examples import DataOptions, TextRow, TextTable, read_examples
from edgetune.data.quality import Repeats, label_findings
from edgetune.inference.inspection import CorrectedTable, Inspection, Suspect, VisitedRow
from edgetune.inference.predictions import (
    Predictions,
    predict_lines,
    print_predictions,
    stdin_lines,
    write_predictions,
)
from edgetune.inference.saved_run import Prediction
from edgetune.report.charts import plain_label
from edgetune.report.live_view import PlainView, RichView
from edgetune.report.model_card import model_card
from edgetune.report.result_tables import print_inspection, write_corrected
from edgetune.report.run_plot import draw_run
from edgetune.utils.errors import EdgetuneError, UsageError
from edgetune.utils.sanitize import brief, in_markdown, json_text, on_terminal, one_line, visible
from edgetune.utils.tables import Section, print_sections

ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\u2028\u2029]"
)
NASTY = (
    "nul\x00",
    "\x1b[31mred\x1b[0m",
    "\x9b2J",
    "\x1b]0;title\x07",
    "bell\x07\x08",
    "\u202eevil\u2066 \u200f",
    "half \ud83d",
    "line\rover",
    "\u2028\u2029",
    "=1+1",
    "a\nb | <img src=x onerror=alert(1)> `c` [d](javascript:e)",
    "$\\frac$ $",
    "x" * 1_000,
)
EVERYTHING = " ".join(NASTY)


@given(st.text(st.characters(exclude_categories=[])))
def test_nothing_acts(text: str) -> None:
    for shown in (on_terminal(text), one_line(text), brief(text), json_text(text)):
        assert not ACTING.search(shown)
        shown.encode()
    visible(text).encode()
    assert "\n" not in one_line(text) + brief(text) + json_text(text)
    assert len(brief(text, 10)) <= 10


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=[])), st.lists
    )
)
def test_json_that_is_printed_reads_back(value: Any) -> None:
    assert json.loads(json_text(value)) == value


@given(st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs", "Cn", "Zl", "Zp", "Co"])))
def test_other_text_stays_as_it_is(text: str) -> None:
    assert on_terminal(text) == text == visible(text)


def test_brief_says_that_there_is_more() -> None:
    assert brief("a  b\n c") == "a b c"
    assert brief("x" * 60) == "x" * 60
    assert brief("x" * 61) == "x" * 59 + "…"
    assert brief("x" * 10 + " " * 10_000_000 + "y").startswith("x" * 10)
    assert brief("x" * 10 + " " * 10_000_000 + "y").endswith("…")


@pytest.mark.parametrize("nasty", NASTY)
def test_markdown_shows_it(nasty: str) -> None:
    shown = in_markdown(nasty)
    assert "\n" not in shown
    assert not re.search(r"(?<!\\)[|<>`\[\]]", shown)
    shown.encode()


class Labels:
    """Predicts a label with the name of the text, of a pair with that of the first."""

    label_names = ("other",)
    multi_label = False

    def predict_all(self, texts: Any) -> Iterator[Prediction]:
        for text in texts:
            label = text if isinstance(text, str) else text[0]
            yield Prediction(label, 0.5, {label: 0.5, "other": 0.5})


def of_rows(rows: Sequence[tuple[str, str | None]]) -> Predictions:
    texts = (TextRow(1, text, pair, (text,)) for text, pair in rows)
    return Predictions(Labels(), TextTable(("text",), texts))  # type: ignore[arg-type]


@pytest.mark.parametrize("as_json", [True, False])
def test_predictions_on_the_terminal(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    rows = [(text, pair) for text in NASTY for pair in (None, text)]
    print_predictions(of_rows(rows), as_json)
    out = capsys.readouterr().out
    assert not ACTING.search(out)
    assert len(out.splitlines()) == len(rows)
    if as_json:
        assert [json.loads(line)["text"] for line in out.splitlines()][::2] == list(NASTY)


def test_predictions_in_csv_are_no_formulas(tmp_path: Path) -> None:
    texts = ["=1+1", "+x", "-x", "@x", "\tx", "-1.5", "plain"]
    write_predictions(of_rows([(text, None) for text in texts]), tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    for row, text in zip(found, texts, strict=True):
        kept = text in ("-1.5", "plain")
        assert row["text"] == (text if kept else f"'{text}")
        assert row["predicted"] == text  # or `evaluate` would not know it


def test_predictions_in_jsonl_are_as_they_were(tmp_path: Path) -> None:
    write_predictions(of_rows([(text, None) for text in NASTY]), tmp_path / "p.jsonl")
    lines = (tmp_path / "p.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert [json.loads(line)["text"] for line in lines] == list(NASTY)


@pytest.mark.parametrize("terminal", [True, False])
def test_tables_on_the_terminal(terminal: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, color_system=None, width=200)
    section = Section(EVERYTHING[:100], [(text, text) for text in NASTY], (NASTY[1], NASTY[2]))
    print_sections([section], console)
    assert not ACTING.search(out.getvalue())
    assert "\ufffd[31mred" in out.getvalue()


def test_findings_on_the_terminal_and_in_csv(tmp_path: Path) -> None:
    out = io.StringIO()
    suspects = [Suspect(1, text, text, 0.5, 0.1, True, text) for text in NASTY]
    visited = [VisitedRow(1, text, text, 0.5, 1, 1) for text in NASTY]
    found = Inspection("", DataOptions(), len(NASTY), {1: suspects[0]}, suspects, visited, visited)
    print_inspection(found, len(NASTY), Console(file=out, color_system=None, width=300))
    assert not ACTING.search(out.getvalue())
    rows = iter([((one.text, one.label), one) for one in suspects])
    write_corrected(tmp_path / "f.csv", CorrectedTable(("text", "label"), 1, rows))
    with (tmp_path / "f.csv").open(encoding="utf-8", newline="") as file:
        labels = [row["suggested_label"] for row in csv.DictReader(file)]
    assert labels[NASTY.index("=1+1")] == "=1+1"
    assert not any(re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", label) for label in labels)


class Anything:
    """Answers every attribute with itself, every text with the worst of all."""

    def __init__(self, **known: Any) -> None:
        self.__dict__.update(known)


def test_the_live_view(capsys: pytest.CaptureFixture[str]) -> None:
    data = Anything(train=[1], evaluation=[1], label_names=NASTY, eval_source=NASTY[5])
    backend = Anything(name="ort")
    prepared = Anything(data=data, model_name=NASTY[1], backend=backend, plan=None)
    config = Anything(
        model=Anything(freeze="embeddings"),
        selection=Anything(method="random"),
        data=Anything(train=NASTY[2], max_length=8),
        train=Anything(epochs=1, batch_size=8, lr=1e-4, seed=0),
        budget=Anything(limits_time=False),
    )
    for view in (PlainView(), RichView()):
        view.begin(prepared, config)
        view.say(EVERYTHING)
        view.warn(EVERYTHING)
        view.end()
    shown = capsys.readouterr().err
    assert "red" in shown
    assert not ACTING.search(re.sub(r"\x1b\[\?25[lh]|\x1b\[2K|\x1b\[1A|\r", "", shown))  # rich's own
    assert "x" * 200 not in shown.splitlines()[0]


def test_the_model_card() -> None:
    classes = [{"label": text, "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 1} for text in NASTY]
    card = model_card(
        {
            "dataset": EVERYTHING,
            "model": EVERYTHING,
            "method": EVERYTHING,
            "label_names": list(NASTY),
            "per_class": classes,
            "eval_source": EVERYTHING,
            "accuracy": 0.5,
            "warnings": [EVERYTHING],
            "machine": {"cpu": EVERYTHING},
        }
    )
    card.encode()
    card = card.split("---\n", 2)[2]  # above is JSON
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", card)
    outside_code = re.sub(r"```.*?```|`[^`\n]*`", "", card.replace("\\`", ""), flags=re.DOTALL)
    assert "<img" not in re.sub(r"\\<", "", outside_code)
    assert not re.search(r"(?<!\\)\]\(javascript", outside_code)
    (line,) = [line for line in card.splitlines() if "It distinguishes" in line or "classes: " in line]
    assert line.endswith(".")
    table = [line for line in card.splitlines() if line.startswith("| ")]
    assert len(table) == len(NASTY) + 1
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {6}


@pytest.mark.parametrize("nasty", NASTY)
def test_pictures_take_any_name(tmp_path: Path, nasty: str) -> None:
    history = [{"kind": "stage", "t_s": 0.0, "stage": "all"}]
    draw_run(history, {"dataset": nasty, "method": "random", "elapsed_s": 1.0}, tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    assert not ACTING.search(plain_label(nasty).replace("\u200f", "").replace("\u2028\u2029", ""))


def test_errors_on_the_terminal(run_cli: RunCli, tmp_path: Path) -> None:
    name = tmp_path / "\x1b[31m\nedgetune: all is well\u202e.csv"
    code, out, err = run_cli("finetune", name)
    assert code == 1
    assert not out
    assert len(err.splitlines()) == 1
    assert not ACTING.search(err)
    name.write_text("\x1b[2J,\x9bb\n1,2\n" * 3)
    for command in ("finetune", "plan"):
        code, _, err = run_cli(command, name, "--header")
        assert code == 2
        assert len(err.splitlines()) == 1
        assert not ACTING.search(err)


def test_an_unusual_option_is_shown(run_cli: RunCli) -> None:
    code, _, err = run_cli("finetune", "--\x1b[31mred")
    assert code == 2
    assert not ACTING.search(err)


def test_warnings_name_labels_briefly() -> None:
    counts = {"x" * 1_000: 1, EVERYTHING: 200}
    told = " ".join(finding.text for finding in label_findings(counts, Repeats(0, 0), 0, 8))
    assert "x" * 100 not in told
    assert not ACTING.search(told)


def test_columns_are_named_briefly(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    row = {**dict.fromkeys(NASTY, "a"), "y" * 100_000: "b"}
    path.write_text(json.dumps(row) + "\n" + json.dumps(row))
    with pytest.raises(EdgetuneError) as caught:
        list(read_examples(str(path), DataOptions(), lambda bad: None))
    assert len(str(caught.value)) < 1_500
    assert not ACTING.search(str(caught.value))


def test_input_that_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"fine\n\xff\xfe\n"), "utf-8"))
    lines = stdin_lines()
    with pytest.raises(UsageError, match="Text 2 "):
        list(predict_lines(Labels(), lines))  # type: ignore[arg-type]


def test_input_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetune.inference.predictions.MAX_LINE_CHARS", 10)
    monkeypatch.setattr(sys, "stdin", io.StringIO("short\n" + "x" * 11 + "\n"))
    lines = stdin_lines()
    assert next(lines) == "short"
    with pytest.raises(UsageError, match=r"Line 2 .* 10 "):
        next(lines)
