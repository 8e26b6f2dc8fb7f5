"""No output option of any command destroys what a user has: one gate for all of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from conftest import Outcome, RunCli, child_environment
from report_runs import write_run

from edgetune.cli import app
from edgetune.data.demo import demo_rows, write_demo
from edgetune.devices.profile_store import save_profile
from edgetune.run_files.outputs import check_comparison_folder, check_outputs, refuse_own_source
from edgetune.utils.errors import RunError, UsageError

KEPT = "text,label\nwords of the user,a\nmore of them,b\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run, the files it was trained and evaluated on, and a file to predict."""
    monkeypatch.chdir(tmp_path)
    for name in ("train.csv", "eval.csv", "new.csv", "other.csv"):
        Path(name).write_text(KEPT)
    write_run(Path("runs/r"), config='[data]\ntrain = "train.csv"\neval = "eval.csv"\n')
    return tmp_path


# What a command is given before its output options; every command that has any must be here.
COMMANDS: dict[str, tuple[object, ...]] = {
    "predict": ("predict", "runs/r", "--file", "new.csv"),
    "inspect": ("inspect", "runs/r"),
    "report": ("report", "runs/r", "--format", "csv"),
    "profile": ("profile",),
    "export": ("export", "--labels", 2),
    "compare": ("compare", "new.csv"),
    "check": ("check", "new.csv"),
    "demo": ("demo",),
    "finetune": ("finetune", "new.csv"),
}
FOLDERS = ("export", "compare", "demo", "finetune")  # their --out is a folder


def output_options() -> dict[str, list[str]]:
    """Return the options of every command that name what it writes."""
    commands: dict[str, Any] = dict(typer.main.get_command(app.app).commands)  # type: ignore[attr-defined]
    found = {
        name: [p.opts[0] for p in command.params if p.name in ("out", "map_")]
        for name, command in commands.items()
    }
    return {name: options for name, options in found.items() if options}


def test_every_command_that_writes_is_tested_and_has_overwrite() -> None:
    assert set(output_options()) == set(COMMANDS)
    commands: dict[str, Any] = dict(typer.main.get_command(app.app).commands)  # type: ignore[attr-defined]
    for name in COMMANDS:
        assert "overwrite" in {p.name for p in commands[name].params}, name


def refused(outcome: Outcome) -> None:
    assert outcome.code in (1, 2), outcome.err
    assert outcome.out == ""
    assert outcome.err.startswith("edgetune: ")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    "path",
    [
        *("train.csv", "eval.csv", "./runs/../train.csv", "link.csv", "hard.csv"),
        *("runs/r", "runs/r/summary.json", "runs/r/metrics.csv", "runs/r/new/file.png", "/dev/null"),
    ],
)
@pytest.mark.parametrize(
    ("command", "option"),
    [(name, o) for name, all_ in output_options().items() if name not in (*FOLDERS, "profile") for o in all_],
)
def test_what_is_needed_is_never_replaced(
    here: Path, run_cli: RunCli, command: str, option: str, path: str
) -> None:
    Path("link.csv").symlink_to("train.csv")
    os.link("train.csv", "hard.csv")
    before = {p: p.read_bytes() for p in here.rglob("*") if p.is_file()}
    refused(run_cli(*COMMANDS[command], option, path, "--overwrite"))
    assert {p: p.read_bytes() for p in here.rglob("*") if p.is_file()} == before
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(
    ("command", "option"), [(name, o) for name, all_ in output_options().items() for o in all_]
)
def test_another_file_is_not_replaced_unasked(here: Path, run_cli: RunCli, command: str, option: str) -> None:
    refused(run_cli(*COMMANDS[command], option, "other.csv"))
    assert Path("other.csv").read_text() == KEPT
    assert "other.csv" in {path.name for path in here.iterdir()}


def test_what_a_command_reads_is_never_replaced(here: Path, run_cli: RunCli) -> None:
    refused(run_cli("predict", "runs/r", "--file", "new.csv", "--out", "new.csv", "--overwrite"))
    assert Path("new.csv").read_text() == KEPT


def test_a_shell_that_appends_to_what_is_read(here: Path) -> None:
    with Path("new.csv").open("a") as out:
        done = subprocess.run(
            [sys.executable, "-m", "edgetune", *map(str, COMMANDS["predict"])],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            env=child_environment(),
            check=False,
        )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert Path("new.csv").read_text() == KEPT


def test_overwrite_replaces_and_a_new_name_needs_nothing(here: Path, run_cli: RunCli) -> None:
    assert run_cli("report", "runs/r", "--out", "table.csv").code == 0
    assert run_cli("report", "runs/r", "--out", "other.csv", "--overwrite").code == 0
    assert Path("other.csv").read_text() == Path("table.csv").read_text()


def test_a_run_is_asked_for_its_data_from_any_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    with pytest.raises(UsageError, match="trained"):
        check_outputs({"--out": Path("../train.csv")}, runs=[Path("../runs/r")], overwrite=True)


def test_a_comparison_is_asked_for_its_data(here: Path) -> None:
    folder = here / "compared"
    folder.mkdir()
    (folder / "grid.json").write_text(json.dumps({"data": [{"name": "x", "train": "train.csv"}]}))
    for path in ("train.csv", "compared/results.jsonl"):
        with pytest.raises(UsageError):
            check_outputs({"--out": Path(path)}, runs=[folder], overwrite=True)
    check_outputs({"--out": folder / "report.html"}, runs=[folder])


def test_files_of_a_folder_that_is_read(here: Path) -> None:
    (here / "texts" / "good").mkdir(parents=True)
    Path("texts/good/1.txt").write_text("fine")
    with pytest.raises(UsageError):
        check_outputs({"--out": Path("texts/good/1.txt")}, reads=["texts"], overwrite=True)
    check_outputs({"--out": Path("texts/found.csv")}, reads=["texts", "hub:texts", None])


def test_two_outputs_need_two_names(here: Path) -> None:
    with pytest.raises(UsageError, match="--map"):
        check_outputs({"--out": Path("a.png"), "--map": Path("./a.png")})


def test_a_link_to_nowhere_is_something(here: Path) -> None:
    Path("dangling.csv").symlink_to("later.csv")
    with pytest.raises(UsageError, match="--overwrite"):
        check_outputs({"--out": Path("dangling.csv")})


def test_a_project_with_a_config_is_no_run(here: Path) -> None:
    Path("config.toml").write_text("title = 'my site'\n")
    check_outputs({"--out": Path("answers.csv")})


def test_a_comparison_keeps_out_of_other_folders(here: Path) -> None:
    grid = {"data": [{"name": "new", "train": "new.csv"}], "settings": {"epochs": 1}, "methods": ["a"]}
    Path("mine").mkdir()
    Path("mine/table.md").write_text("notes")
    Path("mine/thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="--out"):
        check_comparison_folder(Path("mine"), grid, ["new.csv"], overwrite=True)
    with pytest.raises((RunError, UsageError)):
        check_comparison_folder(Path("runs/r"), grid, ["new.csv"], overwrite=True)
    Path("compared/data/new").mkdir(parents=True)
    check_comparison_folder(Path("compared"), grid, ["new.csv"], overwrite=False)  # broken off early
    Path("compared/grid.json").write_text(json.dumps(grid))
    check_comparison_folder(Path("compared"), {**grid, "methods": ["a", "b"]}, ["new.csv"], overwrite=False)
    longer = {**grid, "settings": {"epochs": 2}}
    with pytest.raises(UsageError, match="--overwrite"):
        check_comparison_folder(Path("compared"), longer, ["new.csv"], overwrite=False)
    check_comparison_folder(Path("compared"), longer, ["new.csv"], overwrite=True)
    shutil.copy("new.csv", "compared/data/new/train.jsonl")
    with pytest.raises(UsageError, match="reads"):
        check_comparison_folder(Path("compared"), grid, ["compared/data/new/train.jsonl"], overwrite=True)


@pytest.mark.parametrize("source", ["runs/r", "runs/r/model", "runs/r/bad_rows.jsonl"])
def test_a_run_is_not_replaced_from_its_own_files(here: Path, source: str) -> None:
    from edgetune.run_files.run_folder import OWN

    with pytest.raises(UsageError, match="reads"):
        refuse_own_source(Path("runs/r"), OWN, [source])
    refuse_own_source(Path("runs/r"), OWN, ["train.csv", "runs/r2/model", "hub:runs/r", None])


def test_finetune_does_not_remove_its_own_model(here: Path, run_cli: RunCli) -> None:
    refused(run_cli("finetune", "new.csv", "--model", "runs/r", "--out", "runs/r", "--overwrite"))
    assert Path("runs/r/summary.json").exists()


def test_the_demo_keeps_a_file_of_its_tickets_name(here: Path, run_cli: RunCli) -> None:
    Path("runs/demo-tickets.csv").write_text(KEPT)
    refused(run_cli("demo", "--rows", 100))
    assert Path("runs/demo-tickets.csv").read_text() == KEPT


def test_the_demo_goes_on_with_its_own_tickets(tmp_path: Path) -> None:
    from edgetune.data.demo import is_demo

    write_demo(tmp_path / "t.csv", n_rows=len(demo_rows(20)))
    assert is_demo(tmp_path / "t.csv", n_rows=20)
    assert not is_demo(tmp_path / "t.csv", n_rows=21)
    assert not is_demo(tmp_path / "none.csv")


def test_a_profile_that_was_named_is_not_replaced_unasked(run_cli: RunCli) -> None:
    from profile_samples import make_profile

    path = save_profile(make_profile("carried"))
    before = path.read_bytes()
    refused(run_cli("profile", "--name", "carried"))
    assert path.read_bytes() == before
    path.unlink()


def test_an_export_replaces_only_what_is_its_own(
    artifacts_of: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgetune.backends.ort.artifacts import ArtifactBuilder, export_artifacts

    made = artifacts_of()
    monkeypatch.setattr(ArtifactBuilder, "get", lambda *args: made)
    out = tmp_path / "carried"
    export_artifacts(str(tiny_model), 2, out)
    (out / "notes.txt").write_text("years of work")
    export_artifacts(str(tiny_model), 2, out, overwrite=True)
    assert (out / "notes.txt").read_text() == "years of work"
    assert {path.name for path in made.folder.iterdir()} | {"notes.txt"} == {p.name for p in out.iterdir()}
    web = tmp_path / "web"
    web.mkdir()
    (web / "manifest.json").write_text('{"name": "my site"}')
    with pytest.raises(RunError, match="--out"):
        export_artifacts(str(tiny_model), 2, web, overwrite=True)
    with pytest.raises(UsageError, match="--out"):
        export_artifacts(str(tiny_model), 2, write_run(tmp_path / "run") / "artifacts")
    monkeypatch.chdir(web)
    (web / "manifest.json").unlink()
    export_artifacts(str(tiny_model), 2, Path())
    assert (web / "training_model.onnx").is_file()
