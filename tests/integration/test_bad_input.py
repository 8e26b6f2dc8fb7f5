"""Every mistake ends in one sentence that says what to do, an exit code, and nothing half-written."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome, RunCli, Trained

from edgetune.run_files.history import HistoryWriter

GOOD = "text,label\n" + "".join(f"word{n} the invoice,{'ab'[n % 2]}\n" for n in range(60))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, where `runs/` would appear."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def refused(outcome: Outcome, code: int, *says: str) -> None:
    """Check that a command failed as it should."""
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    lines = [line for line in outcome.err.splitlines() if line.strip()]
    assert "Traceback" not in outcome.err
    assert len(lines) == 1, outcome.err
    for words in says:
        assert words in outcome.err
    assert not Path("runs").exists()
    assert not [path for path in Path().glob("**/.*") if path.is_dir()]


def table(text: str | bytes, name: str = "data.csv") -> Path:
    path = Path(name)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.fixture
def finetune(run_cli: RunCli, tiny_model: Path) -> RunCli:
    """`edgetune finetune` with the tiny model, unless another is given."""

    def call(*args: object) -> Outcome:
        model = () if {"--model", "--artifacts"} & set(args) else ("--model", tiny_model)
        return run_cli("finetune", *args, *model)

    return call


def test_missing_file(finetune: RunCli) -> None:
    refused(finetune("nowhere.csv"), 1, "nowhere.csv")


def test_no_file_at_all(finetune: RunCli) -> None:
    refused(finetune(), 2, "edgetune finetune FILE")


@pytest.mark.parametrize("content", ["", "\n\n", "text,label\n"])
def test_empty_file(finetune: RunCli, content: str) -> None:
    refused(finetune(table(content)), 1, "data.csv")


def test_one_class_only(finetune: RunCli) -> None:
    refused(finetune(table(GOOD.replace(",b\n", ",a\n"))), 1, "at least 2 different", "--label")


@pytest.mark.parametrize(("option", "name"), [("--label", "kind"), ("--text", "body"), ("--text", "7")])
def test_no_such_column(finetune: RunCli, option: str, name: str) -> None:
    refused(finetune(table(GOOD), option, name), 2, name, "text", "label")


def test_columns_that_cannot_be_guessed(finetune: RunCli) -> None:
    two_texts = "".join(f"the invoice number {n},the printer number {n},{'ab'[n % 2]}\n" for n in range(60))
    refused(finetune(table(f"a,b,c\n{two_texts}"), "--header"), 2, "--text")


@pytest.mark.parametrize(
    ("column", "says"),
    [("id", "--label"), ("price", "a number, not a category"), ("score", "a number, not a category")],
)
def test_labels_of_which_no_row_can_be_held_out(finetune: RunCli, column: str, says: str) -> None:
    rows = "".join(f"a{n},{n},{n % 40 / 7:.2f},word{n} the invoice\n" for n in range(300))
    refused(finetune(table(f"id,price,score,text\n{rows}"), "--label", column), 1, "data.csv", says)
    few = "text,label\n" + "".join(f"word{n} the invoice,{'abcde'[n]}\n" for n in range(5))
    refused(finetune(table(few, "few.csv")), 1, "5 different labels", "--label")
    apart = ("--eval", "data.csv", "--label", column)
    refused(finetune(table(f"id,price,score,text\n{rows}"), *apart), 1, "data.csv", says)


def test_binary_file(finetune: RunCli) -> None:
    refused(finetune(table(bytes(range(256)) * 40)), 1, "data.csv")


def test_wrong_encoding(finetune: RunCli) -> None:
    text = GOOD.replace("invoice", "reçu décidé").encode("latin-1")
    refused(finetune(table(text)), 1, "--encoding cp1252")
    assert finetune(table(text), "--encoding", "auto", "--max-steps", 1, "--no-ngrams").code == 0


def test_too_many_bad_rows(finetune: RunCli) -> None:
    refused(finetune(table(GOOD + ",a\n" * 5)), 1, "--max-bad-rows", "5 of the 65")


def test_eval_file_with_unseen_labels_only(finetune: RunCli) -> None:
    other = table(GOOD.replace(",b\n", ",gardening\n").replace(",a\n", ",cooking\n"), "dev.csv")
    refused(finetune(table(GOOD), "--eval", other), 1, "gardening")


def test_unknown_model(finetune: RunCli) -> None:
    refused(finetune(table(GOOD), "--model", "no/such-model"), 1, "no/such-model", "--model")
    refused(finetune(table(GOOD), "--model", "./nothing"), 1, "./nothing", "folder")


def test_hub_dataset_offline(finetune: RunCli) -> None:
    refused(finetune("hub:imdb"), 1, "imdb")


def test_corrupt_weights(finetune: RunCli, model_copy: Path) -> None:
    weights = model_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(finetune(table(GOOD), "--model", model_copy), 1, "model.safetensors", "again")


def test_corrupt_tokenizer(finetune: RunCli, model_copy: Path) -> None:
    (model_copy / "tokenizer.json").write_text("{")
    refused(finetune(table(GOOD), "--model", model_copy), 1, "tokenizer.json")


@pytest.mark.parametrize("backend", ["ort", "torch"])
def test_weights_of_another_model(run_cli: RunCli, model_copy: Path, backend: str) -> None:
    config = json.loads((model_copy / "config.json").read_text())
    (model_copy / "config.json").write_text(json.dumps(config | {"hidden_size": 48}))
    command = ("finetune", table(GOOD), "--model", model_copy, "--backend", backend, "--quiet")
    refused(run_cli(*command), 1, "weights")


def test_architecture_that_is_unknown(run_cli: RunCli, model_copy: Path) -> None:
    config = json.loads((model_copy / "config.json").read_text())
    (model_copy / "config.json").write_text(json.dumps(config | {"model_type": "brandnew"}))
    command = ("finetune", table(GOOD), "--model", model_copy, "--backend", "torch", "--quiet")
    refused(run_cli(*command), 1, "brandnew")


def test_artifacts_by_another_version(finetune: RunCli, artifacts_of: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(artifacts_of().folder, tmp_path / "artifacts"))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"onnxruntime": "1.0.0"}))
    refused(finetune(table(GOOD), "--artifacts", folder), 1, "1.0.0", "export the artifacts again")


def test_artifacts_with_other_labels(finetune: RunCli, artifacts_of: Any) -> None:
    refused(finetune(table(GOOD), "--artifacts", artifacts_of("embeddings", 4).folder), 1, "--labels 2")


@pytest.mark.parametrize("name", ["checkpoint", "training_model.onnx", "optimizer_model.onnx"])
def test_damaged_artifacts(finetune: RunCli, artifacts_of: Any, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(artifacts_of().folder, tmp_path / "artifacts"))
    (folder / name).write_bytes((folder / name).read_bytes()[:100])
    refused(finetune(table(GOOD), "--artifacts", folder), 1, "export")


def test_artifacts_are_not_for_torch(finetune: RunCli, artifacts_of: Any) -> None:
    folder = artifacts_of().folder
    refused(finetune(table(GOOD), "--artifacts", folder, "--backend", "torch"), 2, "--backend torch")


def test_artifacts_that_are_none(finetune: RunCli, here: Path) -> None:
    refused(finetune(table(GOOD), "--artifacts", here), 1, "edgetune export")


def test_a_run_is_not_overwritten(trained: Trained, run_cli: RunCli) -> None:
    before = sorted(path.stat().st_mtime_ns for path in trained.folder.rglob("*"))
    refused(run_cli("finetune", table(GOOD), "--out", trained.folder), 1, "--overwrite")
    refused(run_cli("finetune", table(GOOD), "--out", "."), 1, "--out")
    assert sorted(path.stat().st_mtime_ns for path in trained.folder.rglob("*")) == before


@pytest.mark.parametrize(
    "option",
    [
        ("--epochs", 0),
        ("--batch-size", 0),
        ("--lr", -1),
        ("--holdout", 0),
        ("--seed", -1),
        ("--max-steps", 0),
    ],
)
def test_numbers_that_cannot_be(finetune: RunCli, option: tuple[str, int]) -> None:
    refused(finetune(table(GOOD), *option), 2, option[0], str(option[1]))


@pytest.mark.parametrize("freeze", ["some", "-1", "1.5"])
def test_freezing_that_cannot_be(finetune: RunCli, freeze: str) -> None:
    refused(finetune(table(GOOD), f"--freeze={freeze}"), 2, "--freeze", freeze, "embeddings")


@pytest.mark.parametrize("backend", ["ort", "torch"])
def test_freezing_more_layers_than_there_are(finetune: RunCli, backend: str) -> None:
    command = (table(GOOD), "--freeze", 3, "--backend", backend, "--quiet")
    refused(finetune(*command), 2, "--freeze 3", "from 0 to 2")


def test_unknown_option_and_method(finetune: RunCli) -> None:
    for args, says in ((("--epoch", 3), "--epoch"), (("--method", "magic"), "three-stage")):
        found = finetune(table(GOOD), *args)
        assert found.code == 2
        assert says in found.err
        assert "Traceback" not in found.err
        assert not Path("runs").exists()


def test_unknown_settings_in_a_config(run_cli: RunCli) -> None:
    table("[data]\ntrain = 'data.csv'\n[train]\nepoks = 3\n", "config.toml")
    refused(run_cli("finetune", "--config", "config.toml"), 2, "epoks")
    table("data = 3\n", "config.toml")
    refused(run_cli("finetune", "--config", "config.toml"), 2, "[data]")
    refused(run_cli("finetune", "--config", "none.toml"), 2, "none.toml")


def test_no_runtime_installed(finetune: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    hidden = {"torch", "onnxruntime"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in hidden else found(name, *rest)
    )
    refused(finetune(table(GOOD)), 1, 'pip install "edgetune[cpu]"', "edgetune doctor")


def test_inference_build_only(finetune: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    import edgetune.backends.ort.ort_runtime as home

    monkeypatch.setattr(home, "has_training_build", lambda: False)
    refused(finetune(table(GOOD), "--backend", "ort"), 1, "does not support training", "--backend torch")


def no_space(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_no_space_for_the_history(finetune: RunCli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(HistoryWriter, "append", no_space)
    found = finetune(table(GOOD), "--out", tmp_path / "run", "--quiet")
    refused(found, 1, "No space left", "--out")


@pytest.mark.parametrize("backend", ["ort", "torch"])
def test_no_space_for_the_model(
    finetune: RunCli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backend: str
) -> None:
    """Native writers say it in errors of their own, which are no OSError."""
    import transformers.modeling_utils
    from safetensors import SafetensorError

    def fail(*args: object, **kwargs: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("edgetune.backends.ort.ort_backend.save_file", fail)
    monkeypatch.setattr(transformers.modeling_utils, "safe_save_file", fail)
    options = ("--max-steps", 1, "--no-ngrams", "--backend", backend, "--quiet")
    found = finetune(table(GOOD), *options, "--out", tmp_path / "run")
    refused(found, 1, "No space left", "--out")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock", "config.toml", "history.jsonl"}


def test_no_space_for_tokens(finetune: RunCli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import edgetune.data.tokens as home

    monkeypatch.setattr(home, "build_tokens", no_space)
    refused(finetune(table(GOOD), "--cache-dir", tmp_path / "cache"), 1, "no space left", "--cache-dir")
    assert not list(tmp_path.glob("cache/tokens/*"))


def test_a_cache_that_cannot_be_written(finetune: RunCli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(finetune(table(GOOD), "--cache-dir", tmp_path / "file"), 1, "--cache-dir")


def test_predicting_mistakes(trained: Trained, run_cli: RunCli) -> None:
    refused(run_cli("predict", "nowhere", "text"), 1, "nowhere")
    refused(run_cli("predict", trained.folder, "text", "--file", "x.csv"), 2, "--file")
    refused(run_cli("predict", trained.folder, "--file", "x.csv"), 1, "x.csv")
    refused(run_cli("predict", trained.folder, "text", "--out", "x.xlsx"), 2, ".jsonl")
    refused(run_cli("predict", trained.folder, "text", "--unsure", "1.5"), 2, "--unsure 1.5")
    refused(run_cli("predict", trained.folder, "text", "--all"), 2, "--all", "--out")
    refused(run_cli("predict", trained.folder, "--file", table(GOOD), "--text", "body"), 2, "body")


def test_evaluating_mistakes(trained: Trained, run_cli: RunCli) -> None:
    refused(run_cli("evaluate", trained.folder, "nowhere.csv"), 1, "nowhere.csv")
    refused(run_cli("evaluate", trained.folder, table(GOOD)), 1, '"a"')
    refused(run_cli("evaluate", "nowhere", table(GOOD)), 1, "nowhere")


def test_export_mistakes(run_cli: RunCli, tiny_model: Path, here: Path) -> None:
    (here / "full").mkdir()
    (here / "full" / "thesis.txt").write_text("years of work")
    command = ("export", "--model", tiny_model, "--labels", 2)
    refused(run_cli(*command, "--out", "full"), 1, "--out")
    refused(run_cli("export", "--labels", 1, "--out", "a", "--model", tiny_model), 2, "--labels 1")
    refused(run_cli(*command, "--out", "a", "--freeze", "most"), 2, "--freeze most")
    refused(run_cli("export", "--labels", 2, "--out", "a", "--model", "no/such"), 1, "no/such")
    assert not (here / "a").exists()
