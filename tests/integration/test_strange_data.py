"""Runs on data that would act, changes its kind halfway, or vanishes."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from conftest import RunCli

from edgetune.data.labels import normal_label

ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
LABELS = ("\x1b[31mred\x1b[0m", "=1+1", "a\nb | <img src=x onerror=alert(1)>", "\u202eevil\x00")


def test_labels_that_would_act(run_cli: RunCli, tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"text": f"ticket {i} {LABELS[i % 4]}", "label": LABELS[i % 4]} for i in range(120)]
    data = tmp_path / "\x1b[1mrows.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    run = tmp_path / "run"
    shown = []

    def called(*args: object) -> str:
        code, out, err = run_cli(*args)
        assert code == 0, err
        shown.extend([out, err])
        return str(out)

    called("finetune", data, "--model", tiny_model, "--backend", "ort", "--out", run)
    called("predict", run, *LABELS[:3])
    found = called("predict", run, LABELS[0], "--json")
    assert json.loads(found)["text"] == LABELS[0]
    assert json.loads(found)["predicted"] in map(normal_label, LABELS)
    called("evaluate", run, data)
    called("inspect", run, "--out", tmp_path / "rows.csv")
    called("predict", run, "--file", data, "--out", tmp_path / "p.csv")
    called("report", run, "--format", "md")
    called("report", run, "--format", "csv")
    called("report", run, "--out", tmp_path / "report.html")
    assert not any(ACTING.search(text) for text in shown)
    for name in ("rows.csv", "p.csv"):
        with (tmp_path / name).open(encoding="utf-8", newline="") as file:
            written = list(csv.DictReader(file))
        assert not any(ACTING.search(value.replace("\n", "")) for row in written for value in row.values())
        assert not any(row["text"].startswith("=") for row in written)  # labels are known, and kept
    for path in (tmp_path / "report.html", run / "model" / "README.md"):
        text = path.read_text(encoding="utf-8")
        assert not ACTING.search(text)
        assert "<img src=x" not in text.replace("\\<", "").replace("`a b | <img", "")


def test_labels_that_change_halfway_are_told(run_cli: RunCli, tiny_model: Path, tmp_path: Path) -> None:
    numbers = "".join(f"the invoice {i},{i % 2}\n" for i in range(60))
    words = "".join(f"the printer {i},{('no', 'yes')[i % 2]}\n" for i in range(60))
    data = tmp_path / "rows.csv"
    data.write_text(f"text,label\n{numbers}{words}")
    out = tmp_path / "run"
    code, _, err = run_cli(
        "finetune", data, "--model", tiny_model, "--max-steps", 1, "--no-ngrams", "--out", out
    )
    assert code == 0, err
    (told,) = [line for line in err.splitlines() if "change from numbers" in line]
    assert told == (
        'warning: The labels change from numbers ("0") to words ("no", first on line 62). If a class is '
        "written in two ways, make its labels consistent."
    )


def test_an_eval_file_that_vanishes(
    run_cli: RunCli, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there when the run begins, and gone when the training rows are read."""
    import edgetune.data.splits

    rows = "text,label\n" + "".join(f"the invoice {i},{i % 2}\n" for i in range(60))
    data, dev = tmp_path / "rows.csv", tmp_path / "dev.csv"
    data.write_text(rows)
    dev.write_text(rows)
    real = edgetune.data.splits.open_tokens

    def opened(path: str, *args: object) -> object:
        store = real(path, *args)  # type: ignore[arg-type]
        dev.unlink(missing_ok=True)
        return store

    monkeypatch.setattr(edgetune.data.splits, "open_tokens", opened)
    code, out, err = run_cli(
        "finetune", data, "--eval", dev, "--model", tiny_model, "--out", tmp_path / "run"
    )
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith(f"edgetune: {dev} does not exist.")
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()
