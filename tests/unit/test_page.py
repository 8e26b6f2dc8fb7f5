"""The report reads run folders, refuses what is none, and says what they say, safely, in four formats."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from report_runs import CONFIG, SPLIT, SUMMARY, PageReader, png, write_compare, write_run
from typer.testing import CliRunner

import edgetune
from edgetune.cli.compare_commands import report
from edgetune.report import run_table
from edgetune.report.charts import undominated
from edgetune.report.collect import CollectedRuns, collect, unique_names
from edgetune.report.page import bar_parts, page
from edgetune.report.page_parts import Html, class_tables, tag
from edgetune.run_files.summary import RunResult
from edgetune.utils.errors import RunError, UsageError
from edgetune.utils.sanitize import visible

MADE = datetime(2026, 11, 21, 18, 30, tzinfo=timezone.utc)
RESULTS = "Runs, ranked by accuracy; reviews.csv on AMD EPYC, 2 cores"
NASTY = (
    "<script>alert('x')</script>",
    '"><img src=x onerror=alert(1)>',
    "</td></table></style>&amp;",
    "nul\x00esc\x1b[31mred",
    "\u202egnp.exe",
    "half \ud800 a character",
    "שלום\u200f",
    "$x$ `code` | *bold*",
)


def three(folder: Path) -> list[Path]:
    """Three runs: accurate and slow, in between, and one that nothing was measured of."""
    quick = {"elapsed_s": 30.0, "time_split_s": {"load": 1.0, "train": 29.0}}
    unknown = ("accuracy", "accuracy_interval", "macro_f1", "mcc", "t_norm_measured", "t_norm_modelled")
    nothing = dict.fromkeys((*unknown, "threshold", "peak_memory_mb", "best_epoch", "eval_loss"))
    return [
        write_run(folder / "slow", picture=png()),
        write_run(folder / "quick", method="random", seed=1, accuracy=0.85, n_scored=0, **quick),
        write_run(folder / "none", method="train-all", per_class=[], confusion=[], warnings=[], **nothing),
    ]


def read(collected: CollectedRuns) -> PageReader:
    return PageReader(page(collected, MADE))


def test_the_summary_in_these_tests_is_one_of_this_version() -> None:
    made = RunResult.model_validate(SUMMARY).to_dict()
    assert {name: made[name] for name in SUMMARY} == SUMMARY


def test_reads_what_is_there(tmp_path: Path) -> None:
    (run,) = collect([write_run(tmp_path / "a", picture=png())]).runs
    assert run.name == "a"
    assert run.figures.accuracy == 0.893
    assert run.figures.machine.describe == "AMD EPYC, 2 cores"
    assert f"{run.date:%Y-%m-%d %H:%M}" == "2026-11-18 11:06"
    assert run.config == CONFIG
    assert run.picture == png()
    assert {"Result", "Time"} <= {section.title for section in run.sections}


def test_a_picture_that_is_none_is_left_out(tmp_path: Path) -> None:
    (run,) = collect([write_run(tmp_path / "a", picture=b"<svg onload=alert(1)>", config=None)]).runs
    assert (run.picture, run.config) == (None, None)


def test_the_same_run_counts_once(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a")
    (tmp_path / "link").symlink_to(a)
    assert len(collect([a, tmp_path / "a" / ".." / "a", tmp_path / "link"]).runs) == 1


def test_names_tell_runs_apart(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "x" / "a"), write_run(tmp_path / "y" / "a"), write_run(tmp_path / "b")]
    assert [run.name for run in collect(folders).runs] == ["x/a", "y/a", "b"]
    paths = [Path("/p/x/a"), Path("/q/x/a"), Path("/q/y/a")]
    assert unique_names(paths) == ["p/x/a", "q/x/a", "y/a"]
    assert unique_names([]) == []


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.write_text("x"), "is a file, not a run folder"),
        (lambda folder: folder.mkdir(), "is not a run folder"),
        (lambda folder: write_run(folder / "inside"), "it contains run folders: give these.*inside"),
        (lambda folder: write_run(folder).joinpath("summary.json").unlink(), "did not finish"),
    ],
)
def test_what_is_no_run_is_refused_by_name(tmp_path: Path, make: Any, words: str) -> None:
    make(tmp_path / "odd")
    with pytest.raises(RunError, match=f"(?s){re.escape(str(tmp_path / 'odd'))} .*{words}"):
        collect([write_run(tmp_path / "good"), tmp_path / "odd"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is damaged"),
        ("\ud800".encode("utf-8", "surrogatepass"), "is damaged"),
        ("[1]", "does not contain a JSON object"),
        ('{"schema_version": 3}', "written by a newer edgetune [(]schema 3[)]; update edgetune"),
        ('{"schema_version": 1}', "written by an older edgetune [(]schema 1[)]; train again to report it"),
        ('{"accuracy": "high"}', "not an edgetune summary: accuracy: input should be a valid number"),
        ('{"accuracy": 1e999}', "accuracy"),
        ('{"energy_j": 1.0}', "not a complete summary"),
    ],
)
def test_a_summary_that_cannot_be_read_is_refused(tmp_path: Path, text: str | bytes, words: str) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "summary.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RunError, match=words) as caught:
        collect([folder])
    assert str(folder / "summary.json") in str(caught.value)


def test_a_loss_that_was_not_finite_is_not_measured(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", accuracy=float("nan"), elapsed_s=float("inf"))
    (run,) = collect([folder]).runs
    assert (run.figures.accuracy, run.figures.elapsed_s) == (None, None)


def test_a_compare_folder_gives_its_finished_runs(tmp_path: Path) -> None:
    folder = write_compare(tmp_path / "cmp", b={"seed": 2}, a={"seed": 1}, failed=None, outside=None)
    for name, file in (("torn", "summary.json"), ("outside", "result.json"), ("going", "history.jsonl")):
        run = folder / "cells" / name / "run"
        run.mkdir(parents=True)
        (run / file).write_text("{")
        if name != "outside":
            (run.parent / "cell.json").write_text("[")
    found = collect([folder, folder / "cells" / "a" / "run"])
    assert [(run.name, run.figures.seed) for run in found.runs] == [("a", 1), ("b", 2)]
    assert [f"{run.date:%Y-%m-%d %H:%M}" for run in found.runs] == ["2026-11-20 09:00"] * 2
    told = dict(zip(("failed", "going", "outside", "torn"), found.left_out, strict=True))
    assert "failed/run has no summary.json: " in told["failed"]
    assert "going/run has no summary.json: " in told["going"]
    assert "outside/run has no summary.json" in told["outside"]
    assert "is damaged" in told["torn"]
    assert "Left out: 4 runs" in read(found).text


def test_a_baseline_of_a_compare_folder_is_ranked_with_the_others(tmp_path: Path) -> None:
    folder = write_compare(tmp_path / "cmp", ours={"accuracy": 0.8})
    cell = folder / "cells" / "tfidf"
    (cell / "run").mkdir(parents=True)
    (cell / "run" / "result.json").write_text("{}")
    (cell / "task.json").write_text(json.dumps({"data": {"train": SUMMARY["dataset"]}, "eval": "dev.csv"}))
    outcome = {"accuracy": 0.95, "n_eval": 872, "seconds": 3.5, "variant": "tfidf-logreg", "seed": 0}
    outcome |= {"machine": SUMMARY["machine"], "date": "2026-11-20T09:00:00+00:00", "energy_source": ""}
    (cell / "cell.json").write_text(json.dumps(outcome))
    found = collect([folder])
    assert not found.left_out
    (group,) = run_table.grouped(found.runs)
    assert run_table.describe_method(group.runs[0].figures) == "tfidf-logreg"
    assert (group.runs[0].figures.elapsed_s, len(group.runs)) == (3.5, 2)
    assert "tfidf-logreg" in read(found).text


@pytest.mark.parametrize(
    ("method", "name"), [("train-all", "no rows trained"), ("linear-probe", "linear-probe")]
)
def test_a_run_that_trained_no_row_is_named_so(tmp_path: Path, method: str, name: str) -> None:
    folder = write_run(tmp_path / "run", method=method, preset="", n_trained=0, n_steps=0)
    assert run_table.describe_method(collect([folder]).runs[0].figures) == name


def test_a_compare_folder_without_a_finished_run_is_refused(tmp_path: Path) -> None:
    folder = write_compare(tmp_path / "cmp", a=None)
    with pytest.raises(RunError, match=r"no finished run in .*cmp"):
        collect([folder])


def test_runs_are_ranked_within_data_and_machine(tmp_path: Path) -> None:
    pi = {"cpu": "Cortex-A76", "cores": 4}
    folders = [
        write_run(tmp_path / "low", accuracy=0.8),
        write_run(tmp_path / "none", accuracy=None),
        write_run(tmp_path / "high-slow", accuracy=0.9, elapsed_s=90.0),
        write_run(tmp_path / "high-quick", accuracy=0.9, elapsed_s=20.0),
        write_run(tmp_path / "pi", machine=pi),
        write_run(tmp_path / "sst2", dataset="data/sst2/train.tsv"),
        write_run(tmp_path / "unknown", machine={}),
        write_run(tmp_path / "other", machine={}, label_names=[*"abcde"]),
    ]
    groups = run_table.grouped(collect(folders).runs)
    assert [(group.data, group.machine, [run.name for run in group.runs]) for group in groups] == [
        ("reviews.csv", "AMD EPYC, 2 cores", ["high-quick", "high-slow", "low", "none"]),
        ("sst2/train.tsv", "AMD EPYC, 2 cores", ["sst2"]),
        ("reviews.csv", "Cortex-A76, 4 cores", ["pi"]),
        ("reviews.csv (labels a, b, c, d, …)", "unknown machine", ["other"]),
        ("reviews.csv (labels bad, good)", "unknown machine", ["unknown"]),
    ]
    shown = read(collect(folders))
    assert "made on 3 machines: AMD EPYC, 2 cores; Cortex-A76, 4 cores; unknown machine" in shown.text
    assert "compared" in shown.text
    heads = [row[0] for row in shown.tables["Runs, ranked by accuracy"] if len(row) == 1]
    assert heads[2] == "reviews.csv on Cortex-A76, 4 cores"


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        (None, "unknown data"),
        ("../data/sst2/train.tsv.gz", "sst2/train.tsv.gz"),
        ("C:\\data\\reviews.csv", "reviews.csv"),
        ("hub:org/name:train", "hub:org/name:train"),
        ("..", ".."),
    ],
)
def test_data_is_named_by_what_tells_it(tmp_path: Path, dataset: str | None, name: str) -> None:
    (run,) = collect([write_run(tmp_path / "a", dataset=dataset)]).runs
    assert run_table.data_name(run.figures) == name


def test_notes_say_what_differs(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / "a", n_eval=500, energy_measured=True),
        write_run(tmp_path / "b", dataset="elsewhere/reviews.csv", interrupted=True),
    ]
    told = " ".join(run_table.notes(run_table.grouped(collect(folders).runs)))
    for words in ("different rows", "different paths", "estimated in others", "Stopped before the end: b."):
        assert words in told
    alike = [write_run(tmp_path / "c"), write_run(tmp_path / "d")]
    assert run_table.notes(run_table.grouped(collect(alike).runs)) == []


def test_tables_of_the_page_hold_the_figures(tmp_path: Path) -> None:
    shown = read(collect(three(tmp_path)))
    head, *rows = shown.tables[RESULTS]
    assert head[:4] == ["#", "run", "method", "seed"]
    assert rows[0] == [
        *("1", "slow", "three-stage", "0", "ort", "89.3 % (87.1–91.2)", "0.8891", "100.0 s"),
        "1.50 kJ, estimated",
    ]
    assert rows[2][:3] == ["3", "none", "train-all"]
    assert rows[2][5:7] == ["not measured", "not measured"]
    phases = next(rows for caption, rows in shown.tables.items() if caption.startswith("Seconds by phase"))
    assert phases[0] == ["#", "run", "time", *(f"{name} (s)" for name in SPLIT)]
    assert phases[1][2:5] == ["100.0 s", "1.00", "0.50"]
    assert phases[2][4] == "not measured"
    costs = next(rows for caption, rows in shown.tables.items() if caption.startswith("Examples, steps"))
    assert costs[1][2:] == [
        *("24,000", "12,000", "8,000", "250", "21.5 %", "43.8 %", "0.620", "0.410", "812 MB"),
        "2026-11-18 11:06",
    ]
    assert costs[2][3] == "0"  # measured, and nothing was scored
    confusion = shown.tables["Confusion matrix (rows: true class, columns: predicted class)"]
    assert confusion == [["true", "bad", "good"], ["bad", "352", "48"], ["good", "45", "427"]]
    assert shown.tables["Results by class"][1] == ["bad", "0.900", "0.880", "0.890", "400"]
    for words in (
        "3 duplicate texts",
        'train = "reviews.csv"',
        "0.3120 nats",
        "predictor's loss 0.48 <= ALT",
    ):
        assert words in shown.text
    assert f"2026-11-21 18:30 UTC by edgetune {edgetune.__version__}" in shown.text


def test_the_page_says_which_classes_have_no_evaluation_rows(tmp_path: Path) -> None:
    per_class = [{**SUMMARY["per_class"][0], "support": support} for support in (0, 5)]
    found = page(collect([write_run(tmp_path / "a", per_class=per_class)]), MADE)
    assert "1 of 2 classes have no evaluation rows" in found
    assert "no evaluation rows" not in page(collect([write_run(tmp_path / "b")]), MADE)


def test_the_page_is_whole_and_alone(tmp_path: Path) -> None:
    found = collect(three(tmp_path))
    text = page(found, MADE)
    assert page(found, MADE) == text
    shown = PageReader(text)
    assert shown.wrong == []
    assert len(shown.ids) == len(set(shown.ids))
    assert set(shown.links) <= set(shown.ids)
    assert "script" not in shown.names
    assert shown.headings[0] == 1
    assert all(after - before <= 1 for before, after in zip(shown.headings, shown.headings[1:], strict=False))
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert text.count("<svg") == 2
    assert text.count("data:image/png;base64,") == 1
    assert "<caption>" in text
    assert 'scope="col"' in text
    assert 'scope="row"' in text
    assert re.search(r'<img [^>]*alt="[^"]+"', text)
    for words in ("prefers-color-scheme: dark", "@media print", "Content-Security-Policy", "edgetune: 3"):
        assert words in text


@pytest.mark.parametrize("nasty", NASTY)
def test_nothing_that_a_run_says_becomes_markup(tmp_path: Path, nasty: str) -> None:
    one = {"label": nasty, "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 1}
    folder = write_run(
        tmp_path / "a",
        label_names=[nasty, "b"],
        per_class=[one, one],
        method=nasty,
        backend=nasty,
        dataset=nasty,
        energy_source=nasty,
        eval_source=nasty,
        warnings=[nasty],
        machine={"cpu": nasty, "cores": 2},
        time_split_s={nasty: 60.0, "train": 30.0},
        stages=[{"stage": nasty, "n_seen": 0, "reason": nasty}],
        config=f"# {nasty}\n",
    )
    text = page(collect([folder]), MADE)
    plain = PageReader(page(collect([write_run(tmp_path / "plain")]), MADE))
    shown = PageReader(text)
    text.encode()
    for write in (run_table.to_json, run_table.to_csv, run_table.to_markdown):
        write(collect([folder])).encode()
    assert shown.wrong == []
    assert shown.names <= plain.names
    assert visible(nasty) in shown.text
    assert visible(nasty) in shown.tables["Results by class"][1][0]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", text)


def test_attributes_are_escaped_and_none_is_left_out() -> None:
    made = tag("a", "<x>", Html("<b></b>"), href='"', class_=None, aria_label="\x00")
    assert made == '<a href="&quot;" aria-label="\ufffd">&lt;x&gt;<b></b></a>'
    assert tag("br") == "<br>"


def test_many_classes_are_told_by_their_largest_confusions(tmp_path: Path) -> None:
    n = 30
    confusion = np.full((n, n), 0) + np.eye(n, dtype=int) * 9
    confusion[3, 4] = 7
    labels = [f"class {i}" for i in range(n)]
    classes = [
        {"label": label, "precision": None, "recall": 1.0, "f1": 1.0, "support": 9} for label in labels
    ]
    folder = write_run(tmp_path / "a", label_names=labels, per_class=classes, confusion=confusion.tolist())
    shown = read(collect([folder]))
    assert shown.wrong == []
    assert shown.tables["The 1 largest confusions among 30 classes"][1] == ["class 3", "class 4", "7"]
    assert shown.tables["Results by class"][1] == ["class 0", "not measured", "1.000", "1.000", "9"]
    assert "All 30 classes" in shown.text


def test_a_matrix_that_does_not_fit_its_labels_is_numbered(tmp_path: Path) -> None:
    (run,) = collect([write_run(tmp_path / "a", confusion=[[1, 2, 3], [4]], per_class=[])]).runs
    (made,) = class_tables(run.figures)
    shown = PageReader(made)
    assert next(iter(shown.tables.values())) == [["true", "0", "1", "2"], ["0", "1", "2", "3"], ["1", "4"]]


def test_a_summary_that_tells_next_to_nothing_is_shown(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "summary.json").write_text("{}")
    found = collect([folder])
    shown = read(found)
    assert shown.wrong == []
    assert shown.tables["Runs, ranked by accuracy; unknown data on unknown machine"][1][2:] == (
        ["not measured"] * 7
    )
    assert "No run has both an accuracy and a time." in shown.text
    assert "No run has its time by phase." in shown.text
    assert "nan" not in shown.text
    assert "None" not in shown.text
    assert "not measured" in run_table.to_markdown(found)
    assert len(list(csv.DictReader(io.StringIO(run_table.to_csv(found))))) == 1


def test_the_front_holds_what_nobody_beats() -> None:
    seconds = np.array([10.0, 20.0, 20.0, 30.0, 40.0, 10.0, 50.0])
    accuracy = np.array([0.7, 0.8, 0.75, 0.8, 0.9, 0.7, 0.85])
    assert undominated(seconds, accuracy).tolist() == [0, 1, 4]
    assert undominated(np.zeros(0), np.zeros(0)).tolist() == []


def test_small_phases_are_drawn_as_other(tmp_path: Path) -> None:
    split = {"load": 0.5, "tokenize": 10.0, "train": 60.0, "other": 2.0}
    runs = collect([write_run(tmp_path / "a", time_split_s=split, elapsed_s=80.0)]).runs
    parts = bar_parts(runs)
    assert {name: seconds.tolist() for name, seconds in parts.items()} == {
        "train": [60.0],
        "tokenize": [10.0],
        "other": [10.0],
    }


def test_hundreds_of_runs_of_many_methods_are_drawn(tmp_path: Path) -> None:
    folders = [
        write_run(
            tmp_path / f"run{i}",
            method=f"method-{i % 17}",
            accuracy=0.5 + i / 200,
            accuracy_interval=None,
            elapsed_s=10.0 + i**2,
            picture=png(),
        )
        for i in range(70)
    ]
    text = page(collect(folders), MADE)
    assert text.count("data:image/png;base64,") == 40
    shown = PageReader(text)
    assert shown.wrong == []
    assert shown.text.count("The plot of this run is run.png in its folder") == 30
    assert "Only the first 60 runs are drawn" in shown.text


def test_csv_reads_back(tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(run_table.to_csv(collect(three(tmp_path))))))
    assert [row["run"] for row in rows] == ["slow", "quick", "none"]
    first = rows[0]
    for name in ("method", "backend", "energy_source"):
        assert first[name] == SUMMARY[name]
    names = ("accuracy", "macro_f1", "elapsed_s", "n_seen", "n_scored", "n_trained", "n_steps", "energy_j")
    for name in (*names, "skipped_backward_rate", "skipped_both_rate", "t_norm_measured", "t_norm_modelled"):
        assert float(first[name]) == SUMMARY[name]
    assert [float(first["accuracy_low"]), float(first["accuracy_high"])] == SUMMARY["accuracy_interval"]
    assert {name: float(first[f"time_{name}_s"]) for name in SPLIT} == SPLIT
    assert (first["cpu"], first["cores"], first["date"]) == ("AMD EPYC", "2", "2026-11-18T11:06:40Z")
    assert rows[2]["accuracy"] == ""
    assert rows[1]["n_scored"] == "0"
    assert rows[1]["time_score_s"] == ""


def test_no_cell_is_a_formula() -> None:
    for text in ("=cmd|' /C calc'!A0", "+SUM(A1)", "-2+3", "@x", "\tx", "-inf"):
        assert run_table.csv_cell(text) == f"'{text}"
    for value in ("-1.5e-3", "+7", "plain = text", "", -1.5, None):
        assert run_table.csv_cell(value) == value


def test_formulas_in_a_run_stay_text(tmp_path: Path) -> None:
    folder = write_run(
        tmp_path / "=1+1", dataset="=HYPERLINK(1)", machine={"cpu": "@x"}, time_split_s={"=a": 1.0}
    )
    (row,) = csv.reader(io.StringIO(run_table.to_csv(collect([folder])).splitlines()[1]))
    assert row[:3] == ["'=1+1", "1", "'=HYPERLINK(1)"]
    assert "'@x" in row


def test_json_reads_back(tmp_path: Path) -> None:
    whole = json.loads(run_table.to_json(collect(three(tmp_path))))
    assert (whole["schema_version"], whole["left_out"]) == (1, [])
    assert [(run["run"], run["rank"]) for run in whole["runs"]] == [("slow", 1), ("quick", 2), ("none", 3)]
    names = ("accuracy", "macro_f1", "elapsed_s", "time_split_s", "n_seen", "energy_source", "seed")
    first = whole["runs"][0]
    assert {name: first[name] for name in names} == {name: SUMMARY[name] for name in names}
    assert first["data"] == SUMMARY["dataset"]
    assert whole["runs"][2]["accuracy"] is None


def test_markdown_reads_back(tmp_path: Path) -> None:
    lines = run_table.to_markdown(collect(three(tmp_path))).splitlines()
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    head, align, *rows = cells
    assert len({len(row) for row in cells}) == 1
    assert set(align) == {"---", "--:"}
    first = dict(zip(head, rows[0], strict=True))
    assert first["run"] == "slow"
    assert first["accuracy (95 % interval)"] == "89.3 % (87.1–91.2)"
    assert first["train (s)"] == "70.00"
    assert first["energy source"] == "estimated: 15 W while busy"
    assert first["machine"] == "AMD EPYC, 2 cores"
    assert dict(zip(head, rows[2], strict=True))["macro-F1"] == "not measured"


def test_markdown_shows_odd_names_as_they_are(tmp_path: Path) -> None:
    text = run_table.to_markdown(collect([write_run(tmp_path / "a", method="a|b\n<i>*c*`\x00")]))
    assert r"a\|b \<i\>\*c\*\`" in text
    assert "\x00" not in text


def _report(*args: object) -> str:
    app = typer.Typer()
    app.command()(report)
    return CliRunner().invoke(app, [*map(str, args)], catch_exceptions=False).output


def test_the_command_writes_by_name_and_prints(tmp_path: Path) -> None:
    runs = three(tmp_path / "runs")
    for name in ("report.html", "report.md", "report.csv", "report.json"):
        assert "3 runs" in _report(*runs, "--out", tmp_path / name)
    found = collect(runs)
    assert (tmp_path / "report.csv").read_text(encoding="utf-8") == run_table.to_csv(found)
    assert PageReader((tmp_path / "report.html").read_text(encoding="utf-8")).wrong == []
    assert _report(*runs, "--format", "md") == run_table.to_markdown(found)
    _report(*runs, "--format", "json", "--out", tmp_path / "odd.txt")
    assert json.loads((tmp_path / "odd.txt").read_text(encoding="utf-8"))["schema_version"] == 1


def test_the_command_says_what_it_left_out(tmp_path: Path) -> None:
    cells: dict[str, Any] = {"done": {}, **{f"cell{i}": None for i in range(8)}}
    printed = _report(write_compare(tmp_path / "cmp", **cells), "--out", tmp_path / "r.html")
    assert printed.count("Left out: ") == 6
    assert "Left out: 3 more." in printed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--out report.html"),
        (["--format", "html"], "HTML needs an output file"),
        (["--out", "report.pdf"], "unknown file extension"),
        (["--out", "."], "unknown file extension"),
        (["--out", "a", "--format", "md"], "is a folder"),
        (["--out", "a/summary.json"], "of that run"),
    ],
)
def test_the_command_refuses_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "a")
    with pytest.raises(UsageError, match=words):
        _report("a", *options)
