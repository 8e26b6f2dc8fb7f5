"""compare, report, methods and inspect through the command line, on a tiny model."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from conftest import ROOT, RunCli, Trained

METHODS = "train-all,three-stage,info-batch,tfidf-logreg"


@pytest.fixture(scope="module")
def compared(
    demo_csv: Path, tiny_model: Path, run_cli: RunCli, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A comparison of four methods, run once."""
    out = tmp_path_factory.mktemp("compared") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        code, printed, err = run_cli(*arguments(demo_csv, tiny_model, out))
    assert code == 0, err
    assert "info-batch" in printed
    return out


def arguments(demo_csv: Path, tiny_model: Path, out: Path, *more: object) -> tuple[object, ...]:
    settings = [f"model={tiny_model}", "backend=ort", "batch_size=16", "lr=0.003"]
    chosen = [item for one in settings for item in ("--set", one)]
    fixed = ("--methods", METHODS, "--epochs", 2, "--rows", 160, "--eval-rows", 30, "--no-curve")
    return ("compare", demo_csv, *fixed, *chosen, "--out", out, *more)


def test_every_cell_is_a_run_of_its_own(compared: Path) -> None:
    outcomes = [json.loads(line) for line in (compared / "results.jsonl").read_text().splitlines()]
    assert {one["variant"] for one in outcomes} == set(METHODS.split(","))
    for one in outcomes:
        assert one["error"] == "", one
        assert one["n_eval"] == 30
        assert 0 <= one["accuracy"] <= 1
        assert one["seconds"] > 0
        assert one["machine"]["cpu"]
        home = compared / "cells" / f"{one['data']}--{one['variant']}--seed0"
        assert (home / "cell.json").is_file()
        assert (home / "run").is_dir()
    table = (compared / "table.md").read_text()
    assert all(f"| {name} |" in table for name in METHODS.split(","))
    assert len(list(compared.glob("*.png"))) == len(list(compared.glob("*.svg"))) == 3


def test_again_it_keeps_what_is_finished(
    compared: Path, demo_csv: Path, tiny_model: Path, run_cli: RunCli
) -> None:
    before = (compared / "results.jsonl").read_bytes()
    code, _, err = run_cli(*arguments(demo_csv, tiny_model, compared))
    assert code == 0, err
    assert err.count("(kept)") == 4
    assert (compared / "results.jsonl").read_bytes() == before


def test_a_cell_can_be_run_again_alone(compared: Path, run_cli: RunCli, tmp_path: Path) -> None:
    home = compared / "cells" / "tickets--info-batch--seed0"
    code, printed, err = run_cli(
        "finetune", "--config", home / "config.toml", "--out", tmp_path / "again", "--json"
    )
    assert code == 0, err
    first = json.loads((home / "run" / "summary.json").read_text())
    assert json.loads(printed)["accuracy"] == first["accuracy"]
    assert json.loads(printed)["selection"]["n_pruned"] == first["selection"]["n_pruned"] > 0


def test_a_report_of_the_runs_is_one_page(compared: Path, run_cli: RunCli, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    code, _, err = run_cli("report", compared, "--out", page)
    assert code == 0, err
    html = page.read_text(encoding="utf-8")
    assert "info-batch" in html
    assert "<script" not in html


def test_methods_are_listed_and_explained(run_cli: RunCli) -> None:
    code, printed, err = run_cli("methods")
    assert code == 0, err
    assert "rho-loss" in printed
    assert "hf-trainer" in printed
    code, printed, err = run_cli("methods", "rho-loss")
    assert code == 0, err
    assert "Mindermann" in printed
    assert "pool_rows" in printed
    code, _, err = run_cli("methods", "rho-lose")
    assert code == 2
    assert "rho-loss" in err


def test_inspect_lists_rows_and_draws_the_map(trained: Trained, run_cli: RunCli, tmp_path: Path) -> None:
    out, picture = tmp_path / "rows.csv", tmp_path / "map.png"
    code, printed, err = run_cli("inspect", trained.folder, "--out", out, "--map", picture, "--rows", 5)
    assert code == 0, err
    assert "probably wrong" in printed
    assert picture.read_bytes().startswith(b"\x89PNG")
    with out.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 300


def test_nothing_that_a_run_keeps_is_replaced(trained: Trained, run_cli: RunCli, tmp_path: Path) -> None:
    rows, picture = trained.folder / "rows.npz", trained.folder / "run.png"
    before = rows.read_bytes()
    grid = tmp_path / "compared"
    (grid / "cells").mkdir(parents=True)
    (tmp_path / "file").write_text("a file")
    for name in ("grid.json", "results.jsonl"):
        (grid / name).write_text("kept")
    for words, said in (
        (("inspect", trained.folder, "--out", rows), "of that run"),
        (("inspect", trained.folder, "--map", picture), "of that run"),
        (("inspect", trained.folder, "--out", tmp_path), "is a folder"),
        (
            ("inspect", trained.folder, "--map", tmp_path / "map.xyz", "--out", tmp_path / "m.csv"),
            ".png or .svg",
        ),
        (("inspect", trained.folder, "--out", tmp_path / "file" / "m.csv"), "Cannot write"),
        (("report", trained.folder, "--out", trained.folder / "model" / "config.json"), "of that run"),
        (
            ("report", trained.folder, "--format", "json", "--out", grid / "results.jsonl"),
            "of that comparison",
        ),
        (("report", trained.folder, "--out", grid / "cells" / "x" / "cell.json"), "of that comparison"),
    ):
        code, _, err = run_cli(*words)
        assert code in (1, 2), words
        assert said in err, words
    assert rows.read_bytes() == before
    assert not (tmp_path / "m.csv").exists()
    assert (grid / "results.jsonl").read_text() == "kept"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("compare", "x.csv", "--methods", "rondom"), 'Did you mean "random"'),
        (("compare", "x.csv", "--set", "lr"), "NAME=VALUE"),
        (("compare", "x.csv", "--set", "lrr=1"), 'no setting "lrr"'),
        (("compare", "grid.toml", "--epochs", "2"), "holds all settings"),
        (("compare", "nothing-here.csv"), "nothing-here.csv"),
        (("report", ".", "--out", "page.html"), "run"),
        (("inspect", "."), "run"),
        (("inspect", "n" * 300), "too long"),
        (("report", "n" * 300, "--format", "md"), "too long"),
        (("compare", "n" * 300 + ".csv"), "too long"),
        (("compare", "x.csv", "--methods", ","), "no method is given"),
        (("compare", "x.csv", "--methods", ""), "no method is given"),
        (("compare", "x.csv", "--seeds", "99999999999"), "--seeds"),
    ],
)
def test_what_is_wrong_is_a_sentence(
    words: tuple[str, ...],
    said: str,
    run_cli: RunCli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run_cli(*words)
    assert code in (1, 2)
    assert said in err
    assert "Traceback" not in err
