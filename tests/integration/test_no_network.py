"""Nothing goes over the network unless a `hub:` name is given: with every connection denied and listened for.

The commands run in a process of their own, whose children inherit the watch: an audit hook that notes and
denies whatever Python's sockets do, and a proxy that everything else would turn to. Where the system allows
it, a run is also made in a network namespace that has nothing in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import COMMANDS, ROOT

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

    def outcome(
        self, arguments: list[str], before: tuple[str, ...] = (), stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*before, sys.executable, *arguments],
            cwd=self.home,
            input=stdin,
            capture_output=True,
            text=True,
            env=self.environment(),
            timeout=480,
            check=False,
        )

    def run(self, script: str, before: tuple[str, ...] = (), stdin: str = "") -> str:
        done = self.outcome(["-c", script], before, stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def edgetune(self, *commands: tuple[object, ...], before: tuple[str, ...] = ()) -> list[str]:
        """Run commands, none of which may fail; return what each printed."""
        given = json.dumps([[str(one) for one in command] for command in commands])
        found = json.loads(self.run(COMMANDS, before, given))
        for code, _, err in found:
            assert code == 0, err
        return [out for _, out, _ in found]

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
    denied.run(TRIES)
    denied.run(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {TRIES!r}])")
    assert len(denied.attempts()) >= 6
    assert denied.listener.n_visitors == 0
    (denied.home / "watch" / "sitecustomize.py").write_text("")
    denied.run(TRIES)
    assert denied.listener.n_visitors == 1


@pytest.mark.slow
def test_no_command_uses_the_network(
    denied: Denied, tiny_model: Path, demo_csv: Path, demo_eval_csv: Path
) -> None:
    train = ("finetune", demo_csv, "--model", tiny_model, "--max-steps", 2, "--quiet")
    methods = ("--methods", "encoder-logreg", "--epochs", 1, "--rows", 60, "--eval-rows", 20)
    settings = ("--set", f"model={tiny_model}", "--set", "backend=ort", "--no-curve")
    *_, compared = denied.edgetune(
        (*train, "--backend", "ort", "--out", "one"),  # exports in a child
        (*train, "--backend", "torch", "--eval", demo_eval_csv, "--no-onnx", "--out", "two"),
        ("predict", "one", "the invoice is wrong"),
        ("predict", "two", "the invoice is wrong"),  # with torch
        ("evaluate", "one", demo_eval_csv),
        ("plan", demo_csv, "--deadline", "5m", "--model", tiny_model),
        ("profile", "show", "amd-zen4-2-cores"),
        ("doctor",),
        ("compare", demo_csv, *methods, *settings, "--out", "compared"),
    )
    assert "encoder-logreg" in compared
    assert denied.attempts() == []
    assert denied.listener.n_visitors == 0


def test_with_a_hub_name_it_is_noticed(denied: Denied, demo_csv: Path) -> None:
    """The other way round: what does go over the network is seen by the same watch."""
    command = ["-m", "edgetune", "finetune", str(demo_csv), "--model", "hub:org/name"]
    assert denied.outcome(command).returncode == 1
    assert denied.attempts() != []
    denied.log.unlink()
    command[-1] = "org/name"  # the name alone is only looked up
    done = denied.outcome(command)
    assert done.returncode == 1
    assert "--model hub:org/name" in done.stderr
    assert denied.attempts() == []


def _namespace() -> tuple[str, ...]:
    command = ("unshare", "-rn")
    try:
        done = subprocess.run([*command, "true"], capture_output=True, check=False)
    except OSError:
        return ()
    return command if done.returncode == 0 else ()


def test_it_works_where_there_is_no_network_at_all(denied: Denied, demo_csv: Path, artifacts_of: Any) -> None:
    before = _namespace()
    if not before:
        pytest.skip("network namespaces are not permitted here")
    train = ("finetune", demo_csv, "--max-steps", 2, "--quiet", "--out", "one")
    artifacts = artifacts_of("embeddings", 4).folder
    predict = ("predict", "one", "the invoice is wrong")
    denied.edgetune((*train, "--artifacts", artifacts), predict, before=before)
