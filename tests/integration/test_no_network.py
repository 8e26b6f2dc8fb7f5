"""Nothing goes over the network unless a `hub:` name is given: with every connection denied and listened for.

Each command runs in a process of its own, whose children inherit the watch: an audit hook that notes and
denies whatever Python's sockets do, and a proxy that everything else would turn to. Where the system allows
it, a run is also made in a network namespace that has nothing in it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from edgetune.utils.isolation import NO_TELEMETRY, OFFLINE

WATCH = """
import os, socket, sys
ASKED = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname"}

def hook(event, args):
    if event in ASKED and not (hasattr(args[0], "family") and args[0].family == socket.AF_UNIX):
        with open(os.environ["WATCH_LOG"], "a") as log:
            log.write(f"{event} {args[1:]!r} {sys.argv}\\n")
        raise PermissionError("no network")

sys.addaudithook(hook)
"""


class Listener:
    """A server that is a proxy to whoever looks for one; counts who comes."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.n_visitors = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                visitor, _ = self.socket.accept()
                self.n_visitors += 1
                visitor.close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}"


class Denied:
    """Runs commands under watch."""

    def __init__(self, home: Path, listener: Listener) -> None:
        self.home, self.listener = home, listener
        self.log = home / "attempts.txt"
        (home / "watch").mkdir()
        (home / "watch" / "sitecustomize.py").write_text(WATCH)

    def environment(self) -> dict[str, str]:
        """Return what edgetune finds on a user's machine: nothing is offline already."""
        gone = {*NO_TELEMETRY, *OFFLINE, "PYTHONPATH", "EDGETUNE_PROFILES", "EDGETUNE_CACHE"}
        proxies = (
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
            "http_proxy",
            "https_proxy",
            "all_proxy",
            "HF_ENDPOINT",
        )
        return {
            **{name: value for name, value in os.environ.items() if name not in gone},
            **dict.fromkeys(proxies, self.listener.address),
            "NO_PROXY": "",
            "no_proxy": "",
            "PYTHONPATH": os.pathsep.join([str(self.home / "watch"), str(ROOT)]),
            "WATCH_LOG": str(self.log),
            "EDGETUNE_CACHE": str(self.home / "cache"),
            "HOME": str(self.home),
        }

    def outcome(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.home,
            capture_output=True,
            text=True,
            env=self.environment(),
            timeout=240,
            check=False,
        )

    def run(self, *arguments: object, before: tuple[str, ...] = ()) -> str:
        done = self.outcome([*before, sys.executable, *map(str, arguments)])
        assert done.returncode == 0, done.stderr
        return done.stdout

    def attempts(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.is_file() else []


@pytest.fixture
def denied(tmp_path: Path) -> Iterator[Denied]:
    listener = Listener()
    yield Denied(tmp_path, listener)
    listener.socket.close()


TRIES = """
import contextlib, socket, urllib.request
with contextlib.suppress(OSError):
    urllib.request.urlopen("http://example.invalid/", timeout=5)
with contextlib.suppress(OSError):
    socket.create_connection(("127.0.0.1", 9), timeout=5)
with contextlib.suppress(OSError):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9))
"""


def test_the_watch_notices(denied: Denied) -> None:
    """Or the tests below would prove nothing."""
    denied.run("-c", TRIES)
    denied.run("-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {TRIES!r}])")
    assert len(denied.attempts()) >= 6
    assert denied.listener.n_visitors == 0
    (denied.home / "watch" / "sitecustomize.py").write_text("")
    denied.run("-c", TRIES)
    assert denied.listener.n_visitors == 1


def test_no_command_uses_the_network(
    denied: Denied, tiny_model: Path, demo_csv: Path, demo_eval_csv: Path
) -> None:
    train = ("-m", "edgetune", "finetune", demo_csv, "--model", tiny_model, "--max-steps", 2, "--quiet")
    denied.run(*train, "--backend", "ort", "--out", "one")  # exports in a child
    denied.run(*train, "--backend", "torch", "--eval", demo_eval_csv, "--out", "two")
    assert "the invoice is wrong" in denied.run("-m", "edgetune", "predict", "one", "the invoice is wrong")
    shutil.rmtree(denied.home / "two" / "onnx")
    denied.run("-m", "edgetune", "predict", "two", "the invoice is wrong")  # with torch
    denied.run("-m", "edgetune", "evaluate", "one", demo_eval_csv)
    denied.run("-m", "edgetune", "plan", demo_csv, "--deadline", "5m", "--model", tiny_model)
    denied.run("-m", "edgetune", "profile", "show", "amd-zen4-2-cores")
    denied.run("-m", "edgetune", "doctor")
    settings = ("--set", f"model={tiny_model}", "--set", "backend=ort", "--no-curve")
    methods = ("--methods", "train-all,encoder-logreg", "--epochs", 1, "--rows", 60, "--eval-rows", 20)
    printed = denied.run("-m", "edgetune", "compare", demo_csv, *methods, *settings, "--out", "compared")
    assert "encoder-logreg" in printed
    assert denied.attempts() == []
    assert denied.listener.n_visitors == 0


def test_with_a_hub_name_it_is_noticed(denied: Denied, demo_csv: Path) -> None:
    """The other way round: what does go over the network is seen by the same watch."""
    command = [sys.executable, "-m", "edgetune", "finetune", str(demo_csv), "--model", "hub:org/name"]
    done = denied.outcome(command)
    assert done.returncode == 1
    assert "Unknown model hub:org/name" in done.stderr
    assert denied.attempts() != []
    denied.log.unlink()
    command[-1] = "org/name"  # the name alone is only looked up
    done = denied.outcome(command)
    assert "Fetch it with --model hub:org/name" in done.stderr
    assert denied.attempts() == []


def _namespace() -> tuple[str, ...]:
    command = ("unshare", "-rn")
    try:
        done = subprocess.run([*command, "true"], capture_output=True, check=False)
    except OSError:
        return ()
    return command if done.returncode == 0 else ()


def test_it_works_where_there_is_no_network_at_all(
    denied: Denied, tiny_model: Path, demo_csv: Path, artifacts_of: Any
) -> None:
    before = _namespace()
    if not before:
        pytest.skip("network namespaces are not permitted here")
    train = ("-m", "edgetune", "finetune", demo_csv, "--max-steps", 2, "--quiet")
    artifacts = artifacts_of("embeddings", 4).folder
    denied.run(*train, "--artifacts", artifacts, "--out", "one", before=before)
    denied.run("-m", "edgetune", "predict", "one", "the invoice is wrong", before=before)
