"""Which stored profile fits this machine and model best, and how far it can be believed.

same    processor, cores, instruction sets and runtimes are those that were measured
alike   the same kind of processor; something else differs: intervals are wider
other   another processor: a start only, which the first steps of a run must correct
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgetune.errors import ProfileError
from edgetune.machine import versions as installed_versions
from edgetune.profiles.cost import same_shape, work_of
from edgetune.profiles.device_profile import DeviceProfile, Machine, ModelShape
from edgetune.profiles.store import profile_files, read_profile, user_folder

Fit = Literal["same", "alike", "other"]
RUNTIMES = ("onnxruntime-training-cpu", "onnxruntime-training", "torch")
_WIDEN: dict[Fit, float] = {"same": 0.0, "alike": 0.2, "other": 0.6}


@dataclass(frozen=True, slots=True)
class Match:
    """A stored profile, and how well it fits.

    Attributes:
        profile: the one that fits best.
        fit: `same`, `alike` or `other`.
        reasons: what differs, a phrase each; empty for `same`.
    """

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

    Args:
        shape: of the model to be trained (None: any).
        machine: this one.
        versions: of installed packages (None: asked for).

    Raises:
        ProfileError: profiles are stored, and none of them can be read.
    """
    versions = installed_versions() if versions is None else versions
    found = {path: _try_to_read(path) for path in profile_files().values()}
    own = user_folder()
    matches = [
        (match(profile, machine, versions), path.parent == own)
        for path, profile in found.items()
        if isinstance(profile, DeviceProfile)
    ]
    broken = [error for error in found.values() if isinstance(error, ProfileError)]
    if not matches and broken:
        raise broken[0]
    # What nothing else settles the names do (files come in their order), so that it is the same every time.
    best = min(matches, key=lambda item: _distance(item[0], item[1], shape, machine), default=None)
    return None if best is None else best[0]


def _try_to_read(path: Path) -> DeviceProfile | ProfileError:
    try:
        return read_profile(path)
    except ProfileError as error:
        return error


def match(profile: DeviceProfile, machine: Machine, versions: Mapping[str, str]) -> Match:
    """Compare a profile with a machine and its installed runtimes."""
    theirs = profile.machine
    # Virtual machines call every processor by one name, so its numbers decide.
    same_cpu = (theirs.cpu_model, theirs.architecture) == (machine.cpu_model, machine.architecture)
    reasons = [] if same_cpu else [f"measured on {_cpu(theirs)}, this is {_cpu(machine)}"]
    if theirs.cores != machine.cores:
        reasons.append(f"measured with {theirs.cores} cores, here are {machine.cores}")
    if gone := set(theirs.features) ^ set(machine.features):
        reasons.append(f"instruction sets differ: {', '.join(sorted(gone))}")
    for name in RUNTIMES:
        was, is_ = profile.versions.get(name), versions.get(name)
        if was is not None and is_ is not None and was != is_:
            reasons.append(f"measured with {name} {was}, here is {is_}")
    if {theirs.power_source, machine.power_source} == {"mains", "battery"}:
        reasons.append(f"measured on {theirs.power_source}, this runs on {machine.power_source}")
    if not same_cpu:
        return Match(profile, "other", reasons)
    return Match(profile, "alike" if reasons else "same", reasons)


def _cpu(machine: Machine) -> str:
    """Name a processor so that two of one name can be told apart."""
    if machine.cpu_model == machine.cpu:
        return machine.cpu
    return f"{machine.cpu} ({machine.cpu_model})"


def _distance(found: Match, own: bool, shape: ModelShape | None, machine: Machine) -> tuple[float, ...]:
    """Order matches: fit, likeness of the machine and of the model, trust, the user's own, quality, age."""
    profile, theirs = found.profile, found.profile.machine
    return (
        ("same", "alike", "other").index(found.fit),
        float(theirs.architecture != machine.architecture),
        len(set(theirs.features) ^ set(machine.features)),
        abs(math.log(theirs.cores / machine.cores)),
        0.0 if shape is None else _model_distance(profile.model, shape),
        float(profile.noisy),
        float(not own),
        float(profile.quick),
        -float("".join(character for character in profile.date if character.isdecimal())[:14] or 0),
    )


def _model_distance(one: ModelShape, other: ModelShape) -> float:
    """Return 0 for the same shape, else how many times one model's work is the other's (log), plus some."""
    return 0.0 if same_shape(one, other) else 0.01 + abs(math.log(work_of(one) / work_of(other)))
