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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import RunCli, child_environment

pytestmark = pytest.mark.slow
pytest.importorskip("gradio", reason='the page needs `pip install "edgetune[ui]"`')

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MARKUP = "<script>alert(1)</script>"
TEMPLATE = "{{value}} ${1 + 1} {{#each x}}"
PATIENCE_MS = 180_000
REFRESH_S = 3.0
NewTab = Callable[..., Any]


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
def page(tmp_path_factory: pytest.TempPathFactory, demo_csv: Path, run_cli: RunCli) -> Iterator[Page]:
    """The page, with the finished runs `earlier` and `wrong`, some labels of which are wrong."""
    from edgetune.data.demo import demo_rows

    folder = tmp_path_factory.mktemp("ui")
    teams = {team: MARKUP if team == "login" else team for _, team in demo_rows(300, seed=0)}
    others = dict(zip(teams.values(), [*teams.values()][1:] + [*teams.values()][:1], strict=True))
    with (folder / "tickets.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "message", "team"])
        for number, (text, team) in enumerate(demo_rows(300, seed=0)):
            writer.writerow([number, text, others[teams[team]] if number % 30 == 0 else teams[team]])
    for path, name, columns in (
        (demo_csv, "earlier", ()),
        (folder / "tickets.csv", "wrong", ("--text", "message", "--label", "team")),
    ):
        options = ("--learners", "ngrams", "--deadline", "60s", "--out", folder / "runs" / name)
        done = run_cli("finetune", path, *columns, *options)
        assert done.code == 0, done.err
    with serving(folder) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if BROWSER is None:
        pytest.skip("no chromium is installed")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def new_tab(page: Page, browser: Any) -> Iterator[NewTab]:
    """Open tabs of one browser without a network: it reaches nothing but the page; attempts are failures.

    So is a dialog, which a script in a text or label would open.
    """
    host, faults = page.url.split("?")[0], []
    contexts: list[Any] = []

    def open_tab(context: Any = None, **options: Any) -> Any:
        if context is None:
            context = browser.new_context(**{"viewport": {"width": 1100, "height": 900}, **options})
            contexts.append(context)
            context.set_default_timeout(PATIENCE_MS)
            context.route(lambda url: not url.startswith((host, "data:", "blob:")), refuse)
        opened = context.new_page()
        opened.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
        opened.on("pageerror", lambda error: faults.append(str(error)))
        opened.goto(page.url)
        opened.get_by_text("Drop a file").first.wait_for()
        opened.wait_for_function("document.querySelector('input[aria-label=Run]').value")
        return opened

    def refuse(route: Any) -> None:
        faults.append(route.request.url)
        route.abort()

    yield open_tab
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def tab(new_tab: NewTab) -> Any:
    return new_tab()


def see(tab: Any, words: str) -> None:
    found = tab.locator(f"text=/{words}/ >> visible=true").first
    try:
        found.wait_for()
    except Exception as error:
        raise AssertionError(f"not seen: {words}\n{tab.inner_text('body')}") from error


def go(tab: Any, name: str) -> None:
    if not tab.get_by_role("tab", name=name, exact=True).is_visible():  # on a phone some are in a menu
        tab.locator(".overflow-menu button").first.click()
        tab.locator(f".overflow-dropdown button:has-text('{name}')").click()
    else:
        tab.get_by_role("tab", name=name, exact=True).click()


def press(tab: Any, name: str) -> None:
    tab.get_by_role("button", name=name, exact=True).click()


def choose(tab: Any, label: str, option: str) -> None:
    tab.get_by_label(label, exact=True).locator("visible=true").first.click()
    tab.get_by_role("option", name=option, exact=True).click()
    tab.wait_for_function("!document.querySelector('[role=option]')")  # the list closes with a delay


def prepare(tab: Any, path: Path, model: Path, minutes: str) -> None:
    """Give a file by its path, and say how it is trained on."""
    tab.get_by_label("Or give the path of a file or folder").fill(str(path))
    press(tab, "Read")
    see(tab, f"Read {path.name}")
    go(tab, "Train")
    tab.get_by_role("textbox", name="Encoder").fill(str(model))
    deadline = tab.get_by_role("spinbutton", name=re.compile("Deadline"))
    deadline.fill("0")
    deadline.press("Enter")
    see(tab, "above 0")
    deadline.fill(minutes)
    deadline.press("Enter")
    see(tab, "Plan: ")


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
        reply = b""
        while b"instead" not in reply and (part := sender.recv(4096)):
            reply += part
    assert b" 413 " in reply
    assert b"give its path instead" in reply


def test_a_taken_port_gets_a_sentence(run_cli: RunCli, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run_cli("ui", "--port", port, "--runs", tmp_path / "runs")
    assert result.code == 1
    assert f"port {port}" in result.err
    assert not (tmp_path / "runs").exists()


def test_from_a_file_to_a_prediction(new_tab: NewTab, page: Page, tiny_model: Path) -> None:
    tab = new_tab()
    tab.set_input_files("input[type=file]", page.folder / "tickets.csv")
    see(tab, "Read tickets.csv")
    press(tab, "Check the data")
    see(tab, "The check is done")
    assert MARKUP in tab.inner_text("body")
    go(tab, "Train")
    tab.get_by_role("textbox", name="Encoder").fill(str(tiny_model))
    tab.get_by_role("spinbutton", name=re.compile("Deadline")).fill("0.5")
    press(tab, "Plan")
    see(tab, "Plan: ")
    press(tab, "Start training")
    see(tab, "tickets is training")
    tab.close()
    tab = new_tab()  # the run went on, and is found again
    go(tab, "Train")
    see(tab, "tickets is finished")
    assert (page.folder / "runs" / "tickets" / "summary.json").is_file()
    go(tab, "Try")
    tab.get_by_label("Texts, one per line").fill(f"my password is wrong {TEMPLATE}")
    press(tab, "Predict")
    see(tab, "Probabilities of the first text")
    assert MARKUP in tab.inner_text("body")
    assert TEMPLATE in tab.inner_text("body")


@pytest.mark.alone
def test_a_run_is_watched_stopped_and_kept(new_tab: NewTab, page: Page, tiny_model: Path) -> None:
    from edgetune.data.demo import demo_rows

    many = page.folder / "many.csv"  # so many rows that training does not end before it is stopped
    with many.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("message", "team"), *demo_rows(60_000, seed=1)])
    tab = new_tab()
    prepare(tab, many, tiny_model, "5")
    tab.get_by_label("Name of the run").fill("stopped")
    press(tab, "Start training")
    see(tab, "stopped is training")
    second = new_tab(tab.context)
    second.get_by_label("Or give the path of a file or folder").fill(str(page.folder / "tickets.csv"))
    go(second, "Train")
    second.get_by_label("Name of the run").fill("second")
    press(second, "Start training")
    see(second, "is still training; wait until it ends")
    see(tab, r"left · loss \d")
    see(tab, "Loss of the training steps")
    press(second, "Stop and keep the model")
    press(tab, "Stop and keep the model")
    see(tab, "stopped was stopped, and its model was kept")
    assert not (page.folder / "runs" / "second").exists()
    go(tab, "Results")
    see(tab, "Learners")  # whether an evaluation had come before depends on the machine's speed


def test_doubtful_labels_are_mended(tab: Any, page: Page, tiny_model: Path) -> None:
    choose(tab, "Run", "wrong")
    go(tab, "Mend")
    press(tab, "Find doubtful labels")
    see(tab, "Doubtful label 1 of")
    press(tab, "Accept the suggestion")
    see(tab, "Doubtful label 2 of")
    tab.get_by_label("Label", exact=True).fill("another team")
    tab.keyboard.press("Enter")
    press(tab, "Use the label above")
    see(tab, "Doubtful label 3 of")
    press(tab, "Skip")
    see(tab, "Doubtful label 4 of")
    before = (page.folder / "tickets.csv").read_bytes()
    press(tab, "Write the corrected copy, and choose it for training")
    see(tab, "with 2 changed labels")
    assert (page.folder / "tickets.csv").read_bytes() == before
    with (page.folder / "runs" / "wrong-corrected.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    changed = [row for row in rows if row["suggested_label"] != row["team"]]
    assert (len(rows), len(changed)) == (300, 2)
    assert "another team" in {row["suggested_label"] for row in changed}
    press(tab, "Write the corrected copy, and choose it for training")
    see(tab, "already exists")
    go(tab, "Train")
    tab.get_by_role("textbox", name="Encoder").fill(str(tiny_model))
    tab.get_by_role("spinbutton", name=re.compile("Deadline")).fill("0.5")
    press(tab, "Start training")
    see(tab, "wrong-corrected is finished")
    assert "suggested_label" in (page.folder / "runs" / "wrong-corrected" / "config.toml").read_text()


def test_columns_for_one_label_each_are_trained_on(new_tab: NewTab, page: Page, tiny_model: Path) -> None:
    from edgetune.data.demo import demo_rows

    with (page.folder / "flags.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["message", "billing", "defect", "delivery"])
        for text, team in demo_rows(200, seed=1):
            writer.writerow([text, int(team != "delivery"), int(team == "defect"), int(team == "delivery")])
    tab = new_tab()
    prepare(tab, page.folder / "flags.csv", tiny_model, "0.5")
    press(tab, "Start training")
    see(tab, "flags is finished")
    config = (page.folder / "runs" / "flags" / "config.toml").read_text()
    assert "multi_label = true" in config
    assert 'label = "billing,defect,delivery"' in config
    go(tab, "Results")
    see(tab, "Learners")
    tab.get_by_label("True class").wait_for(state="hidden")  # there is no confusion matrix


def test_separated_labels_and_long_deadlines_can_be_chosen(tab: Any, page: Page, tiny_model: Path) -> None:
    rows = (
        f"text {number} about {words},{words}"
        for number, words in enumerate(["a;b", "a", "b", "c", "a;c"] * 30)
    )
    (page.folder / "separated.csv").write_text("\n".join(["text,label", *rows]))
    prepare(tab, page.folder / "separated.csv", tiny_model, "90")
    slider = tab.get_by_role("slider", name=re.compile("Up to an hour"))
    slider.focus()
    slider.press("ArrowRight")
    tab.wait_for_function("[...document.querySelectorAll('input')].some(one => one.value === '2.5')")
    go(tab, "Data")
    tab.get_by_role("radio", name="Several, or none").check()
    press(tab, "Check the data")
    see(tab, "Rows may have several labels")
    tab.get_by_role("radio", name="One (--single-label)").check()
    press(tab, "Check the data")
    see(tab, "use --multi-label to train them so")


def test_results_lead_to_texts(tab: Any) -> None:
    choose(tab, "Run", "earlier")
    go(tab, "Results")
    see(tab, "interval")
    tab.get_by_role("button", name="rows of billing predicted as defect").click()
    see(tab, "evaluation rows shown")


def test_two_runs_are_compared_and_one_is_downloaded(tab: Any, tmp_path: Path) -> None:
    go(tab, "Models")
    see(tab, "seed")
    runs = tab.get_by_role("tabpanel").locator("visible=true")
    for label, name in (("Compare with", "earlier"), ("First run", "wrong")):
        choose(tab, label, name)
    press(tab, "Compare")
    see(tab, "Two runs")
    assert "macro-F1" in runs.inner_text()
    press(tab, "Pack the run as a zip file")
    see(tab, "Packed wrong.zip")
    with tab.expect_download() as download:
        tab.get_by_text("Download the zip file").click()
    download.value.save_as(tmp_path / "run.zip")
    with zipfile.ZipFile(tmp_path / "run.zip") as packed:
        names = {name.split("/", 1)[1] for name in packed.namelist()}
    assert {"README.md", "summary.json", "config.toml"} <= names


def test_a_keyboard_is_enough(tab: Any) -> None:
    def reach(name: str, role: str) -> None:
        wanted = tab.get_by_role(role, name=name, exact=True).locator("visible=true").first
        for _ in range(60):
            if wanted.evaluate("element => element === document.activeElement"):
                return
            tab.keyboard.press("Tab")
        raise AssertionError(f"the Tab key does not reach {name}")

    reach("Try", "tab")
    tab.keyboard.press("Enter")
    see(tab, "Texts, one per line")
    reach("Texts, one per line", "textbox")
    tab.keyboard.type("the parcel is late")
    reach("Predict", "button")
    tab.keyboard.press("Enter")
    see(tab, "Probabilities of the first text")


def test_a_phone_shows_every_tab_in_its_width(new_tab: NewTab) -> None:
    screen = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
    tab = new_tab(**screen)
    choose(tab, "Run", "wrong")
    for name, words in (("Train", "wrong is finished"), ("Results", "interval"), ("Mend", "Your file")):
        go(tab, name)
        see(tab, words)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    for name in ("Try", "Models", "Data"):
        go(tab, name)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_as_dark_as_the_browser_asks(new_tab: NewTab, scheme: str) -> None:
    text, background = new_tab(color_scheme=scheme).evaluate(
        """() => ['color', 'backgroundColor'].map(
            kind => getComputedStyle(document.body)[kind].match(/\\d+/g).slice(0, 3).map(Number)
        ).map(([r, g, b]) => 0.3 * r + 0.6 * g + 0.1 * b)"""
    )
    assert text - background > 150 if scheme == "dark" else background - text > 150


def test_what_is_gone_or_missing_gets_a_sentence(tab: Any, page: Page) -> None:
    shutil.copytree(page.folder / "runs" / "earlier", page.folder / "runs" / "gone")
    tab.wait_for_timeout(2000 * REFRESH_S)  # listed without a reload
    choose(tab, "Run", "gone")
    shutil.rmtree(page.folder / "runs" / "gone")
    go(tab, "Results")
    see(tab, "of this run is gone; choose another run")
    go(tab, "Data")
    tab.get_by_label("Or give the path of a file or folder").fill("nothing.csv")
    press(tab, "Read")
    see(tab, "nothing.csv")
    assert "Traceback" not in tab.inner_text("body")


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
