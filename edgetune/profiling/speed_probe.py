"""A short measurement of each backend, for machines of which no profile is stored.

The nearest profile is scaled by the result. The result is kept, so that a machine is measured once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgetune.devices.detect import this_machine
from edgetune.devices.device_profile import DeviceProfile
from edgetune.planning.device_costs import Scales, profile_key
from edgetune.utils.cache import write_cached_json
from edgetune.utils.errors import EdgetuneError
from edgetune.utils.parsing import read_json_file

PROBE_S = 20.0
WORTH_RATE = 6.0
FILE = "probes.json"


def worth_probing(longest_s: float | None) -> bool:
    """Return whether a run is long enough for a probe to pay: several times its length."""
    return longest_s is None or longest_s >= WORTH_RATE * PROBE_S


def probe_speeds(profile: DeviceProfile, cache_dir: Path, say: Callable[[str], None]) -> Scales:
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
    from edgetune.profiling.drift import DriftCheck

    say(f"This machine was never profiled: timing a few steps of each backend (once, about {PROBE_S:.0f} s)")
    try:
        drift = DriftCheck(profile, None, cache_dir, lambda text, share: None, limit_s=PROBE_S).run()
    except EdgetuneError:
        return {}
    scales = {ratio.key: ratio.mean for ratio in drift.ratios if ratio.op == "train"}
    write_cached_json(path, known | {key: scales})
    return scales


def _read(path: Path) -> dict[str, Scales]:
    try:
        found = read_json_file(path)
        return {str(key): {str(k): float(v) for k, v in value.items()} for key, value in found.items()}
    except (OSError, ValueError, AttributeError, TypeError, OverflowError):
        return {}
