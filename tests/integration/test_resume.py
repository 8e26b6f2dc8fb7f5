"""A run that is broken off goes on, and comes out as if nothing had happened."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Outcome, RunCli, says_mean, write_tiny_model
from filelock import FileLock

from edgetune import load_run
from edgetune.backends.ort.ort_backend import OrtBackend
from edgetune.backends.torch.torch_backend import TorchBackend
from edgetune.run_files.checkpoint import checkpoint_files, newest_checkpoint
from edgetune.run_files.history import read_history
from edgetune.runs import cross_fitting, training
from edgetune.utils import failpoints

TIMES = ("t_s", "train_s")
COUNTS = ("n_seen", "n_scored", "n_trained", "n_steps", "accuracy", "eval_loss", "best_epoch", "threshold")


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have something happen at a place of the next run; "" for nothing any more."""

    def ask(what: str) -> None:
        failpoints._passed.clear()
        monkeypatch.delenv(failpoints.SWITCH, raising=False)
        if what:
            monkeypatch.setenv(failpoints.SWITCH, what)

    return ask


def arguments(data: Path, model: Path, out: Path, *more: object) -> tuple[object, ...]:
    common = ("--epochs", 2, "--batch-size", 8, "--precision", "fp32", "--threads", 1)
    common = (*common, "--checkpoint-every", 0, *(() if "three-stage" in more else ("--no-ngrams",)))
    return ("finetune", data, "--model", model, "--out", out, *common, *more)


def left_by(run: Path) -> dict[str, Any]:
    """Everything that must not depend on a break."""
    lines = read_history(run / "history.jsonl")
    summary = json.loads((run / "summary.json").read_text())
    with np.load(run / "rows.npz") as rows:
        record = {name: rows[name].tobytes() for name in rows.files}
    return {
        "weights": (run / "model" / "model.safetensors").read_bytes(),
        "history": [{k: v for k, v in line.items() if k not in TIMES} for line in lines],
        "rows": record,
        "ensemble": {path.name: path.read_bytes() for path in (run / "ensemble").glob("*")},
        "summary": {name: summary[name] for name in COUNTS},
    }


@pytest.fixture
def broken_off(demo_csv: Path, tiny_model: Path, run_cli: RunCli, fault: Any, tmp_path: Path) -> Path:
    """A run of ONNX Runtime that was stopped after 20 steps."""
    out = tmp_path / "run"
    fault("step:20:stop")
    assert run_cli(*arguments(demo_csv, tiny_model, out, "--backend", "ort")).code == 130
    fault("")
    return out


def resumed(run_cli: RunCli, run: Path) -> Outcome:
    done = run_cli("finetune", "--resume", run, "--quiet")
    assert done.code == 0, done.err
    return done


def finish_after_two_breaks(run_cli: RunCli, fault: Any, out: Path, command: tuple[object, ...]) -> Outcome:
    """Stop a run after 7 steps, and again 4 steps later; return what was said at the first stop."""
    fault("step:7:stop")
    broken = run_cli(*command)
    assert broken.code == 130
    assert load_run(out).predict(["my parcel never came"])
    fault("step:4:stop")
    assert run_cli("finetune", "--resume", out, "--quiet").code == 130
    fault("")
    resumed(run_cli, out)
    return broken


# Every method is broken off with a made-up backend in tests/conformance/test_loop_resume.py.
@pytest.mark.parametrize(
    ("backend", "method", "freeze"),
    [
        ("ort", "three-stage", "embeddings"),
        ("ort", "cartography-ambiguous", "1"),
        ("torch", "train-all", "embeddings"),
        ("torch", "three-stage", "1"),
    ],
)
def test_bit_for_bit(
    backend: str,
    method: str,
    freeze: str,
    demo_csv: Path,
    tiny_model: Path,
    run_cli: RunCli,
    fault: Any,
    tmp_path: Path,
) -> None:
    how = ("--backend", backend, "--method", method, "--freeze", freeze, "--quiet", "--set", "warmup_gain=0")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = run_cli(*arguments(demo_csv, tiny_model, whole, *how))
    assert done.code == 0, done.err
    err = finish_after_two_breaks(run_cli, fault, broken, arguments(demo_csv, tiny_model, broken, *how)).err
    assert f"--resume {broken}" in err
    assert left_by(broken) == left_by(whole)
    summary = json.loads((broken / "summary.json").read_text())
    assert [one["n_steps_lost"] for one in summary["breaks"]] == [0, 0]
    assert summary["breaks"][0]["n_steps"] < summary["breaks"][1]["n_steps"] < summary["n_steps"]
    assert sum(summary["time_split_s"].values()) == pytest.approx(summary["elapsed_s"])
    assert summary["interrupted"] is False
    assert not (broken / "checkpoints").exists()
    assert not (broken / "interrupted").exists()


def test_a_damaged_checkpoint_is_recognised_and_the_one_before_it_used(
    demo_csv: Path, tiny_model: Path, run_cli: RunCli, fault: Any, tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    how = ("--backend", "ort", "--quiet", "--checkpoint-every", "0.01s")
    assert run_cli(*arguments(demo_csv, tiny_model, whole, *how)).code == 0
    for n_damaged in (1, 2):
        fault("step:30:stop")
        assert run_cli(*arguments(demo_csv, tiny_model, broken, *how, "--overwrite")).code == 130
        fault("")
        files = checkpoint_files(broken)
        assert len(files) == 2
        for number, path in enumerate(files[::-1][:n_damaged]):
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content if number == 0 else content[: len(content) // 3])
        code, _, err = run_cli("finetune", "--resume", broken)
        if n_damaged == 1:
            assert code == 0, err
            assert "is damaged" in err
            assert left_by(broken) == left_by(whole)
        else:
            assert code == 1
            assert "No checkpoint" in err
            assert len(err.strip().splitlines()) == 1
            assert load_run(broken).predict(["my parcel never came"])


def test_the_break_is_told(broken_off: Path, run_cli: RunCli) -> None:
    history = broken_off / "history.jsonl"
    last = read_history(history)[-1]
    with history.open("a") as file:  # as a run that was killed later, and had gone on for 7 seconds
        file.write(json.dumps({**last, "t_s": last["t_s"] + 7.0, "step": last["step"] + 3}) + "\n")
    code, out, err = run_cli("finetune", "--resume", broken_off, "--details")
    assert code == 0, err
    assert "step 20; 3 steps" in err
    summary = json.loads((broken_off / "summary.json").read_text())
    assert summary["breaks"][0]["n_steps_lost"] == 3
    assert summary["time_split_s"]["lost"] == pytest.approx(summary["breaks"][0]["lost_s"])
    assert summary["time_split_s"]["lost"] > 6.0
    assert "step 20; steps repeated: 3" in out


def test_other_rows_are_refused_and_the_run_stays(
    broken_off: Path, demo_csv: Path, tiny_model: Path, run_cli: RunCli, fault: Any, tmp_path: Path
) -> None:
    own = tmp_path / "own.csv"
    shutil.copy(demo_csv, own)
    out = tmp_path / "mine"
    fault("step:20:stop")
    assert run_cli(*arguments(own, tiny_model, out, "--backend", "ort")).code == 130
    fault("")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    own.write_text(own.read_text().replace("parcel", "package"))
    code, _, err = run_cli("finetune", "--resume", out)
    assert code == 1
    assert str(own) in err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    shutil.copy(demo_csv, own)
    resumed(run_cli, out)
    own.unlink()
    out.rename(tmp_path / "elsewhere")
    code, _, err = run_cli("finetune", "--resume", tmp_path / "elsewhere")
    assert code == 1
    assert "is finished" in err


def test_what_cannot_be_resumed_is_a_sentence(
    broken_off: Path, run_cli: RunCli, tmp_path: Path, demo_csv: Path
) -> None:
    def refused(*args: object) -> str:
        code, _, err = run_cli("finetune", "--resume", *args)
        assert code in (1, 2)
        assert len(err.strip().splitlines()) == 1, err
        return str(err)

    assert str(tmp_path / "nothing") in refused(tmp_path / "nothing")
    assert str(demo_csv.parent) in refused(demo_csv.parent)
    assert not (tmp_path / "nothing").exists()
    assert not (demo_csv.parent / ".lock").exists()
    assert "--resume" in refused(broken_off, "--lr", "0.1")
    assert "--resume" in refused(broken_off, demo_csv)
    with FileLock(broken_off / ".lock"):
        assert str(broken_off) in refused(broken_off)
    newest = newest_checkpoint(broken_off)
    assert newest is not None
    shutil.rmtree(broken_off / "checkpoints")
    assert "checkpoint" in refused(broken_off)


def test_two_runs_never_write_to_one_folder(
    broken_off: Path, demo_csv: Path, tiny_model: Path, run_cli: RunCli
) -> None:
    before = (broken_off / "history.jsonl").read_bytes()
    with FileLock(broken_off / ".lock"):
        how = ("--backend", "ort", "--overwrite")
        code, _, err = run_cli(*arguments(demo_csv, tiny_model, broken_off, *how))
    assert code == 1
    assert str(broken_off) in err
    assert (broken_off / "history.jsonl").read_bytes() == before
    assert run_cli(*arguments(demo_csv, tiny_model, broken_off, *how)).code == 0  # a dead one keeps no lock


@pytest.mark.parametrize("place", ["model-written", "model-ready", "model-half-placed", "model-placed"])
def test_a_model_that_was_being_put_in_place_is_found(
    place: str, broken_off: Path, run_process: RunCli, fault: Any, tmp_path: Path
) -> None:
    """The run has a model from when it was stopped; it dies while it replaces that."""
    before = (broken_off / "model" / "model.safetensors").read_bytes()
    fault(f"{place}:1:kill")
    died = run_process("-m", "edgetune", "finetune", "--resume", broken_off, "--quiet", cwd=tmp_path)
    fault("")
    assert died.code == -9, died.err
    assert load_run(broken_off).predict(["my parcel never came"])
    assert ((broken_off / "model" / "model.safetensors").read_bytes() == before) == (place == "model-written")
    assert not (broken_off / ".ready").exists()


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(
    demo_csv: Path, tiny_model: Path, run_cli: RunCli, fault: Any, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    fault("checkpoint-half-written:2:full")
    how = ("--backend", "ort", "--checkpoint-every", "0.01s")
    code, _, err = run_cli(*arguments(demo_csv, tiny_model, out, *how))
    assert code == 0, err
    assert "No space left" in err
    assert load_run(out).predict(["my parcel never came"])
    assert not list(out.rglob("*.tmp"))


def spoil_head(backend: str, monkeypatch: pytest.MonkeyPatch, when: Callable[[int], bool]) -> None:
    """Set the classifier's weights to NaN after those training steps for whose number `when` is true."""
    kind = {"ort": OrtBackend, "torch": TorchBackend}[backend]
    real, numbers = kind.train_step, itertools.count(1)

    def train_step(self: Any, *args: Any) -> Any:
        logits = real(self, *args)
        if when(next(numbers)):
            weight, bias = self.head()
            self.set_head(np.full_like(weight, np.nan), bias)
        return logits

    monkeypatch.setattr(kind, "train_step", train_step)


@pytest.mark.parametrize(("backend", "every"), [("ort", "0.01s"), ("torch", "0")])
def test_a_spoilt_loss_goes_back_and_halves_the_learning_rate(
    backend: str,
    every: str,
    demo_csv: Path,
    tiny_model: Path,
    run_cli: RunCli,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    spoil_head(backend, monkeypatch, lambda number: number == 25)
    out = tmp_path / "run"
    how = ("--backend", backend, "--checkpoint-every", every)
    code, _, err = run_cli(*arguments(demo_csv, tiny_model, out, *how))
    assert code == 0, err
    assert "after step 25" in err
    summary = json.loads((out / "summary.json").read_text())
    assert summary["n_diverged"] == 1
    lines = read_history(out / "history.jsonl")
    steps = [line for line in lines if line["kind"] == "step"]
    assert [line["step"] for line in steps] == list(range(1, summary["n_steps"] + 1))
    at = next(i for i, line in enumerate(lines) if line["kind"] == "note")
    assert (at > 5) == (every != "0")  # with a checkpoint it goes back a little, else to the start
    later = next(line for line in lines[at:] if line["kind"] == "step")
    expected = next(line["lr"] for line in steps if line["step"] == 1)
    if every == "0":
        assert later["step"] == 1
    assert later["lr"] < 0.51 * (expected if every != "0" else 2 * expected)
    with np.load(out / "rows.npz") as rows:
        assert np.isfinite(rows["sum_loss"]).all()


def test_spoilt_again_and_again_it_ends_with_the_good_weights(
    demo_csv: Path, tiny_model: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spoil_head("ort", monkeypatch, lambda number: number % 25 == 0)
    out = tmp_path / "run"
    code, _, err = run_cli(*arguments(demo_csv, tiny_model, out, "--backend", "ort"))
    assert code == 0, err
    summary = json.loads((out / "summary.json").read_text())
    assert summary["n_diverged"] == 4
    assert summary["accuracy"] is not None
    assert load_run(out).predict(["my parcel never came"])


def test_a_run_whose_columns_were_guessed_goes_on(
    demo_csv: Path, tiny_model: Path, run_cli: RunCli, fault: Any, tmp_path: Path
) -> None:
    data, out = tmp_path / "data.csv", tmp_path / "run"
    header, _, body = demo_csv.read_text(encoding="utf-8").partition("\n")
    assert header == "text,label"
    data.write_text(f"Customer message,Kind of thing\n{body}", encoding="utf-8")
    fault("step:5:stop")
    assert run_cli(*arguments(data, tiny_model, out, "--backend", "ort")).code == 130
    fault("")
    resumed(run_cli, out)


@pytest.fixture(scope="module")
def mean_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder whose features are means, on which a linear probe reads few rows first."""
    return says_mean(write_tiny_model(tmp_path_factory.mktemp("mean")))


@pytest.mark.parametrize("kept", ["encoder", "linear probe"])
def test_few_rows_bit_for_bit(
    kept: str,
    demo_csv: Path,
    mean_model: Path,
    run_cli: RunCli,
    fault: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The head is fitted before and after training, on all rows; neither depends on a break."""
    # By how much the other one has to be better than the linear probe, or than the trained encoder.
    monkeypatch.setattr(training, "DOUBT_ERRORS", -1e9 if kept == "linear probe" else 1e9)
    monkeypatch.setattr(cross_fitting, "MOST_ROWS", 100)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    how = ("--model", mean_model, "--epochs", 3, "--batch-size", 8, "--threads", 1, "--precision", "fp32")
    how = (*how, "--backend", "torch", "--checkpoint-every", 0, "--quiet")
    done = run_cli("finetune", demo_csv, "--out", whole, *how)
    assert done.code == 0, done.err
    finish_after_two_breaks(run_cli, fault, broken, ("finetune", demo_csv, "--out", broken, *how))
    assert left_by(broken) == left_by(whole)
    summary = json.loads((broken / "summary.json").read_text())
    assert summary["frozen_depth"] == 1
    assert summary["ensemble"]["learners"][-1]["name"] == kept
