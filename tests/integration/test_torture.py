"""A few kills of real runs; `python tools/torture --kills 100` is the whole of it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import ROOT, child_environment


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="runs are forked")
def test_killed_runs_come_out_as_if_nobody_had() -> None:
    command = [sys.executable, "tools/torture", "--kills", "2", "--seed", "3", "--settings", "1"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=child_environment(), check=False, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 differences or unusable folders" in done.stdout
