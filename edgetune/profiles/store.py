"""Where device profiles live: shipped ones, the user's own, or any file; and which one fits a machine.

    device_profiles/*.toml                  shipped: in a checkout beside the package, in a wheel inside it
    <config folder>/device_profiles/*.toml  the user's own (`EDGETUNE_PROFILES` names another folder)

The user's own go before shipped ones of the same name.
"""

from __future__ import annotations

import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path

import tomli_w
from pydantic import ValidationError

from edgetune.errors import ProfileError, UsageError
from edgetune.files import write_whole
from edgetune.profiles.device_profile import SCHEMA_VERSION, DeviceProfile
from edgetune.profiles.sanity import first_nonsense
from edgetune.shown import brief
from edgetune.toml_files import TomlError, read_toml

MAX_STORED = 1_000  # files of a folder that are looked at
HEADER = (
    "# Measured by `edgetune profile` (edgetune {edgetune}) on {date}. Units: s, MB (10^6 bytes), W.\n"
    "# Read it with `edgetune profile show {name}`; do not edit it, measure again.\n"
)
_SUM = re.compile(r"^# SHA-256 of all lines below: ([0-9a-f]{64})\n", re.MULTILINE)


def shipped_folder() -> Path | None:
    """Return where the profiles that come with edgetune lie, None if there are none."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "device_profiles", package.parent / "device_profiles"):
        if folder.is_dir() and (folder.parent == package or (package.parent / "pyproject.toml").is_file()):
            return folder
    return None


def user_folder() -> Path:
    """Return where the user's own profiles are kept; it may not exist yet."""
    named = os.environ.get("EDGETUNE_PROFILES")
    if named:
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_config_dir("edgetune")) / "device_profiles"


def profile_files() -> dict[str, Path]:
    """Return every stored profile's file by name, the user's own before shipped ones."""
    folders = [folder for folder in (shipped_folder(), user_folder()) if folder is not None]
    files = [path for folder in folders for path in sorted(folder.glob("*.toml"))[:MAX_STORED]]
    return {path.stem: path for path in files if path.is_file()}


def save(profile: DeviceProfile, path: Path | None = None) -> Path:
    """Write a profile whole or not at all; return where.

    Args:
        profile: what was measured.
        path: file to write (None: the user's folder, under the profile's name).

    Raises:
        ProfileError: there is no room or no permission.
    """
    path = user_folder() / f"{profile.name}.toml" if path is None else path
    try:
        write_whole(path, to_toml(profile))
    except OSError as error:
        raise ProfileError(
            f"Cannot write the profile to {path} ({error.strerror}); use --out FILE."
        ) from error
    return path


def to_toml(profile: DeviceProfile) -> str:
    """Return a profile as TOML; what is None is left out, which reads back as None."""
    header = HEADER.format(
        edgetune=profile.versions.get("edgetune", "?"), date=profile.date, name=profile.name
    )
    body = tomli_w.dumps(profile.model_dump(mode="json", exclude_none=True))
    return f"{header}# SHA-256 of all lines below: {_sha256(body)}\n{body}"


def _sha256(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


def _was_changed(text: str) -> bool:
    """Return whether a profile is not what its checksum says; one without a checksum is older than these."""
    text = text.replace("\r\n", "\n")  # as some checkouts have it
    found = _SUM.search(text)
    return found is not None and _sha256(text[found.end() :]) != found.group(1)


def load(name: str | Path) -> DeviceProfile:
    """Read a profile by name or from a file, and check that it makes sense.

    Raises:
        UsageError: there is none of that name.
        ProfileError: the file is no profile, from a newer edgetune, or holds nonsense.
    """
    return read_profile(find_file(name))


def find_file(name: str | Path) -> Path:
    """Return the file of a profile that is named, or given as a path.

    Raises:
        UsageError: there is none.
    """
    text = str(name)
    is_path = isinstance(name, Path) or text.endswith(".toml") or "/" in text or os.sep in text
    files = profile_files()
    if not is_path and text in files:
        return files[text]
    path = Path(os.path.expanduser(text))
    if is_path and path.is_file():
        return path
    if is_path:
        raise UsageError(f"There is no profile file {text}; `edgetune profile --out {text}` measures one.")
    known = ", ".join(files) if files else "none"
    raise UsageError(
        f"There is no profile {text} (stored: {known}); "
        f"`edgetune profile --name {text}` measures this machine."
    )


def read_profile(path: Path) -> DeviceProfile:
    """Read one file and check that it makes sense; a file that did not change is read once.

    Raises:
        ProfileError: what is wrong with it, and where.
    """
    try:
        return _read(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise ProfileError(f"Cannot read the profile {path}: {error.strerror}.") from error


@lru_cache(maxsize=16)
def _read(path: Path, changed_ns: int) -> DeviceProfile:
    """Read one file; when it was changed last tells what is remembered from what must be read again."""
    try:
        raw, text = read_toml(path), path.read_text(encoding="utf-8")
    except (TomlError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path} is not TOML ({error}); measure again with `edgetune profile`.") from error
    version = raw.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ProfileError(
            f"{path} was written by a newer edgetune (schema {version}); update edgetune, or measure again "
            "with `edgetune profile`."
        )
    try:
        profile = DeviceProfile.model_validate(raw)
    except ValidationError as error:
        raise ProfileError(f"{path} is no device profile: {_problem(error)}; measure again.") from error
    nonsense = first_nonsense(profile)
    if nonsense is not None:
        raise ProfileError(f"{path} cannot be true: {nonsense}; measure again with `edgetune profile`.")
    if _was_changed(text):
        raise ProfileError(
            f"{path} was changed after it was measured (its SHA-256 is not the one in its head); copy it "
            "again, or measure again with `edgetune profile`."
        )
    return profile


def _problem(error: ValidationError) -> str:
    """Say the first thing that is wrong: where, what, and the value."""
    first = error.errors()[0]
    where = brief(".".join(str(part) for part in first["loc"])) or "the file"
    given = first.get("input")
    shown = "" if isinstance(given, (dict, list)) else f" (given: {brief(repr(given))})"
    return f"{where}: {first['msg'].lower()}{shown}"
