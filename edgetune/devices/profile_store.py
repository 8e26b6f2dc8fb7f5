"""Stored device profiles: where they lie, how they are read and saved, and which one fits this machine best.

    device_profiles/*.toml                  shipped: in a checkout beside the package, in a wheel inside it
    <config folder>/device_profiles/*.toml  the user's own (`EDGETUNE_PROFILES` names another folder)

The user's own take precedence over shipped ones of the same name. How well a profile fits:

    same    processor, cores, instruction sets and runtimes are those that were measured
    alike   the same kind of processor; something else differs: intervals are wider
    other   another processor: a start only, which the first steps of a run must correct

For an installation in which none is stored there is a nominal profile that nobody measured.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Literal

import tomli_w
from pydantic import ValidationError

from edgetune.devices.cost_function import operation_count, same_shape
from edgetune.devices.device_profile import (
    SCHEMA_VERSION,
    BackendProfile,
    DeviceProfile,
    FixedCosts,
    Machine,
    MeasuredPoint,
    Memory,
    ModelShape,
    Operation,
    Power,
    first_implausible,
)
from edgetune.utils.errors import ProfileError, UsageError
from edgetune.utils.files import write_atomic
from edgetune.utils.formatting import counted
from edgetune.utils.machine import user_folder
from edgetune.utils.machine import versions as installed_versions
from edgetune.utils.parsing import TomlError, read_toml
from edgetune.utils.sanitize import brief

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


def own_folder() -> Path | None:
    """Return where the user's own profiles are kept, None without a home; it may not exist yet."""
    named = os.environ.get("EDGETUNE_PROFILES")
    if named:
        return Path(named)
    home = user_folder("config")
    return None if home is None else home / "device_profiles"


def profile_files() -> dict[str, Path]:
    """Return every stored profile's file by name, the user's own before shipped ones."""
    folders = [folder for folder in (shipped_folder(), own_folder()) if folder is not None]
    files = [path for folder in folders for path in sorted(folder.glob("*.toml"))[:MAX_STORED]]
    return {path.stem: path for path in files if path.is_file()}


def save_profile(profile: DeviceProfile, path: Path | None = None) -> Path:
    """Write a profile whole or not at all, by default to the user's folder under its name; return where.

    Raises:
        ProfileError: there is no room or no permission, or no folder to write to.
    """
    path = own_file(profile.name) if path is None else path
    try:
        write_atomic(path, to_toml(profile))
    except OSError as error:
        raise ProfileError(
            f"Cannot write the profile to {path} ({error.strerror}); use --out FILE."
        ) from error
    return path


def own_file(name: str) -> Path:
    """Return the file of the user's own profile of that name; it may not exist yet.

    Raises:
        ProfileError: the user has no home folder.
    """
    folder = own_folder()
    if folder is None:
        raise ProfileError(
            "This user has no home folder to keep profiles in; use --out FILE, or set EDGETUNE_PROFILES."
        )
    return folder / f"{name}.toml"


def to_toml(profile: DeviceProfile) -> str:
    """Return a profile as TOML; what is None is left out, which reads back as None."""
    header = HEADER.format(
        edgetune=profile.versions.get("edgetune", "?"), date=profile.date, name=profile.name
    )
    body = tomli_w.dumps(profile.model_dump(mode="json", exclude_none=True))
    return f"{header}# SHA-256 of all lines below: {hashlib.sha256(body.encode()).hexdigest()}\n{body}"


def load_profile(name: str | Path) -> DeviceProfile:
    """Read a profile by name or from a file, and check that it makes sense.

    Raises:
        UsageError: there is none of that name.
        ProfileError: the file is no profile, from a newer edgetune, or holds nonsense.
    """
    text, files = str(name), profile_files()
    if isinstance(name, Path) or text.endswith(".toml") or "/" in text or os.sep in text:
        path = Path(os.path.expanduser(text))
        if path.is_file():
            return read_profile(path)
        raise UsageError(f"There is no profile file {text}; `edgetune profile --out {text}` measures one.")
    if text not in files:
        raise UsageError(
            f"There is no profile {text} (stored: {', '.join(files) or 'none'}); "
            f"`edgetune profile --name {text}` measures this machine."
        )
    return read_profile(files[text])


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
    again = "measure again with `edgetune profile`."
    try:
        raw, text = read_toml(path), path.read_text(encoding="utf-8")
    except (TomlError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path} is not TOML ({error}); {again}") from error
    version = raw.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ProfileError(
            f"{path} was written by a newer edgetune (schema {version}); update edgetune, or {again}"
        )
    try:
        profile = DeviceProfile.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = brief(".".join(str(part) for part in first["loc"])) or "the file"
        given = first.get("input")
        shown = "" if isinstance(given, (dict, list)) else f" (given: {brief(repr(given))})"
        problem = f"{where}: {first['msg'].lower()}{shown}"
        raise ProfileError(f"{path} is not a device profile: {problem}; {again}") from error
    nonsense = first_implausible(profile)
    if nonsense is not None:
        raise ProfileError(f"{path} is implausible: {nonsense}; {again}")
    checksum = _SUM.search(text)  # older profiles have none
    if checksum and hashlib.sha256(text[checksum.end() :].encode()).hexdigest() != checksum[1]:
        raise ProfileError(
            f"{path} was changed after it was measured (its SHA-256 does not match its header); copy it "
            f"again, or {again}"
        )
    return profile


Fit = Literal["same", "alike", "other"]
RUNTIMES = ("onnxruntime-training-cpu", "onnxruntime-training", "torch")
_WIDEN: dict[Fit, float] = {"same": 0.0, "alike": 0.2, "other": 0.6}


@dataclass(frozen=True, slots=True)
class Match:
    """A stored profile, how well it fits, and what differs, a phrase each (none for `same`)."""

    profile: DeviceProfile
    fit: Fit
    reasons: list[str]

    @property
    def widen(self) -> float:
        """Relative half-width that goes on top of every interval predicted from it."""
        return _WIDEN[self.fit]


def find_for_this_machine(
    shape: ModelShape | None, machine: Machine, versions: Mapping[str, str] | None = None
) -> Match | None:
    """Return the stored profile that fits best, None if none is stored.

    Files that cannot be read are passed over, as long as another one can be.

    Raises:
        ProfileError: profiles are stored, and none of them can be read.
    """
    versions = installed_versions() if versions is None else versions
    own = own_folder()
    matches: list[tuple[Match, bool]] = []
    broken: list[ProfileError] = []
    for path in profile_files().values():
        is_own = path.parent == own
        try:
            matches.append((match_profile(read_profile(path), machine, versions), is_own))
        except ProfileError as error:
            broken.append(error)
    if not matches and broken:
        raise broken[0]
    # What nothing else settles the names do (files come in their order), so that it is the same every time.
    best = min(matches, key=lambda item: _distance(item[0], item[1], shape, machine), default=None)
    return None if best is None else best[0]


def match_profile(profile: DeviceProfile, machine: Machine, versions: Mapping[str, str]) -> Match:
    """Compare a profile with a machine and its installed runtimes."""
    theirs = profile.machine
    # Virtual machines call every processor by one name, so its numbers decide.
    same_cpu = (theirs.cpu_model, theirs.architecture) == (machine.cpu_model, machine.architecture)
    cpus = [
        one.cpu if one.cpu == one.cpu_model else f"{one.cpu} ({one.cpu_model})" for one in (theirs, machine)
    ]
    reasons = [] if same_cpu else [f"measured on {cpus[0]}, this machine has {cpus[1]}"]
    if theirs.cores != machine.cores:
        reasons.append(f"measured with {counted(theirs.cores, 'core')}, this machine has {machine.cores}")
    if gone := set(theirs.features) ^ set(machine.features):
        reasons.append(f"instruction sets differ: {', '.join(sorted(gone))}")
    for name in RUNTIMES:
        was, is_ = profile.versions.get(name), versions.get(name)
        if was is not None and is_ is not None and was != is_:
            reasons.append(f"measured with {name} {was}, {is_} is installed")
    if {theirs.power_source, machine.power_source} == {"mains", "battery"}:
        reasons.append(f"measured on {theirs.power_source}, this machine runs on {machine.power_source}")
    fit: Fit = "other" if not same_cpu else "alike" if reasons else "same"
    return Match(profile, fit, reasons)


def _distance(found: Match, own: bool, shape: ModelShape | None, machine: Machine) -> tuple[float, ...]:
    """Order matches: fit, likeness of the machine and of the model, trust, the user's own, quality, age."""
    profile, theirs = found.profile, found.profile.machine
    model = 0.0
    if shape is not None and not same_shape(profile.model, shape):
        # Multiply-adds per token, attention left out.
        one, other = (operation_count(each, 1.0, 1.0, each.n_layers)[2] for each in (profile.model, shape))
        model = 0.01 + abs(math.log(one / other))
    return (
        ("same", "alike", "other").index(found.fit),
        float(theirs.architecture != machine.architecture),
        len(set(theirs.features) ^ set(machine.features)),
        abs(math.log(theirs.cores / machine.cores)),
        model,
        float(profile.noisy),
        float(not own),
        float(profile.quick),
        -float("".join(character for character in profile.date if character.isdecimal())[:14] or 0),
    )


# Rounded from `amd-zen3-2-cores`; a measurement at the start of a run tells how many times as long it takes.
MULTIPLY_ADDS_PER_S, CALL_S, UPDATE_S_PER_WEIGHT = 40e9, 2e-3, 3.5e-9
BACKWARD = 3.5
"""Seconds of a train step over those of a forward pass, the update of the weights left out."""


def nominal_match(shape: ModelShape, machine: Machine, fixed_costs: Mapping[str, FixedCosts]) -> Match:
    """Return a profile of nominal costs of a model's operations; its fixed ones are given by backend."""
    points = []
    ops: tuple[Operation, ...] = ("score", "train")
    for op, batch, length in product(ops, (4, 32), (16, 128)):
        _, _, products, attention, updated = operation_count(shape, batch, length, shape.n_layers)
        s = CALL_S + (products + 2 * attention) / MULTIPLY_ADDS_PER_S
        s = BACKWARD * s + UPDATE_S_PER_WEIGHT * updated if op == "train" else s
        points.append(MeasuredPoint(op=op, batch=batch, length=length, depth=0, s=s, low_s=s, high_s=s, n=1))
    memory = Memory(base_mb=700, score_mb_per_token=0.04, train_mb_per_token=0.25)
    same = {"precision": "fp32", "threads": machine.cores, "memory": memory, "points": points}
    profile = DeviceProfile(
        name="nominal",
        date="",
        machine=machine,
        versions={},
        model=shape,
        start_s=1.1,
        report_s=1.1,
        exit_s=2.4,
        spread=0.2,
        power=Power(train_w=20, score_w=20, idle_w=2, source="nominal, not measured", measured=False),
        backends=[
            BackendProfile.model_validate({"backend": name, "fixed": fixed, **same})
            for name, fixed in fixed_costs.items()
        ],
    )
    return Match(profile, "other", ["no device profile is stored, and nominal costs take its place"])
