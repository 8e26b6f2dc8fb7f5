from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgetune.config.settings import RunConfig
from edgetune.config.toml_config import (
    dump_config,
    group_by_section,
    load_config,
    make_config,
    merge_sections,
    sections,
)
from edgetune.selection import METHODS, PRESETS, SelectionSettings
from edgetune.utils.errors import UsageError

DATA = {"data": {"train": "x.csv"}}


def write(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_paper_preset_is_the_table() -> None:
    config = make_config({**DATA, "selection": {"method": "three-stage", "preset": "paper"}})
    chosen = config.selection
    assert chosen.threshold_window == 128
    assert chosen.warmup_gain == 0
    assert chosen.recall == 0
    assert chosen.moving_threshold is False
    assert chosen.features == "tokens"
    assert chosen.calibrated is False
    assert chosen.alt_after_fit is True
    assert chosen.explore_rate == 0
    assert chosen.alt_window in (4, 8, 16)
    assert 0.1 <= chosen.alt <= 0.5
    assert 0.1 <= chosen.warmup_fraction <= 0.4
    assert config.train.decay == "steps"


def test_default_preset_is_the_table() -> None:
    config = make_config(DATA)
    assert config.selection == SelectionSettings()
    assert config.selection.threshold_window == 128
    assert config.selection.warmup_gain > 0
    assert config.selection.features == "hashed"
    assert config.selection.calibrated is True
    assert config.selection.alt_after_fit is False
    assert config.selection.explore_rate > 0
    assert config.train.decay == "examples"


def test_presets_change_only_selection_settings() -> None:
    for name, values in PRESETS.items():
        assert set(values) <= set(SelectionSettings.model_fields)
        assert values.get("preset", "default") == name


def test_what_is_given_wins_over_the_preset() -> None:
    given = {"selection": {"preset": "paper", "alt": 0.3}, "train": {"decay": "examples"}}
    config = make_config(DATA | given)
    assert (config.selection.alt, config.selection.alt_window) == (0.3, 8)
    assert config.train.decay == "examples"


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("method", METHODS)
def test_survives_toml(tmp_path: Path, method: str, preset: str) -> None:
    config = make_config(
        {
            "data": {
                "train": 'odd "name".csv',
                "text": ["question", "sentence"],
                "pair": True,
                "header": False,
            },
            "model": {"freeze": "2", "threads": 3},
            "selection": {"method": method, "preset": preset, "threshold": 0.0},
            "train": {"seed": 0, "lr": 1e-4, "epochs": 3},
        }
    )
    assert make_config(load_config(write(tmp_path, dump_config(config)))) == config


def test_minimal_config_survives_toml(tmp_path: Path) -> None:
    config = make_config(DATA)
    assert make_config(load_config(write(tmp_path, dump_config(config)))) == config
    assert dump_config(config).startswith("# ")


def test_newer_schema_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="newer edgetune"):
        load_config(write(tmp_path, "schema_version = 2\n[data]\ntrain = 'x.csv'\n"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[data]\ntrain = 'x.csv'\ncolour = 1\n", "colour"),
        ("[data]\ntrain = 'x.csv'\n[traim]\nepochs = 1\n", "traim"),
        ("[data]\ntrain = 'x.csv'\n[train]\nepochs = 0\n", "epochs"),
        ("data = 'x.csv'\n", "data"),
        ("[train]\nepochs = 1\n", "train"),
    ],
)
def test_bad_settings_are_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        merge_sections(load_config(write(tmp_path, text)), group_by_section({}))


@pytest.mark.parametrize("text", ["this is = = no toml", "\x00"])
def test_not_toml(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="not TOML"):
        load_config(write(tmp_path, text))


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Cannot read the config"):
        load_config(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("train", "epochs", 0),
        ("train", "batch_size", 0),
        ("train", "lr", 0.0),
        ("train", "seed", -1),
        ("model", "freeze", "some"),
        ("model", "freeze", "-1"),
        ("model", "backend", "jax"),
        ("selection", "method", "magic"),
        ("selection", "keep_rate", 0.0),
        ("selection", "warmup_fraction", 1.5),
        ("data", "holdout", 1.0),
        ("data", "max_length", 3),
    ],
)
def test_values_that_cannot_be(section: str, name: str, value: Any) -> None:
    raw = {"data": {"train": "x.csv"}}
    raw.setdefault(section, {})[name] = value
    with pytest.raises(UsageError) as caught:
        make_config(raw)
    assert f"--{name.replace('_', '-')}" in str(caught.value)
    assert repr(value) in str(caught.value)


def test_unknown_preset() -> None:
    with pytest.raises(UsageError, match="default, paper"):
        make_config({**DATA, "selection": {"preset": "magic"}})


def test_a_name_belongs_to_one_section() -> None:
    names = [name for kind in sections().values() for name in kind.model_fields]
    assert len(names) == len(set(names))
    assert set(sections()) == set(RunConfig.model_fields) - {"schema_version"}


def test_unknown_setting_from_python() -> None:
    with pytest.raises(UsageError, match="epoks"):
        group_by_section({"epoks": 3})


def test_another_preset_replaces_the_numbers_of_a_resolved_config() -> None:
    resolved = make_config({"data": {"train": "x.csv"}, "selection": {"method": "three-stage"}})
    base = resolved.model_dump(mode="json", exclude_none=True)
    config = merge_sections(base, {"data": {}, "model": {}, "selection": {"preset": "paper"}, "train": {}})
    assert config == make_config(
        {"data": {"train": "x.csv"}, "selection": {"method": "three-stage", "preset": "paper"}}
    )
    again = merge_sections(base, {"data": {}, "model": {}, "selection": {"preset": "default"}, "train": {}})
    assert again == resolved
