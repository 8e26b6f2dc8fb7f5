"""`edgetune serve` as a process of its own, over a socket."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import RunCli, Trained, child_environment

TEXT = "the invoice is wrong"
MANY = [f"{TEXT} " * 14] * 3000  # takes about a second


@dataclass(frozen=True)
class Reply:
    """Status, headers and body of an answer."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> str:
        return str(self.json["detail"])


@dataclass(frozen=True)
class Server:
    """A running server."""

    process: subprocess.Popen[str]
    url: str

    def get(self, path: str, body: Any = None, token: str | None = None) -> Reply:
        """GET, or POST a body: bytes as they are, anything else as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}".encode().decode("latin-1")
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return Reply(reply.status, reply.headers, reply.read())
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, error.headers, error.read())

    def predict(self, **body: Any) -> Reply:
        return self.get("/predict", body)

    def metric(self, name: str) -> float:
        found = re.search(rf"^{name} (\S+)", self.get("/metrics").body.decode(), re.M)
        assert found is not None, name
        return float(found.group(1))

    def wait_for(self, name: str, value: float) -> None:
        deadline_s = time.monotonic() + 60
        while self.metric(name) != value:
            assert time.monotonic() < deadline_s, name

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextlib.contextmanager
def serving(run: Path, *options: object, **environment: str) -> Iterator[Server]:
    for package in ("fastapi", "fastapi_offline", "uvicorn", "prometheus_client"):
        pytest.importorskip(package, reason="edgetune[serve] is not installed")
    command = [sys.executable, "-m", "edgetune", "serve", str(run), "--port", "0", *map(str, options)]
    env = child_environment(**environment)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://[\d.]+:\d+", line)
            assert found, line
            yield Server(process, found.group())
        finally:
            if process.poll() is None:
                process.kill()


@pytest.fixture(scope="module")
def server(trained: Trained) -> Iterator[Server]:
    with serving(trained.folder, "--queue", 4000) as server:
        yield server
        assert server.stop() == 0


def test_the_answers_are_those_of_predict(server: Server, trained: Trained, run_cli: RunCli) -> None:
    code, out, _ = run_cli("predict", trained.folder, TEXT, "my parcel is late", "--json")
    assert code == 0
    first, second = (json.loads(line) for line in out.splitlines())
    one = server.predict(text=TEXT).json
    assert one == {"label": first["predicted"], "probability": pytest.approx(first["probability"])}
    found = server.predict(texts=[TEXT, "", "my parcel is late"], all=True).json["predictions"]
    assert [item["label"] for item in found] == [first["predicted"], None, second["predicted"]]
    assert found[0]["probabilities"] == pytest.approx(first["probabilities"])
    assert found[1]["probability"] is None
    assert server.predict(text=" ").json == {"label": None, "probability": None}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ([], 422),
        ({"text": 5}, 422),
        ({"text": "a", "texts": ["b"]}, 422),
        ({"texts": []}, 422),
        ({"texts": ["a"], "text_pair": "b"}, 422),
        ({"text": "a", "\ud800": 1}, 422),
        ({"text": "\ud800"}, 422),
        ({"text": "a", "text_pair": "b"}, 422),
        ({"texts": ["a", {"text": "a", "text_pair": "b"}]}, 422),
        ({"texts": ["a"] * 4001}, 413),
        ({"text": "a" * 2_000_000}, 413),
        ({"text": "a" * 20_000_000}, 413),
        (b'{"text": "a', 422),
        (b"[" * 500_000, 400),
        (b'"\xff"', 400),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_bad_request_gets_a_sentence(server: Server, body: Any, status: int) -> None:
    reply = server.get("/predict", body)
    assert (reply.status, bool(reply.problem)) == (status, True)
    assert server.predict(text=TEXT).status == 200


def test_a_body_of_unknown_length_is_limited(server: Server) -> None:
    chunks = (b'"' + b"a" * 99_998 + b'"' for _ in range(30))
    request = urllib.request.Request(
        server.url + "/predict", chunks, {"Content-Type": "application/json"}, method="POST"
    )
    with pytest.raises(urllib.error.HTTPError) as error, urllib.request.urlopen(request, timeout=60):
        pass
    with error.value:
        assert error.value.code == 413


def test_health_and_metrics(server: Server) -> None:
    assert server.get("/health").json == {"status": "ok"}
    server.predict(text=TEXT)
    server.predict()
    for status in (200, 422):
        assert server.metric(rf'edgetune_requests_total\{{status="{status}"\}}') >= 1
    assert server.metric("edgetune_request_seconds_count") >= 2
    assert server.metric("edgetune_queue_texts") == 0


def test_the_api_page_loads_nothing_from_elsewhere(server: Server) -> None:
    page = server.get("/docs")
    assert page.headers["Content-Security-Policy"].startswith("default-src 'self'")
    loaded = re.findall(r"(?:src|href)=[\"']([^\"']+)", page.body.decode())
    assert loaded
    assert all(server.get(path).status == 200 for path in loaded if path.startswith("/"))
    assert all(path.startswith("/") for path in loaded)
    assert "/predict" in server.get("/openapi.json").json["paths"]


def test_requests_that_wait_are_predicted_together(server: Server) -> None:
    n_before = server.metric("edgetune_batch_texts_count")
    with ThreadPoolExecutor(17) as clients:
        first = clients.submit(server.predict, texts=MANY)
        server.wait_for("edgetune_queue_texts", len(MANY))
        replies = list(clients.map(lambda number: server.predict(text=TEXT), range(16)))
    assert {reply.status for reply in [first.result(), *replies]} == {200}
    assert server.metric("edgetune_batch_texts_count") - n_before < 17
    alone = server.predict(text=TEXT).json
    assert all(
        reply.json == {"label": alone["label"], "probability": pytest.approx(alone["probability"], abs=1e-5)}
        for reply in replies
    )


def test_a_full_queue_refuses_with_503_and_recovers(trained: Trained) -> None:
    texts = [f"{TEXT} " * 30] * 40
    with serving(trained.folder, "--queue", 40) as server:
        with ThreadPoolExecutor(8) as clients:
            replies = list(clients.map(lambda number: server.predict(texts=texts), range(24)))
        assert {reply.status for reply in replies} == {200, 503}
        refused = next(reply for reply in replies if reply.status == 503)
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.problem
        assert server.predict(text=TEXT).status == 200


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM ends a process at once there")
def test_a_stop_answers_what_was_accepted(trained: Trained) -> None:
    with serving(trained.folder, "--queue", 4000) as server, ThreadPoolExecutor(1) as client:
        asked = client.submit(server.predict, texts=MANY)
        server.wait_for("edgetune_queue_texts", len(MANY))
        server.process.send_signal(signal.SIGTERM)
        assert len(asked.result().json["predictions"]) == len(MANY)
        assert server.process.wait(60) == 0


def test_a_replaced_run_is_loaded_without_losing_requests(trained: Trained, tmp_path: Path) -> None:
    run, renamed = tmp_path / "run", tmp_path / "new"
    shutil.copytree(trained.folder, run)
    shutil.copytree(trained.folder, renamed)
    for path in [*renamed.rglob("config.json"), *renamed.rglob("ensemble.json")]:
        path.write_text(re.sub(r'"(billing|login|defect|delivery)"', r'"new \1"', path.read_text()))
    os.utime(renamed / "summary.json")
    replies, stopped = [], threading.Event()
    with serving(run) as server:

        def ask() -> None:
            while not stopped.is_set():
                replies.append(server.predict(text=TEXT))

        with ThreadPoolExecutor(4) as clients:
            asking = [clients.submit(ask) for _ in range(4)]
            try:
                os.replace(run, tmp_path / "old")
                time.sleep(0.3)  # the folder is gone meanwhile: the model in memory answers
                os.replace(renamed, run)
                server.wait_for("edgetune_reloads", 1)
            finally:
                stopped.set()
            for one in asking:
                one.result()
        assert {reply.status for reply in replies} == {200}
        assert not replies[0].json["label"].startswith("new ")
        assert server.predict(text=TEXT).json["label"].startswith("new ")
        (run / "summary.json").write_text("{")  # a damaged run is not taken
        assert server.predict(text=TEXT).status == 200
        assert server.stop() == 0


def test_only_the_token_opens(trained: Trained) -> None:
    token = "gehéim"
    with serving(trained.folder, EDGETUNE_TOKEN=token) as server:
        assert server.get("/health").status == 200
        for wrong in (None, "", "geheim", token + "x"):
            reply = server.get("/predict", {"text": TEXT}, wrong)
            assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, "Bearer")
            assert server.get("/metrics", token=wrong).status == 401
        assert server.get("/predict", {"text": TEXT}, token).status == 200
        assert server.get("/metrics", token=token).status == 200


def test_pairs(run_cli: RunCli, tmp_path: Path) -> None:
    rows = "".join(f"is it red {n},{'red' if n % 2 else 'blue'} {n},{n % 2}\n" for n in range(80))
    (tmp_path / "pairs.csv").write_text("a,b,label\n" + rows)
    code, _, err = run_cli(
        *("finetune", tmp_path / "pairs.csv", "--text", "a,b", "--pair", "--learners", "ngrams"),
        *("--deadline", "20s", "--out", tmp_path / "run", "--quiet"),
    )
    assert code in (0, 3), err
    with serving(tmp_path / "run") as server:
        pair = {"text": "is it red", "text_pair": "red"}
        assert server.predict(**pair).json["label"] in ("0", "1")
        assert len(server.predict(texts=[pair, pair]).json["predictions"]) == 2
        assert server.predict(text="is it red").status == 422
        assert "text_pair" in server.predict(texts=[pair, "is it red"]).problem


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--host", "0.0.0.0"], 2, "--token"),
        (["--token", ""], 2, "empty"),
        (["--port", 70_000], 2, "65535"),
        (["--queue", 0], 2, "--queue"),
        (["--host", "nowhere.invalid", "--token", "a"], 1, "no such host"),
    ],
)
def test_bad_options(trained: Trained, run_cli: RunCli, options: list[Any], code: int, says: str) -> None:
    pytest.importorskip("fastapi", reason="edgetune[serve] is not installed")
    done = run_cli("serve", trained.folder, *options)
    assert (done.code, done.out, len(done.err.splitlines())) == (code, "", 1)
    assert says in done.err


def test_bad_places(trained: Trained, run_cli: RunCli, tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="edgetune[serve] is not installed")
    for folder in (tmp_path / "gone", tmp_path):
        done = run_cli("serve", folder, "--port", 0)
        assert (done.code, len(done.err.splitlines())) == (1, 1)
        assert str(folder) in done.err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_cli("serve", trained.folder, "--port", port)
    assert (done.code, len(done.err.splitlines())) == (1, 1)
    assert str(port) in done.err


def test_a_missing_extra_names_its_install_line(
    run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "edgetune.inference.server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = run_cli("serve", tmp_path)
    assert (done.code, len(done.err.splitlines())) == (1, 1)
    assert "edgetune[serve]" in done.err
