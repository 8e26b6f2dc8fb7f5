"""The report page in a real browser: it draws, and its console stays silent."""

from __future__ import annotations

import shutil
import struct
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from conftest import Trained
from report_runs import PageReader, write_run

from edgetune.report.collect import collect
from edgetune.report.page import page as whole_page
from edgetune.run_files.outputs import write_output
from edgetune.utils.errors import EdgetuneError

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
MADE = datetime(2026, 11, 21, 18, 30, tzinfo=timezone.utc)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no chromium on this machine; `apt-get install chromium` gets one"
)


def photograph(page: Path, shot: Path, width: int, *options: str) -> tuple[tuple[int, int], list[str]]:
    """Open a page without a window; return the size of its picture, and what the console complained of."""
    assert BROWSER is not None
    done = subprocess.run(
        [
            BROWSER,
            *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"),
            *("--enable-logging=stderr", "--v=0", f"--user-data-dir={shot.parent / 'profile'}"),
            *(f"--window-size={width},2400", f"--screenshot={shot}"),
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    head = shot.read_bytes()[:24]
    assert head.startswith(b"\x89PNG\r\n\x1a\n")
    width_px, height_px = struct.unpack(">II", head[16:24])
    return (width_px, height_px), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def some_runs(folder: Path) -> list[Path]:
    """Runs with everything that may go wrong on a page."""
    nasty: dict[str, Any] = {"label_names": ["<script>alert(1)</script>", 'a"b\x00'], "method": "</svg><b>"}
    return [
        write_run(folder / "a"),
        write_run(folder / "b", method="random", accuracy=0.8, elapsed_s=2000.0),
        write_run(folder / "c", machine={"cpu": "Cortex-A76", "cores": 4}, **nasty),
    ]


@needs_browser
@pytest.mark.parametrize("width", [1200, 390])
def test_a_browser_draws_the_page_without_complaint(tmp_path: Path, width: int) -> None:
    page = tmp_path / "report.html"
    write_output(page, whole_page(collect(some_runs(tmp_path / "runs")), MADE))
    size, complaints = photograph(page, tmp_path / "shot.png", width)
    assert complaints == []
    assert size[0] >= width
    assert size[1] == 2400
    assert (tmp_path / "shot.png").stat().st_size > 50_000


def test_the_page_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "new" / "report.html"
    write_output(out, "old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(EdgetuneError, match=r"report\.html"):
        write_output(out, "new")
    assert [path.read_text() for path in out.parent.iterdir()] == ["old"]


def test_a_run_that_was_really_trained_is_reported(trained: Trained, tmp_path: Path) -> None:
    write_output(tmp_path / "report.html", whole_page(collect([trained.folder]), MADE))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    shown = PageReader(text)
    assert shown.wrong == []
    assert text.count("data:image/png;base64,") == 1
    assert f"{100 * trained.result['accuracy']:.1f} %" in shown.text
    assert shown.text.count("not measured") <= 1
