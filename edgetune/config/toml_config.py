"""Settings as people give them, flat or in TOML, become a `RunConfig`, and that becomes TOML again.

    flat names ─→ group_by_section ─→ merged over a file's ─→ make_config ─→ RunConfig ─→ dump_config

A run folder's `config.toml` holds every setting resolved, so that running it again repeats the run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from edgetune.config.settings import RunConfig, Settings, registered_methods
from edgetune.utils.errors import UsageError, did_you_mean
from edgetune.utils.parsing import TomlError, is_encodable, read_toml
from edgetune.utils.sanitize import brief

SCHEMA_VERSION = 1


def column_names(text: str) -> tuple[str, ...]:
    """Split `a,b` into column names."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def make_config(raw: dict[str, Any]) -> RunConfig:
    """Validate settings given by section; a preset's values come before the ones given.

    Raises:
        UsageError: a value cannot be; the message names the setting and the value.
    """
    kind, presets = registered_methods()
    selection = dict(raw.get("selection", {}))
    preset = selection.get("preset", "default")
    if not isinstance(preset, str) or preset not in presets:
        raise UsageError(f"There is no preset {brief(repr(preset))}; choose from {', '.join(presets)}.")
    _check_text(raw)
    train = dict(raw.get("train", {}))
    if preset == "paper":
        train.setdefault("decay", "steps")
    try:
        chosen = kind.model_validate({**presets[preset], **selection})
    except ValidationError as error:
        raise UsageError(_first_problem(error, "selection")) from error
    try:
        return RunConfig.model_validate(raw | {"selection": chosen, "train": train})
    except ValidationError as error:
        raise UsageError(_first_problem(error)) from error


def _check_text(raw: dict[str, Any]) -> None:
    """Refuse names with bytes that are no UTF-8: `config.toml` could not be written."""
    for section, settings in raw.items():
        for name, value in settings.items() if isinstance(settings, dict) else ():
            words = [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else []
            if not all(is_encodable(word) for word in words if isinstance(word, str)):
                where = f"--{brief(name)}, setting {brief(section)}.{brief(name)}"
                raise UsageError(f"{where}: {brief(value)} contains bytes that are not UTF-8; rename it.")


def sections() -> dict[str, type[Settings]]:
    """Return the settings of each section of a config."""
    kinds: dict[str, Any] = {name: field.annotation for name, field in RunConfig.model_fields.items()}
    del kinds["schema_version"]
    return kinds | {"selection": registered_methods()[0]}


def group_by_section(settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Sort flat settings into the config's sections.

    Raises:
        UsageError: there is no such setting.
    """
    kinds = sections()
    grouped: dict[str, dict[str, Any]] = {name: {} for name in kinds}
    for name, value in settings.items():
        home = next((key for key, kind in kinds.items() if name in kind.model_fields), None)
        if home is None:
            known = [field for kind in kinds.values() for field in kind.model_fields]
            raise UsageError(
                f'There is no setting "{brief(name)}".{did_you_mean(name, known)} '
                "Run `edgetune finetune --help` or `edgetune methods NAME` to list the settings."
            )
        grouped[home][name] = value
    return grouped


def merge_sections(base: dict[str, Any], over: dict[str, dict[str, Any]]) -> RunConfig:
    """Put settings over those of a config file, section by section."""
    chosen = str(base.get("selection", {}).get("preset", "default"))
    if over.get("selection", {}).get("preset", chosen) != chosen:
        base = _without_preset(base)
    known = sections()
    raw = {name: {**base.get(name, {}), **over.get(name, {})} for name in known}
    unknown = set(base) - set(known) - {"schema_version"}
    if unknown:
        raise UsageError(f"The config has unknown sections: {brief(', '.join(sorted(unknown)))}.")
    return make_config(raw)


def _without_preset(raw: dict[str, Any]) -> dict[str, Any]:
    """Drop what a preset decides, so that another preset can decide it anew."""
    decided = {name for preset in registered_methods()[1].values() for name in preset}
    selection = {name: value for name, value in raw.get("selection", {}).items() if name not in decided}
    train = {name: value for name, value in raw.get("train", {}).items() if name != "decay"}
    return {**raw, "selection": selection, "train": train}


def _first_problem(error: ValidationError, *section: str) -> str:
    problem = error.errors()[0]
    where = brief(".".join(str(part) for part in (*section, *problem["loc"])))
    option = brief(str(problem["loc"][-1]).replace("_", "-")) if problem["loc"] else "config"
    given = problem.get("input")
    shown = f" (given: {brief(repr(given))})" if not isinstance(given, dict) else ""
    words = problem["msg"].removeprefix("Value error, ")
    words = words[:1].lower() + words[1:]
    return f"--{option}, setting {where}: {words}{shown}."


def load_config(path: Path) -> dict[str, Any]:
    """Read settings from TOML, by section, not yet validated.

    Raises:
        UsageError: missing, not TOML, not in sections, or from a newer edgetune.
    """
    try:
        raw = read_toml(path)
    except OSError as error:
        raise UsageError(f"Cannot read the config {path}: {error.strerror}.") from error
    except TomlError as error:
        raise UsageError(f"{path} is not TOML: {error}.") from error
    version = raw.get("schema_version", SCHEMA_VERSION)
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise UsageError(
            f"{path} was written by a newer edgetune (schema {version}); update edgetune to use it."
        )
    for name, value in raw.items():
        if name != "schema_version" and not isinstance(value, dict):
            raise UsageError(
                f"{path}: {brief(name)} is outside any section; move it into one such as [data] or [train]."
            )
    return raw


def dump_config(config: RunConfig) -> str:
    """Write every setting as TOML; settings that are None are left out, which reads back as None."""
    header = (
        "# All settings of this run. To repeat it: edgetune finetune --config THIS_FILE --out ELSEWHERE\n"
    )
    return header + tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))
