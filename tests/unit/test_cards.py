"""Method cards say what the docstrings and settings say, for every method there is."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from edgetune.cli.compare_commands import methods
from edgetune.compare.method_cards import (
    SECTIONS,
    Setting,
    baseline_cards,
    card_of,
    cards_markdown,
    entries,
    find_card,
    method_cards,
)
from edgetune.selection import METHODS, SELECTORS
from edgetune.selection.three_stage import ThreeStage
from edgetune.utils.errors import UsageError

DOCSTRING = """A title.

A paragraph that belongs to nothing: it says so.

What: one line
    and another.
Use when: always.
Costs:
    nothing at all.
Loses when: never, `a: b` included.
Not a section: this.
    Nor this.
Source: us,

    and them.
"""


def test_sections_are_read_off_a_docstring() -> None:
    found = entries(DOCSTRING)
    assert {name: found[name] for name in SECTIONS} == {
        "What": "one line and another.",
        "Use when": "always.",
        "Costs": "nothing at all.",
        "Loses when": "never, `a: b` included.",
        "Source": "us, and them.",
    }
    assert entries(None) == {}


def test_every_setting_of_a_method_has_a_meaning_and_one_default() -> None:
    defaults: dict[str, Any] = {}
    for kind in SELECTORS.values():
        for name, field in kind.Settings.model_fields.items():
            assert field.description
            assert defaults.setdefault(name, field.default) == field.default, name


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_whole_card(name: str) -> None:
    card = method_cards()[name]
    assert card.name == name
    assert card.line.endswith(".")
    assert len(card.line) <= 110
    for text in (card.what, card.use_when, card.costs, card.loses_when, card.source):
        assert text.endswith((".", ")")), text
        assert "  " not in text
    assert {setting.name for setting in card.settings} >= set(SELECTORS[name].Settings.model_fields)
    assert all(setting.meaning for setting in card.settings)


def test_settings_have_their_defaults() -> None:
    settings = {setting.name: setting for setting in card_of(ThreeStage).settings}
    assert settings["alt"] == Setting(
        "alt", 0.69, "stage 1 ends when the predictor's mean log loss (nats) is at most this."
    )
    assert settings["calibrated"].default is True


@pytest.mark.parametrize(("default", "words"), [(None, "none"), (True, "true"), (0.5, "0.5"), ("a", "a")])
def test_defaults_in_words(default: Any, words: str) -> None:
    assert Setting("x", default, "").default_text == words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tree-stage", '"tree-stage". Did you mean "three-stage"[?]'),
        ("Train_All", '"Train_All". Did you mean "train-all"[?]'),
        ("qqqq", '"qqqq". `edgetune methods`'),
    ],
)
def test_an_unknown_name_says_what_may_be_meant(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        find_card(name)


def test_baselines_have_whole_cards() -> None:
    for name, card in baseline_cards().items():
        assert find_card(name) == card
        assert card.needs
        assert card.line[0].isupper()
        for text in (card.what, card.use_when, card.costs, card.loses_when, card.source):
            assert text.endswith((".", ")")), (name, text)


def test_markdown_holds_every_card() -> None:
    text = cards_markdown()
    assert text.startswith("# Method cards\n")
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    for card in [*method_cards().values(), *baseline_cards().values()]:
        assert f"\n### {card.name}\n\n{card.line}\n\n- **What:** {card.what}\n" in text
        for setting in card.settings:
            assert f"| `{setting.name}` | `{setting.default_text}` | " in text


def _methods(*args: str) -> str:
    app = typer.Typer()
    app.command()(methods)
    done = CliRunner().invoke(app, args, catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_the_command_lists_a_line_each_without_a_terminal() -> None:
    lines = _methods().splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == [*SELECTORS, *baseline_cards()]


def test_the_command_prints_a_card() -> None:
    text = _methods("three-stage")
    card = find_card("three-stage")
    assert text.startswith(f"three-stage: {card.line}\n")
    for part in (card.what, card.use_when, card.costs, card.loses_when, card.source):
        assert part in text
    assert "explore_rate" in text


def test_the_command_prints_json() -> None:
    whole = json.loads(_methods("--json"))
    assert [card["name"] for card in whole["methods"]] == list(SELECTORS)
    assert [card["name"] for card in whole["baselines"]] == list(baseline_cards())
    one = json.loads(_methods("random", "--json"))
    assert one == asdict(find_card("random"))
    assert one["settings"] == [
        {"name": "keep_rate", "default": 0.5, "meaning": one["settings"][0]["meaning"]}
    ]
