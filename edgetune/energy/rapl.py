"""Energy counters of Intel and AMD processors, as Linux shows them below /sys/class/powercap.

    intel-rapl:0        package-0   counted
    intel-rapl:0:0      core        part of the package
    intel-rapl:0:1      uncore      part of the package
    intel-rapl:0:2      dram        counted, beside the package
    intel-rapl:1        psys        the whole board, the package included: not counted
    intel-rapl-mmio:0   package-0   the same counter by another way: not counted

They count the whole processor, other programs included. A counter starts again at 0 after
`max_energy_range_uj`: after minutes at full load on some, so read it at least once a minute.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from edgetune.energy.sensor import Counter, SensorLost, SensorState, TimeSource, read_int, read_text
from edgetune.utils.formatting import counted

FOLDER = "sys/class/powercap"
FIX = "sudo chmod a+r /sys/class/powercap/*/energy_uj"
"""Makes the counters readable until the next start; most kernels since 2020 let only root read them."""

MAX_ZONE_W = 5000.0
SLACK_J = 10.0
"""More than `MAX_ZONE_W` for the time passed, and this: the counter was reset, it did not wrap."""
STILL_S = 1.0
"""Counters move every millisecond; one that stands still for this long (some virtual machines) is dead."""


@dataclass(frozen=True, slots=True)
class Zone:
    """One counter: its folder and its name, such as `package-0` or `dram`."""

    folder: Path
    name: str

    def energy_uj(self) -> int | None:
        """Return the counter (µJ), None where it cannot be read."""
        return read_int(self.folder / "energy_uj")


def find_zones(root: Path) -> list[Zone]:
    """Return the counters to add up, readable or not, so that nothing is counted twice."""
    found = []
    for folder in sorted((root / FOLDER).glob("intel-rapl:*")):
        depth = folder.name.count(":")
        name = read_text(folder / "name") or folder.name
        package = depth == 1 and not name.startswith("psys")
        dram = depth == 2 and name.startswith("dram")
        if (package or dram) and (folder / "energy_uj").exists():
            found.append(Zone(folder, name))
    return found


def usable_zones(root: Path) -> list[Zone]:
    """Return the counters that can be read: every package (else none at all), and memory where it can."""
    zones = find_zones(root)
    readable = [zone for zone in zones if zone.energy_uj() is not None]
    packages = [zone for zone in zones if not zone.name.startswith("dram")]
    return readable if packages and all(zone in readable for zone in packages) else []


class Rapl(Counter):
    """Joules of all packages and their memory since opening.

    Lost when a counter cannot be read, was reset, or stands still.
    """

    covers = "processor"

    def __init__(self, zones: list[Zone], clock: TimeSource = time.perf_counter) -> None:
        """Start counting at the zones' present values; `zones` come from `usable_zones`."""
        names = dict.fromkeys(re.sub(r"^dram.*", "dram", zone.name) for zone in zones)
        self.name = "RAPL " + " + ".join(sorted(names, key=lambda name: (name == "dram", name)))
        self._clock = clock
        self._joules = 0.0
        self._moved_s = self._read_s = clock()
        self._last_uj = {zone: zone.energy_uj() for zone in zones}
        self._range_uj = {zone: read_int(zone.folder / "max_energy_range_uj") for zone in zones}

    @classmethod
    def find(cls, root: Path, clock: TimeSource) -> Rapl | None:
        zones = usable_zones(root)
        return cls(zones, clock) if zones else None

    @classmethod
    def state_on(cls, root: Path) -> SensorState:
        label = "RAPL (processor energy)"
        if not find_zones(root):
            return SensorState(label, False, "not available; processor energy is not measured")
        zones = usable_zones(root)
        if not zones:
            return SensorState(label, False, "available, but not readable for this user", FIX)
        return SensorState(label, True, counted(len(zones), "counter"))

    def joules(self) -> float:
        now_s = self._clock()
        passed_s = now_s - self._read_s
        gained_uj = sum(self._gained_uj(zone, passed_s) for zone in self._last_uj)
        self._read_s = now_s
        if gained_uj > 0:
            self._moved_s = now_s
        elif now_s - self._moved_s > STILL_S:
            raise SensorLost("its counter has stopped")
        self._joules += gained_uj / 1e6
        return self._joules

    def _gained_uj(self, zone: Zone, passed_s: float) -> int:
        now_uj, last_uj = zone.energy_uj(), self._last_uj[zone]
        if now_uj is None or last_uj is None:
            raise SensorLost(f"{zone.name} can no longer be read")
        gained_uj = now_uj - last_uj
        if gained_uj < 0:
            # The last value before the wrap is the range itself, the next is 0: one step more than the range.
            gained_uj += (self._range_uj[zone] or 0) + 1
            if gained_uj < 0 or gained_uj / 1e6 > MAX_ZONE_W * passed_s + SLACK_J:
                raise SensorLost(f"{zone.name} was reset")
        self._last_uj[zone] = now_uj
        return gained_uj
