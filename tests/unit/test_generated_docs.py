"""Documents made from code and data are what the code and the data say now."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_tool", ROOT / "tools" / "docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_method_cards_are_fresh(docs: ModuleType) -> None:
    assert docs.CARDS.read_text(encoding="utf-8") == docs.cards_markdown(), "run python tools/docs.py"


def test_result_tables_come_from_the_committed_outcomes_byte_for_byte(docs: ModuleType) -> None:
    made = docs.results_markdown(docs.RESULTS.parent)
    assert docs.RESULTS.read_text(encoding="utf-8") == made, "run python tools/docs.py"


def test_every_method_has_a_card_and_findings_are_there(docs: ModuleType) -> None:
    from edgetune.compare.baselines import all_baselines
    from edgetune.selection import METHODS

    cards = docs.CARDS.read_text(encoding="utf-8")
    assert all(f"`{name}`" in cards or f" {name}\n" in cards for name in [*METHODS, *all_baselines()])
    findings = Path(ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    assert "filter" in findings.split("\n\n")[1]
