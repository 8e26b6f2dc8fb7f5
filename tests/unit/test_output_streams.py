"""Whoever reads the output may go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import child_environment

from edgetune.utils.signals import ClosedPipeTolerant


def test_a_stream_whose_reader_has_gone_is_no_error() -> None:
    class Gone:
        def write(self, text: str = "") -> int:
            raise OSError(5, "Input/output error")

        flush = write

        def isatty(self) -> bool:
            return True

    stream = ClosedPipeTolerant(Gone())
    assert stream.write("words") == 5
    stream.flush()
    assert stream.isatty()


@pytest.mark.parametrize("command", [["methods"], ["methods", "three-stage"]])
def test_a_closed_pipe_ends_without_a_traceback(command: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "edgetune", *command],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment(),
        check=False,
    )
    os.close(writing)
    assert done.returncode in (1, 141)  # click sees it first, or we do
    assert done.stderr == ""


def test_a_closed_terminal_stops_a_run_as_ctrl_c_does(
    artifacts_of: Any, demo_csv: Path, tmp_path: Path
) -> None:
    from edgetune import load_run

    out = tmp_path / "run"
    reading, writing = os.pipe()
    folder = artifacts_of("embeddings", 4).folder
    command = ["finetune", demo_csv, "--artifacts", folder, "--out", out, "--epochs", 100_000]
    child = subprocess.Popen(
        [sys.executable, "-m", "edgetune", *map(str, command), "--batch-size", "2"],
        stdout=writing,
        stderr=writing,
        env=child_environment(),
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # whatever the tests run under
    )
    os.close(writing)
    history = out / "history.jsonl"
    while child.poll() is None and not (history.exists() and history.read_bytes().count(b"step") > 20):
        os.read(reading, 1)
    os.close(reading)  # the terminal is gone: whatever is written now fails
    child.send_signal(signal.SIGHUP)
    try:
        assert child.wait(60) == 130
    finally:
        child.kill()
        child.wait()
    assert load_run(out if not (out / "interrupted").exists() else out / "interrupted").predict(["hello"])
    assert list((out / "checkpoints").glob("*.ckpt"))
