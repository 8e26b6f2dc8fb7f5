"""`edgetune ui` as a process of its own, driven through a browser."""

from __future__ import annotations

import contextlib
import csv
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import RunCli, Trained, child_environment

pytest.importorskip("gradio", reason='the page needs `pip install "edgetune[ui]"`')

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MARKUP = "<script>alert(1)</script>"
PATIENCE_MS = 60_000


@dataclass(frozen=True)
class Page:
    """A running server of the page."""

    process: subprocess.Popen[str]
    url: str
    folder: Path


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Page]:
    process = subprocess.Popen(
        [sys.executable, "-m", "edgetune", "ui", "--port", "0"],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        env=child_environment(),
    )
    try:
        assert process.stdout is not None
        found = re.search(r"http\S+", process.stdout.readline())
        assert found is not None
        yield Page(process, found.group(), folder)
    finally:
        process.send_signal(signal.SIGINT)
        with process:
            assert process.wait(timeout=60) == 0


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, trained: Trained) -> Iterator[Page]:
    """The page, with a finished run called `earlier`."""
    folder = tmp_path_factory.mktemp("ui")
    shutil.copytree(trained.folder, folder / "runs" / "earlier")
    with serving(folder) as running:
        yield running


@pytest.fixture
def tab(page: Page) -> Iterator[Any]:
    """A tab of a browser that reaches nothing but the page, and reports every attempt and every script."""
    if BROWSER is None:
        pytest.skip("no chromium is installed")
    sync_api = pytest.importorskip("playwright.sync_api")
    outside: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        opened = browser.new_context(viewport={"width": 1100, "height": 900}).new_page()
        opened.set_default_timeout(PATIENCE_MS)
        host = page.url.split("?")[0]
        opened.on(
            "request",
            lambda request: (
                outside.append(request.url) if not request.url.startswith((host, "data:", "blob:")) else None
            ),
        )
        opened.on("dialog", lambda dialog: (outside.append(f"dialog {dialog.message}"), dialog.dismiss()))
        opened.goto(page.url)
        opened.get_by_text("Drop a file").first.wait_for()
        yield opened
        browser.close()
    assert outside == []


def see(tab: Any, words: str) -> None:
    tab.locator(f"text=/{words}/ >> visible=true").first.wait_for()


def go(tab: Any, name: str) -> None:
    tab.get_by_role("tab", name=name, exact=True).click()


def press(tab: Any, name: str) -> None:
    tab.get_by_role("button", name=name, exact=True).click()


def get(url: str, cookie: str = "") -> tuple[int, str]:
    request = urllib.request.Request(url, headers={"Cookie": cookie})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_without_the_token_nothing_is_shown(page: Page) -> None:
    address = page.url.split("?")[0]
    assert get(address)[0] == 401
    for url in (f"{address}?token=wrong", f"{address}gradio_api/info", f"{address}config"):
        status, sentence = get(url)
        assert status == 401
        assert "token" in sentence


def test_a_file_that_is_too_large_is_refused_before_it_is_sent(page: Page) -> None:
    host, port = page.url.split("/")[2].split(":")
    token = page.url.split("token=")[1]
    with socket.create_connection((host, int(port)), timeout=60) as sender:
        head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {host}\r\nCookie: edgetune_ui_{port}={token}\r\n"
        sender.sendall(f"{head}Content-Length: {2 << 30}\r\n\r\n".encode())
        reply = sender.recv(4096).decode()
    assert " 413 " in reply
    assert "give its path instead" in reply


def test_a_taken_port_gets_a_sentence(run_cli: RunCli, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run_cli("ui", "--port", port, "--runs", tmp_path / "runs")
    assert result.code == 1
    assert f"port {port}" in result.err
    assert not (tmp_path / "runs").exists()


def test_from_a_file_to_a_prediction(tab: Any, page: Page, tiny_model: Path, demo_csv: Path) -> None:
    rows = csv.reader(demo_csv.read_text(encoding="utf-8").splitlines())
    tickets = page.folder / "tickets.csv"
    with tickets.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([[text, MARKUP if label == "login" else label] for text, label in rows])
    tab.set_input_files("input[type=file]", tickets)
    see(tab, "Read tickets.csv")
    press(tab, "Check the data")
    see(tab, "The check is done")
    go(tab, "Train")
    tab.get_by_role("textbox", name="Encoder").fill(str(tiny_model))
    press(tab, "Plan")
    see(tab, "Plan: ")
    press(tab, "Start training")
    see(tab, "is training")
    tab.reload()  # the run goes on, and is found again
    tab.get_by_text("Drop a file").first.wait_for()
    go(tab, "Train")
    see(tab, "tickets is finished")
    assert (page.folder / "runs" / "tickets" / "summary.json").is_file()
    go(tab, "Try")
    tab.get_by_label("Texts, one per line").fill(f"my password is wrong {MARKUP}")
    press(tab, "Predict")
    see(tab, "Probabilities of the first text")
    assert MARKUP in tab.inner_text("body")


def test_results_lead_to_texts(tab: Any) -> None:
    tab.get_by_label("Run", exact=True).first.click()
    tab.get_by_role("option", name="earlier").click()
    go(tab, "Results")
    see(tab, "interval")
    tab.locator("[data-row='0'][data-col='1']:visible").first.click()
    see(tab, "evaluation rows shown")


def test_a_run_is_downloaded_with_its_card(tab: Any, tmp_path: Path) -> None:
    go(tab, "Models")
    see(tab, "accuracy")
    press(tab, "Pack the run as a zip file")
    see(tab, "Packed .*zip")
    with tab.expect_download() as download:
        tab.get_by_text("Download the zip file").click()
    download.value.save_as(tmp_path / "run.zip")
    with zipfile.ZipFile(tmp_path / "run.zip") as packed:
        names = {name.split("/", 1)[1] for name in packed.namelist()}
    assert {"README.md", "summary.json", "config.toml"} <= names


def test_a_run_is_stopped_once_however_often_it_is_asked(tmp_path: Path, demo_csv: Path) -> None:
    from edgetune.utils.errors import UsageError
    from edgetune.web.run_process import FAILED, RUNNING, RunProcesses

    runs = RunProcesses(tmp_path, None)
    runs.start("slow", str(demo_csv), [], 600.0)
    with pytest.raises(UsageError):  # a second tab
        runs.start("other", str(demo_csv), [], 600.0)
    assert runs.status("slow").state == RUNNING
    time.sleep(1.0)
    runs.stop("slow")
    with contextlib.suppress(UsageError):  # it has ended by now, or is asked in vain
        runs.stop("slow")
    end_s = time.monotonic() + 60
    while runs.status("slow").state == RUNNING and time.monotonic() < end_s:
        time.sleep(0.1)
    assert runs.status("slow").state == FAILED  # nothing had been trained yet
