"""A measured probe: a few operations per backend, where no profile was measured on this kind of machine.

The nearest profile is scaled by what comes out. The answer is kept, so a machine is probed once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from edgetune.caches import keep_json
from edgetune.errors import EdgetuneError
from edgetune.json_files import read_json_file
from edgetune.machine import versions
from edgetune.profiles.device_profile import DeviceProfile, Machine
from edgetune.profiles.here import this_machine

PROBE_S = 20.0
WORTH_RATE = 6.0
FILE = "probes.json"
Scales = dict[str, float]


def worth_probing(longest_s: float | None) -> bool:
    """Return whether a run is long enough for a probe to pay: several times its length."""
    return longest_s is None or longest_s >= WORTH_RATE * PROBE_S


def probed(profile: DeviceProfile, cache_dir: Path, say: Callable[[str], None]) -> Scales:
    """Return how many times as long training takes here, by backend; {} if nothing could be measured.

    Args:
        profile: measured elsewhere.
        cache_dir: where artifacts and earlier answers are kept.
        say: is told that it takes a moment.
    """
    path, key = cache_dir / FILE, profile_key(profile, this_machine())
    known = _read(path)
    if key in known:
        return known[key]
    from edgetune.profiles.check import Check

    say(f"No profile of this machine: a few steps of each backend are timed (once, about {PROBE_S:.0f} s)")
    try:
        drift = Check(profile, None, cache_dir, lambda text, share: None, limit_s=PROBE_S).run()
    except EdgetuneError:
        return {}
    scales = {ratio.key: ratio.mean for ratio in drift.ratios if ratio.op == "train"}
    keep_json(path, known | {key: scales})
    return scales


def profile_key(profile: DeviceProfile, machine: Machine) -> str:
    """Name a profile, this machine and what runs on it, so that another measurement gets another name."""
    runtimes = {name: value for name, value in versions().items() if name.startswith(("onnx", "torch"))}
    return json.dumps(
        [profile.name, profile.date, machine.cpu_model, machine.cores, runtimes], sort_keys=True
    )


def _read(path: Path) -> dict[str, Scales]:
    try:
        found = read_json_file(path)
        return {str(key): {str(k): float(v) for k, v in value.items()} for key, value in found.items()}
    except (OSError, ValueError, AttributeError, TypeError, OverflowError):
        return {}
