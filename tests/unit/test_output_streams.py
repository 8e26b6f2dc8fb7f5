"""Whoever reads the output may go."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
from conftest import RunCli, child_environment

from edgetune.run_files.run_folder import RunFolder
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


def on(redirected: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command whose streams a shell redirects so."""
    line = [sys.executable, "-m", "edgetune", *command]
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirected}', "sh", *line],
        capture_output=True,
        text=True,
        env=child_environment(),
        check=False,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has it")
@pytest.mark.parametrize("redirected", [">/dev/full", ">&-", ">&- <&-"])
@pytest.mark.parametrize(
    "command", [["methods"], ["methods", "--json"], ["--version"], ["methods", "--help"]]
)
def test_what_cannot_be_printed_is_a_sentence(redirected: str, command: list[str]) -> None:
    done = on(redirected, *command)
    assert done.returncode == 1
    assert done.stderr.startswith("edgetune: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has it")
@pytest.mark.parametrize("redirected", ["2>/dev/full", "2>&-", "<&- 2>&-"])
def test_messages_that_nobody_can_read_are_no_error(redirected: str) -> None:
    assert on(redirected, "--version").stdout.startswith("edgetune ")


def test_no_file_is_opened_in_the_place_of_a_stream(tmp_path: Path) -> None:
    """What a library prints would go into it."""
    script = (
        "import os, sys\nfrom edgetune.utils.signals import open_missing_streams\n"
        f"open_missing_streams()\nfile = open({str(tmp_path / 'file')!r}, 'w')\n"
        f"open({str(tmp_path / 'told')!r}, 'w').write(str(file.fileno()))\nos.write(2, b'warning')"
    )
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", script]
    subprocess.run(command, env=child_environment(), check=True)
    assert int((tmp_path / "told").read_text()) > 2
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, os.strerror(errno.EIO), "data.csv"),
        FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "gone.csv"),
        Exception("No space left on device (os error 28)"),
    ],
)
def test_what_the_system_refuses_anywhere_is_a_sentence(
    run_cli: RunCli, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("edgetune.maintenance.doctor.examine", fail)
    code, out, err = run_cli("doctor")
    assert (code, out) == (1, "")
    assert err.startswith("edgetune: ")
    assert err.count("\n") == 1


def test_a_bug_keeps_its_traceback(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("edgetune.maintenance.doctor.examine", fail)
    with pytest.raises(KeyError):
        run_cli("doctor")


def test_a_picture_that_cannot_be_drawn_costs_no_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgetune.report import run_plot
    from edgetune.runs import finalize

    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Warned:
        said: ClassVar[list[str]] = []

        def warn(self, text: str) -> None:
            self.said.append(text)

    class Draft:
        def to_dict(self) -> dict[str, Any]:
            return {}

    monkeypatch.setattr(run_plot, "draw_run", fail)
    monkeypatch.setattr(finalize, "read_history", lambda path: [])
    finalize._draw(Draft(), RunFolder(tmp_path, overwrite=False), Warned())  # type: ignore[arg-type]
    assert "run.png" in Warned.said[0]


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
