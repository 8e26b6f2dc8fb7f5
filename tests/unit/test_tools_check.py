"""`tools/check`, and what `SECURITY.md` claims to be tested."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any

import pytest
from conftest import ROOT

PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def check() -> ModuleType:
    loader = SourceFileLoader("check_tool", str(ROOT / "tools" / "check"))
    spec = importlib.util.spec_from_loader("check_tool", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def test_every_dependency_has_bounds_and_reasons(check: ModuleType) -> None:
    assert check.bounds(PROJECT) == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"numpy>=1.26,<3"', '"numpy"', "numpy: has no bound at all"),
        ('"numpy>=1.26,<3"', '"numpy<3"', "numpy: has no lower bound"),
        ('"numpy>=1.26,<3"', '"numpy>=1.26"', "numpy: has no upper bound"),
        ("# the exporter's place since it was split off", "", "optimum: its bounds have no reason"),
        ('"rich>=13,<16",', '"rich>=13,<16", "typer",', "cannot be read; write one"),
        ("[project.optional-dependencies]", "[project.no]", ""),
    ],
)
def test_what_is_missing_is_named(check: ModuleType, old: str, new: str, says: str) -> None:
    assert old in PROJECT
    found = check.bounds(PROJECT.replace(old, new, 1))
    assert any(says in line for line in found) or not says
    assert check.bounds("") == ["pyproject.toml: no dependency was found."]


GOOD = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "x", "version": "1.0", "vulns": [{"id": "PYSEC-1"}]}
SKIPPED = {"name": "b", "skip_reason": "Dependency not found on PyPI and could not be audited: b (2)"}


@pytest.mark.parametrize(
    ("packages", "said", "fine", "words"),
    [
        ([GOOD], "", True, "none are known (1 of 1 installed packages were looked up)"),
        (
            [GOOD, BAD],
            "",
            False,
            "Advisories: 1 (2 of 2 installed packages were looked up).\n  x 1.0: PYSEC-1",
        ),
        ([SKIPPED], "", True, "NOT LOOKED UP, the index that answers knows none of 1 packages"),
        ([GOOD, SKIPPED], "", True, "1 of 2 installed packages were looked up; NOT LOOKED UP: 1, of which"),
        (
            None,
            "requests.exceptions.ConnectionError: Max retries exceeded",
            True,
            "NOT LOOKED UP, the network",
        ),
        (None, "Traceback\nTypeError: x", False, "NOT LOOKED UP, pip-audit failed (TypeError: x)"),
    ],
)
def test_advisories_are_found_none_or_not_looked_up(
    check: ModuleType,
    packages: list[dict[str, Any]] | None,
    said: str,
    fine: bool,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: object())
    printed = "" if packages is None else json.dumps({"dependencies": packages, "fixes": []})
    done = subprocess.CompletedProcess([], int(packages is None), printed, said)
    monkeypatch.setattr(check.subprocess, "run", lambda *_, **__: done)
    assert check.advisories()[0] is fine
    assert words in check.advisories()[1]


def test_without_pip_audit_it_says_so(check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: None)
    assert check.advisories() == (True, check.advisories()[1])
    assert "NOT LOOKED UP, pip-audit is not installed" in check.advisories()[1]


def test_it_runs_offline() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "check"), "--bounds"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "Bounds: every dependency has them, with a reason.\n")


def test_every_test_that_the_security_page_names_is_there() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"(test_\w+\.py)(?:::(\w+))?", text)
    assert len({file for file, _ in named}) >= 10
    for file, function in named:
        (path,) = (ROOT / "tests").rglob(file)
        assert not function or f"def {function}(" in path.read_text(encoding="utf-8"), function
