"""Tables, picture and card say what the summary says, and leave out what it does not know."""

from __future__ import annotations

import io
import json
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report_runs
from rich.console import Console

from edgetune.report import result_tables, run_plot
from edgetune.report.model_card import model_card
from edgetune.utils.formatting import duration
from edgetune.utils.metrics import evaluate_predictions
from edgetune.utils.tables import print_sections, sections_text

SPLIT = {"load": 0.4, "tokenize": 0.8, "export": 5.2, "score": 100.1, "train": 380.0, "select": 2.2}
SPLIT |= {"evaluate": 10.0, "save": 1.5, "other": 12.1}
CLASSES = [report_runs.SUMMARY["per_class"][0], report_runs.SUMMARY["per_class"][1] | {"label": "good|ok"}]
SUMMARY: dict[str, Any] = report_runs.SUMMARY | {
    "dataset": "/home/me/my [data]/reviews.csv",
    "label_names": ["bad", "good|ok"],
    "elapsed_s": 512.3,
    "time_split_s": SPLIT,
    "energy_j": None,
    "best_epoch_chosen_on_eval": True,
    "per_class": CLASSES,
    "versions": {"edgetune": "0.1.0", "onnxruntime-training-cpu": "1.19.2"},
}


def _history(n: int, stages: bool) -> list[dict[str, Any]]:
    """Return a history in which stage 1 trains half of what it scores and stage 2 scores half."""
    lines: list[dict[str, Any]] = []
    names = ("warmup", "filter_backward", "filter_forward") if stages else ("all",)
    seen = scored = trained = backward = both = 0
    for i in range(n):
        stage = names[min(i * len(names) // n, len(names) - 1)]
        if not lines or lines[-1]["stage"] != stage:
            lines.append({"kind": "stage", "t_s": i + 0.0, "stage": stage, "n_seen": seen, "reason": "r"})
        seen += 32
        n_scored = {"filter_backward": 32, "filter_forward": 16}.get(stage, 0)
        skip = n_scored > 0 and i % 2 == 1
        n_trained = 0 if skip else n_scored or 32
        scored, trained = scored + n_scored, trained + n_trained
        both += 32 - (n_scored or 32)
        backward += (n_scored or 32) - n_trained
        line = {"kind": "skip" if skip else "step", "t_s": i + 0.5, "stage": stage}
        line |= {"n_seen": seen, "n_scored": scored, "n_trained": trained}
        line |= {"n_skipped_backward": backward, "n_skipped_both": both}
        lines.append(line if skip else line | {"step": i, "loss": 1 / (1 + i), "n": 32})
    evaluation = {"kind": "eval", "t_s": n + 1.0, "epoch": 1, "accuracy": 0.9, "macro_f1": 0.9, "loss": 0.3}
    return [*lines, evaluation | {"n": 80}]


def _size(png: Path) -> tuple[int, int]:
    head = png.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


@pytest.mark.parametrize(("n", "stages"), [(5, True), (5, False), (600, True), (600, False)])
def test_runs_short_and_long_are_drawn(tmp_path: Path, n: int, stages: bool) -> None:
    run_plot.draw_run(_history(n, stages), SUMMARY, tmp_path / "run.png")
    assert _size(tmp_path / "run.png") == (1200, 900)
    assert [one.name for one in tmp_path.iterdir()] == ["run.png"]


@pytest.mark.parametrize(
    "history",
    [
        [],
        [{"kind": "note", "t_s": 0.0}],
        [{"kind": "step", "t_s": 1.0, "loss": None, "stage": "all", "n_seen": 8, "n_trained": 8}],
        [{"kind": "eval", "t_s": 0.0, "epoch": 1, "accuracy": 1.0, "macro_f1": 1.0, "loss": 0.0, "n": 1}],
    ],
)
def test_a_run_that_hardly_was_is_drawn_all_the_same(tmp_path: Path, history: list[dict[str, Any]]) -> None:
    run_plot.draw_run(history, {"dataset": "$a$ " * 30}, tmp_path / "run.png")
    assert _size(tmp_path / "run.png") == (1200, 900)


def summary_text(summary: dict[str, Any]) -> str:
    """The tables after a run, with details, as plain lines."""
    return sections_text(result_tables.summary_sections(summary, details=True))


def test_a_picture_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run.png"
    out.write_bytes(b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        run_plot.draw_run([], {}, out)
    assert [one.name for one in tmp_path.iterdir()] == ["run.png"]
    assert out.read_bytes() == b"old"


def test_shares_follow_the_totals_and_the_rest_waits() -> None:
    data = run_plot.trace(_history(12, stages=True))
    # 12 batches: 4 warm-up all trained, 4 scored of which 2 trained, 4 half scored of which 2 halves trained.
    assert data.shares[:, -1] == pytest.approx([(4 + 2 + 1) / 12, (2 + 1) / 12, 2 / 12])
    assert data.shares.sum(axis=0) == pytest.approx(np.ones(12))
    line = {"kind": "skip", "t_s": 1.0, "n_seen": 10, "n_trained": 4, "n_skipped_backward": 1}
    assert run_plot.trace([line | {"n_skipped_both": 3}]).shares[:, 0] == pytest.approx((0.4, 0.1, 0.3))
    assert run_plot.trace([line]).shares[:, 0] == pytest.approx((0.4, 0.1, 0))


def test_smoothing_starts_unbiased_and_passes_over_gaps() -> None:
    assert run_plot.smooth(np.array([2.0, 2.0, np.nan, 2.0]), 8) == pytest.approx([2, 2, 2, 2])
    assert np.isnan(run_plot.smooth(np.array([np.nan]), 8)).all()
    noisy = np.random.default_rng(0).normal(5, 1, 500)
    assert run_plot.smooth(noisy, 50)[100:].std() < noisy.std() / 3


def test_the_time_table_adds_up_to_elapsed() -> None:
    text = summary_text(SUMMARY)
    block = text.split("Time\n")[1].split("Examples\n")[0]
    seconds = {m[1]: float(m[2]) for m in re.finditer(r"^  (\w+) +([\d.]+) s", block, re.MULTILINE)}
    elapsed = seconds.pop("elapsed")
    assert list(seconds) == list(SPLIT)
    assert sum(seconds.values()) == pytest.approx(elapsed, abs=0.05)


def test_the_summary_fits_one_screen_and_details_are_asked_for() -> None:
    classes = [
        {"label": f"{i} {'long ' * 9}"} | dict.fromkeys(("precision", "recall", "f1"), 0.5) for i in range(13)
    ]
    classes = [one | {"support": 1000} for one in classes]
    learners = [
        {"name": name, "accuracy": 0.8, "held_out": {"accuracy": 0.8}, "weight": 0.5}
        for name in ("n-grams", "linear probe", "encoder")
    ]
    full = SUMMARY | {"per_class": classes[:12], "ensemble": {"learners": learners, "accuracy": 0.9}}
    full |= {"deadline_s": 600.0, "deadline_used_rate": 0.854, "energy_j": 9e3, "interrupted": True}
    full |= {"energy_source": "sensor", "energy_eq6_kwh": 0.1, "co2e_lb": 0.1}
    lines = sections_text(result_tables.summary_sections(full)).splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert sum("0.500" in line for line in lines) == 12
    assert not any(word in " ".join(lines) for word in ("T_norm", "equation 6", "MCC"))
    many = sections_text(result_tables.summary_sections(full | {"per_class": classes}))
    assert "0.500" not in many


def test_the_closing_table_says_everything() -> None:
    text = summary_text(SUMMARY)
    for words in (
        "89.3 % (95 % interval 87.1–91.2 %), 872 rows",
        "0.8891",
        "0.7812",
        "three-stage on ort, preset default",
        "74.2 %",
        "24,000",
        "21.5 %",
        "43.8 %",
        "0.3120 nats",
        "from 1,200 rows seen: predictor's loss 0.48 <= ALT 0.5",
        "0.410",
        "0.620",
        "812 MB",
        "runs/reviews",
        "2, chosen on the evaluation rows",
        "3 duplicate texts",
    ):
        assert words in text
    assert "explored rows that were hard" not in text


def test_why_the_last_stage_was_not_reached_is_said() -> None:
    selection = {"reached_last_stage": False, "why": "the predictor's loss stayed at 0.71, above ALT 0.5"}
    assert "stayed at 0.71" in summary_text({"selection": selection})


def test_terminal_and_plain_tables_hold_the_same_words() -> None:
    plain, terminal = io.StringIO(), io.StringIO()
    sections = result_tables.summary_sections(SUMMARY, details=True)
    print_sections(sections, Console(file=plain, width=40))
    print_sections(sections, Console(file=terminal, width=160, force_terminal=True, no_color=True))
    assert plain.getvalue().strip() == summary_text(SUMMARY).strip()
    shown = re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue())
    assert shown.split() == plain.getvalue().split()
    assert "my [data]" in shown


def test_an_evaluation_shows_classes_and_confusion() -> None:
    logits = np.eye(2)[[0, 0, 1, 1, 1]]
    found = evaluate_predictions(logits, np.array([0, 1, 1, 1, 0]), ["bad", "[red]good"])
    text = sections_text(result_tables.evaluation_sections(found))
    assert re.search(r"^  accuracy +60.0 % \(95 % interval 23.1–88.2 %\)$", text, re.MULTILINE)
    assert re.search(r"^  \[red\]good +0.667 +0.667 +0.667 +3$", text, re.MULTILINE)
    assert re.search(r"^  bad +1 +1$", text, re.MULTILINE)
    screen = io.StringIO()
    terminal = Console(file=screen, width=120, force_terminal=True, no_color=True)
    print_sections(result_tables.evaluation_sections(found), terminal)
    assert "[red]good" in screen.getvalue()


def test_the_card_starts_with_yaml_that_the_hub_reads() -> None:
    yaml = pytest.importorskip("yaml")
    head = yaml.safe_load(model_card(SUMMARY | {"method": 'odd: "name"'}).split("---\n")[1])
    assert head == {
        "license": "apache-2.0",
        "base_model": "sentence-transformers/all-MiniLM-L6-v2",
        "pipeline_tag": "text-classification",
        "library_name": "transformers",
        "tags": ["text-classification", "edgetune", "onnx", 'odd: "name"'],
    }


def test_a_local_folder_is_no_base_model_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mini").mkdir(parents=True)
    for model in ("/somewhere/model", "./model", "models/mini", "a/b/c", "C:\\models\\mini"):
        head = model_card({"model": model}).split("---\n")[1]
        assert "base_model" not in head
        assert "license" not in head
    assert 'base_model: "org/name"' in model_card({"model": "org/name"})


def test_the_card_tells_numbers_cost_and_limits() -> None:
    card = model_card(SUMMARY)
    for words in (
        "Accuracy: 89.3 % (95 % interval 87.1–91.2 %), on 872 rows",
        "| good\\|ok | 0.880 | 0.900 | 0.890 | 472 |",
        "Learning rate: 0.0001",
        "Frozen: embeddings",
        "onnxruntime-training-cpu 1.19.2",
        "AMD EPYC, 2 cores",
        "8 min 32 s",
        "train 380.0 s",
        "812 MB",
        "held out of the same file",
        "best on the evaluation rows",
        "max_length=128",
        "edgetune predict",
    ):
        assert words in card


def test_nothing_is_claimed_that_does_not_hold() -> None:
    card = model_card(SUMMARY | {"eval_source": "dev.tsv", "best_epoch_chosen_on_eval": False})
    assert "held out" not in card
    assert "optimistic" not in card
    told = _words(SUMMARY | {"accuracy": None, "accuracy_interval": None, "n_eval": 0})
    assert "held out" not in told
    assert "valuated on" not in told
    told = _words(SUMMARY | {"n_bad_rows": 7})
    assert re.search(r"unusable rows left out +7", told)
    assert "Unusable rows left out: 7" in told


def _words(summary: dict[str, Any]) -> str:
    return summary_text(summary) + model_card(summary)


def test_any_key_may_be_missing_or_none() -> None:
    for missing in sorted(
        set(SUMMARY) - {"n_trained", "n_steps", "energy_source", "energy_eq6_kwh", "co2e_lb"}
    ):
        without = {key: value for key, value in SUMMARY.items() if key != missing}
        assert _words(without) == _words(without | {missing: None}), missing
        assert "None" not in _words(without), missing
    assert summary_text({}) == ""
    assert "None" not in model_card({})


def test_durations_in_words() -> None:
    said = [duration(seconds) for seconds in (0.0, 9.994, 59.94, 59.97, 200, 7500)]
    assert said == ["0.00 s", "9.99 s", "59.9 s", "1 min 00 s", "3 min 20 s", "2 h 05 min"]


def test_text_tables_and_cards_load_neither_rich_nor_matplotlib() -> None:
    code = (
        "import sys, json; from edgetune.report import run_plot, result_tables;"
        "from edgetune.report.model_card import model_card;"
        f"s = json.loads({json.dumps(json.dumps(SUMMARY))}); "
        "result_tables.summary_sections(s); model_card(s);"
        "sys.exit(', '.join({'rich', 'matplotlib', 'torch', 'onnxruntime'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_encoder_that_was_not_trained_is_not_said_to_be() -> None:
    lines = [{"line": "linear_probe", "planned_s": 1.0, "real_s": 1.0}]
    planned = {"lines": lines, "n_rows": 700, "n_steps": 0, "energy_j": 1.0}
    energy = {"energy_j": 1.0, "energy_source": "estimated", "energy_eq6_kwh": 0.0, "co2e_lb": 0.0}
    summary = SUMMARY | energy | {"method": "linear-probe", "planned": planned, "n_trained": 0, "n_steps": 0}
    card, table = model_card(summary), summary_text(summary)
    assert "untouched encoder" in card
    assert not any(
        words in card for words in ("Finetuned from", "Learning rate", "Optimizer steps", "Batch size")
    )
    assert "examples trained" not in table
    assert re.search(r"rows of the linear probe +700", table)
