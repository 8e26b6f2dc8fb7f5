"""`tools/check`, and what `SECURITY.md` claims to be tested."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType

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


@pytest.mark.parametrize(
    ("code", "said", "fine", "words"),
    [
        (0, "No known vulnerabilities found", True, "none are known"),
        (1, "Found 1 known vulnerability in 1 package\nx 1.0 PYSEC-1", False, "PYSEC-1"),
        (1, "requests.exceptions.ConnectionError: Max retries exceeded", True, "NOT LOOKED UP, the network"),
    ],
)
def test_advisories_are_found_none_or_not_looked_up(
    check: ModuleType, code: int, said: str, fine: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: object())
    done = subprocess.CompletedProcess([], code, said, "")
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
