"""A few kills of real runs; `python tools/torture --kills 100` is the whole of it."""

from __future__ import annotations

import sys

import pytest
from conftest import ROOT, RunCli


@pytest.mark.skipif(sys.platform == "win32", reason="runs are forked")
def test_killed_runs_come_out_as_if_nobody_had(run_process: RunCli) -> None:
    done = run_process("tools/torture", "--kills", 6, "--seed", 3, "--settings", 2, cwd=ROOT)
    assert done.code == 0, done.out + done.err
    assert "0 differences or unusable folders" in done.out
