"""Every command says in one line what it does, shows an example, and offers only settings that exist."""

from __future__ import annotations

import inspect
from typing import Any, Literal, get_origin, get_type_hints

import pytest
import typer.main
from conftest import RunCli

from edgetune.cli import app
from edgetune.config.settings import DataSettings
from edgetune.config.toml_config import sections

COMMANDS: dict[str, Any] = dict(typer.main.get_command(app.app).commands)  # type: ignore[attr-defined]
NOT_SETTINGS = {
    "resume",
    "data",
    "eval",
    "set",
    "config",
    "out",
    "overwrite",
    "cache_dir",
    "quiet",
    "as_json",
    "details",
}
IN_WORDS = {
    "checkpoint_every",
    "deadline",
    "energy",
    "battery",
    "memory",
    "cache_size",
}  # read by `budget.read_budget`

every_command = pytest.mark.parametrize("name", sorted(COMMANDS))


def test_commands() -> None:
    assert set(COMMANDS) >= {"finetune", "plan", "predict", "evaluate", "export", "doctor", "demo"}


@every_command
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_has_one_line_and_examples(name: str, flag: str, run_cli: RunCli) -> None:
    code, out, err = run_cli(name, flag, columns=80)
    assert (code, err) == (0, "")
    lines = [line.strip() for line in out.splitlines() if line.strip()]
    assert lines[0].startswith("Usage: ")
    assert lines[1].endswith(".")
    assert sum(line.startswith((f"edgetune {name}", "cat ")) for line in lines) >= 2
    assert "…" not in out


@pytest.mark.parametrize(
    "name", ["finetune", "plan", "compare", "predict", "evaluate", "export", "inspect", "profile"]
)
def test_every_option_stands_in_a_panel(name: str, run_cli: RunCli) -> None:
    _, out, _ = run_cli(name, "--help")
    assert "─ Output ─" in out
    assert "─ Options ─" not in out


@every_command
def test_every_option_is_explained(name: str) -> None:
    for parameter in COMMANDS[name].params:
        explained = getattr(parameter, "help", None)
        assert explained, f"{name} {parameter.name} has no help"
        assert explained.rstrip(")")[-1] in ".]", f"{name} {parameter.name}: {explained}"


def test_main_help_lists_every_command(run_cli: RunCli) -> None:
    code, out, _ = run_cli("--help", columns=80)
    assert code == 0
    for command in COMMANDS.values():
        assert command.help in out


def test_nothing_given_shows_the_help(run_cli: RunCli) -> None:
    outcome = run_cli()
    assert outcome.code in (0, 2)
    assert "finetune" in outcome.out + outcome.err


def test_choices_are_those_of_the_config() -> None:
    options = get_type_hints(app.finetune)
    fields = {
        name: field.annotation for kind in sections().values() for name, field in kind.model_fields.items()
    }
    choices = {name for name, kind in fields.items() if get_origin(kind) is Literal and name in options}
    assert choices >= {"backend", "metric"}
    for name in choices:
        assert options[name] == fields[name] | None


def test_every_option_of_finetune_is_a_setting() -> None:
    known = {name for kind in sections().values() for name in kind.model_fields}
    options = {name.removesuffix("_") for name in inspect.signature(app.finetune).parameters}
    assert options - NOT_SETTINGS - IN_WORDS <= known
    assert {"train", "eval"} <= set(DataSettings.model_fields)


def test_defaults_stay_with_the_config() -> None:
    """An option that is not given must not overrule a config file."""
    parameters = inspect.signature(app.finetune).parameters
    given: dict[str, Any] = {
        name: parameter.default
        for name, parameter in parameters.items()
        if name.removesuffix("_") not in NOT_SETTINGS
    }
    assert set(given.values()) == {None}


def test_shown_defaults_are_true() -> None:
    shown = {parameter.name: parameter.show_default for parameter in COMMANDS["finetune"].params}  # type: ignore[attr-defined]
    for kind in sections().values():
        for name, field in kind.model_fields.items():
            words = shown.get(name)
            if isinstance(words, str) and isinstance(field.default, int | float):
                assert words.split(",")[0] in (str(field.default), "by preset", "by the number of rows"), name


def test_another_option_is_offered_only_where_the_words_are_alike(run_cli: RunCli) -> None:
    code, _, err = run_cli("finetune", "x.csv", "--lerning-rat", "1")
    assert code == 2
    assert "--learning-rate" in err
    code, _, err = run_cli("finetune", "x.csv", "--hidden-rate", "1")
    assert code == 2
    assert "explore-rate" not in err


def test_the_learning_rate_has_its_full_name_too(run_cli: RunCli) -> None:
    code, _, err = run_cli("finetune", "/no/such/file.csv", "--learning-rate", "0.001")
    assert code == 1
    assert "/no/such/file.csv" in err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("edgetune fine", ["finetune"]),
        ("edgetune finetune a.csv --backend to", ["torch"]),
        ("edgetune finetune a.csv --learners ngrams,p", ["ngrams,probe"]),
        ("edgetune methods thr", ["three-stage"]),
        ("edgetune finetune a.c", []),  # the shell completes files
    ],
)
def test_completion(
    run_cli: RunCli, shell: str, typed: str, offered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_EDGETUNE_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", typed)
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    code, out, err = run_cli()
    assert (code, err) == (0, "")
    assert [word for word in offered if word not in out] == []
    if not offered:
        assert out.split() in ([], ["_files"])
