"""The README, the configs and the CI script say what the code does."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import typer.main

from edgetune.cli.app import app
from edgetune.compare.grid import cells_of, load_grid
from edgetune.config.toml_config import load_config, make_config, merge_sections
from edgetune.selection import PRESETS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_readme_names_every_command_and_no_other() -> None:
    table = set(re.findall(r"^\| `edgetune (\w+)", README, re.M))
    assert table == set(COMMANDS)


def test_readme_options_exist() -> None:
    known = {option for command in COMMANDS.values() for item in command.params for option in item.opts}
    known |= {
        option for command in COMMANDS.values() for item in command.params for option in item.secondary_opts
    }
    assert set(re.findall(r"`(--[a-z0-9-]+)", README)) <= known


def test_readme_has_the_two_commands_that_ci_and_users_run() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.S)
    assert blocks[0].strip().endswith("edgetune demo")
    assert blocks[1].strip().endswith('pip install -e ".[cpu,test]" && pytest')
    assert "pytest" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_every_config_is_valid_and_headed_by_its_command(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# edgetune finetune ")
    assert f"configs/{path.name}" in first
    raw = load_config(path)
    config = merge_sections(
        raw, {"data": {} if "data" in raw else {"train": "x.csv"}, "model": {}, "selection": {}, "train": {}}
    )
    chosen = config.model_dump(mode="json")
    for section, values in raw.items():
        if section != "schema_version":
            assert {name: chosen[section][name] for name in values} == values


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs" / "compare").glob("*.toml")), ids=lambda path: path.stem
)
def test_every_grid_is_valid_and_headed_by_its_command_and_time(path: Path) -> None:
    head = path.read_text(encoding="utf-8").partition("\nmethods = ")[0].splitlines()
    assert head[0] == f"# edgetune compare configs/compare/{path.name}"
    assert re.fullmatch(r"# Takes (about )?\d+ (minutes|hours) on two cores of an .+\.", head[-1])
    grid = load_grid(path)
    assert grid.name == path.stem
    assert len(cells_of(grid)) >= len(grid.data)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_preset_configs_hold_the_preset(preset: str) -> None:
    raw = load_config(ROOT / "configs" / f"three-stage-{preset}.toml")
    config = make_config({**raw, "data": {"train": "x.csv"}})
    assert config.selection.method == "three-stage"
    assert config.selection.preset == preset
    for name, value in PRESETS[preset].items():
        assert getattr(config.selection, name) == value


def test_no_tracked_text_holds_a_path_of_somebodys_machine() -> None:
    places = [
        path for name in ("edgetune", "configs", "docs", "tools") for path in (ROOT / name).rglob("*.*")
    ]
    texts = [p for p in [*places, ROOT / "README.md"] if p.suffix in (".py", ".md", ".toml")]
    home = "/" + "work/"
    assert [str(path) for path in texts if home in path.read_text(encoding="utf-8")] == []


PACKAGE = ROOT / "edgetune"
FOLDERS = sorted(path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE)


def test_the_package_root_holds_folders_only() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}
    assert not [path for path in PACKAGE.rglob("*.py") if not (path.parent / "__init__.py").is_file()]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_folder_says_what_belongs_there_and_what_it_may_import(folder: Path) -> None:
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    assert text is not None
    assert re.search(r"may import|Imports no other", text, re.I)


def test_names_of_modules_and_public_classes_are_unique() -> None:
    modules: dict[str, list[Path]] = {}
    classes: dict[str, list[Path]] = {}
    for path in PACKAGE.rglob("*.py"):
        modules.setdefault(path.name, []).append(path)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes.setdefault(node.name, []).append(path)
    shared = {"__init__.py", "__main__.py"}
    assert {name for name, places in modules.items() if len(places) > 1} == shared
    assert not {name for name, places in classes.items() if len(places) > 1}
