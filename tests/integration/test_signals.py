"""Ctrl-C and SIGTERM, to a real process at real moments."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import RunCli, child_environment

from edgetune import load_run
from edgetune.run_files.history import read_history

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start `edgetune finetune ARGS` in a process that does not outlive the test."""
    children: list[subprocess.Popen[str]] = []

    def call(*args: object) -> subprocess.Popen[str]:
        children.append(
            subprocess.Popen(
                [sys.executable, "-m", "edgetune", "finetune", *map(str, args)],
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=child_environment(),
            )
        )
        return children[-1]

    yield call
    for child in children:
        child.kill()
        child.communicate()


def wait_for(condition: Callable[[], bool], child: subprocess.Popen[str], limit_s: float = 60) -> None:
    """Wait until something is so; fail when the process ends before."""
    end = time.monotonic() + limit_s
    while not condition():
        assert child.poll() is None, child.communicate()[1]
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def n_steps(history: Path) -> int:
    return history.read_bytes().count(b'"kind":"step"') if history.exists() else 0


@pytest.mark.parametrize(("number", "after_an_epoch"), [(signal.SIGINT, False), (signal.SIGTERM, True)])
def test_saves_a_model_that_predicts_and_is_trained_further(
    number: int,
    after_an_epoch: bool,
    artifacts_of: Any,
    demo_csv: Path,
    tmp_path: Path,
    start: Start,
    run_cli: RunCli,
) -> None:
    run = tmp_path / "run"
    child = start(
        *(demo_csv, "--artifacts", artifacts_of("embeddings", 4).folder, "--out", run, "--quiet"),
        *("--epochs", 100_000, "--batch-size", 2 if not after_an_epoch else 32),
    )
    history = run / "history.jsonl"
    if after_an_epoch:
        wait_for(lambda: history.exists() and b'"kind":"eval"' in history.read_bytes(), child)
    else:
        wait_for(lambda: n_steps(history) > 3, child)
    child.send_signal(number)
    out, err = child.communicate(timeout=120)
    assert child.returncode == 130, err
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert out == ""
    summary = load_run(run).summary
    assert summary["interrupted"] is True
    home = run / "interrupted" if (run / "interrupted").exists() else run
    assert str(home / "model") in lines[0]
    found = load_run(home).predict(["the invoice is wrong"])
    assert found[0].label in summary["label_names"]
    steps = [line for line in read_history(history) if line["kind"] == "step"]
    assert len(steps) == summary["n_steps"]
    assert [path.name for path in run.iterdir() if path.name.startswith(".")] == [".lock"]
    done = run_cli(
        *("finetune", demo_csv, "--model", home / "model", "--backend", "torch", "--no-onnx", "--no-ngrams"),
        *("--max-steps", 1, "--out", tmp_path / "next"),
    )
    assert done.code == 0, done.err


def test_before_training_nothing_is_written(
    demo_csv: Path, tiny_model: Path, tmp_path: Path, start: Start
) -> None:
    cache = tmp_path / "cache"
    child = start(demo_csv, "--model", tiny_model, "--backend", "ort", "--cache-dir", cache, "--seed", 1)
    wait_for(lambda: any(cache.glob("artifacts/.building-*")), child)
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate(timeout=120)
    assert child.returncode == 130, err
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()
    assert not list(cache.glob("*/.building-*"))
