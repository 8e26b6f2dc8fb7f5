"""Sources of joules: the contract, the fallback to an estimate, the sum of several, and a reading.

Counter (may fail, may have no figure yet) ─→ FallbackSensor (never fails) ─┐
Estimate (never fails) ─────────────────────────────────────────────────────┴─→ Sensor ─→ EnergyReading
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Protocol

TimeSource = Callable[[], float]
MEAN_AFTER_S = 10.0
"""A sensor lost later than this is carried on at its own mean power; before that, by the estimate."""


class Sensor(Protocol):
    """Joules since it was opened, and how they are known.

    Attributes:
        source: the sensor in words, or `estimated: …` and how; may change when a sensor is lost.
        measured: whether every joule so far came from a sensor.
    """

    @property
    def source(self) -> str: ...
    @property
    def measured(self) -> bool: ...

    def joules(self) -> float:
        """Return joules since opening: never less than before, never an error."""
        ...

    def close(self) -> None:
        """Let go of the device; the last figure stays."""


class SensorLost(Exception):
    """A counter cannot be read any more, or what it says cannot be; the message says why."""


class SensorState(NamedTuple):
    """What `edgetune doctor` says of a sensor: its name, whether it can be read, and the command for that."""

    label: str
    available: bool
    detail: str
    fix: str = ""


class Counter:
    """One piece of hardware that counts joules and may fail.

    Another one is one file in this folder: a subclass that sets `covers` and `name`, and defines
    `find` and `joules`; `edgetune doctor` shows it if it also defines `state_on`.

    Attributes:
        covers: what it counts: the `processor`, the `gpu`, or the whole `machine`.
        name: the sensor in words.
    """

    covers: ClassVar[Literal["processor", "gpu", "machine"]]
    name: str

    @classmethod
    def find(cls, root: Path, clock: TimeSource) -> Counter | None:
        """Return the sensor, counting from now on; None where this machine has none that works.

        Args:
            root: where `sys` and `proc` are.
            clock: monotonic seconds.
        """
        raise NotImplementedError

    @classmethod
    def state_on(cls, root: Path) -> SensorState | None:
        """Return what `edgetune doctor` says of the sensor; None: nothing."""
        return None

    def joules(self) -> float | None:
        """Return joules since opening; None while there is no figure yet.

        Raises:
            SensorLost: there will be no more figures.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the device, where one is held open."""


class FallbackSensor:
    """A counter until it is lost, an estimate from then on.

    counting ─ SensorLost ─→ estimated: at the counter's own mean power if it lasted long enough to have one,
    else by the estimate, which covers everything since the counter's last good figure.
    """

    def __init__(self, counter: Counter, estimate: Sensor, clock: TimeSource = time.perf_counter) -> None:
        self._counter, self._estimate, self._clock = counter, estimate, clock
        self._opened_s = self._good_s = clock()
        self._good_j = self._total_j = 0.0
        self._estimate_at_good_j = estimate.joules()
        self._lost = self._closed = False
        self._mean_w: float | None = None
        self.source, self.measured = counter.name, True

    def joules(self) -> float:
        if not self._closed:
            self._total_j = max(self._total_j, self._read_j())
        return self._total_j

    def _read_j(self) -> float:
        if not self._lost:
            try:
                read_j = self._counter.joules()
            except SensorLost as error:
                self._lose(str(error))
            else:
                self.source, self.measured = self._counter.name, read_j is not None
                if read_j is None:
                    self.source = f"{self._estimate.source} ({self.source} has not reported a value yet)"
                    return self._estimate.joules()
                self._good_j, self._good_s = read_j, self._clock()
                self._estimate_at_good_j = self._estimate.joules()
                return read_j
        if self._mean_w is not None:
            return self._good_j + self._mean_w * (self._clock() - self._good_s)
        return self._good_j + self._estimate.joules() - self._estimate_at_good_j

    def _lose(self, why: str) -> None:
        name, how, lasted_s = self._counter.name, self._estimate.source, self._good_s - self._opened_s
        if lasted_s >= MEAN_AFTER_S and self._good_j > 0:
            self._mean_w = self._good_j / lasted_s
            how = f"estimated: {self._mean_w:.3g} W, its mean power until then"
        self.source = (
            f"{name} for {lasted_s:.0f} s, then {how} ({why})" if lasted_s else f"{how} ({name}: {why})"
        )
        self._lost, self.measured = True, False
        self._counter.close()

    def close(self) -> None:
        self._closed = True
        self._counter.close()
        self._estimate.close()


class SensorSum:
    """Several sensors of different hardware, added up, and what was used before a run was broken off."""

    def __init__(self, parts: Sequence[Sensor], before_j: float = 0.0, measured_before: bool = True) -> None:
        """Count on from `before_j` joules, of which a sensor gave all or not."""
        self._parts, self._before_j, self._measured_before = tuple(parts), before_j, measured_before

    @property
    def source(self) -> str:
        return " + ".join(part.source for part in self._parts)

    @property
    def measured(self) -> bool:
        return self._measured_before and all(part.measured for part in self._parts)

    def joules(self) -> float:
        return self._before_j + sum(part.joules() for part in self._parts)

    def close(self) -> None:
        for part in self._parts:
            part.close()


class PowerIntegral:
    """Joules from readings of power, by the trapezoid rule."""

    def __init__(self) -> None:
        self.joules = 0.0
        self._last: tuple[float, float] | None = None

    def add(self, now_s: float, power_w: float) -> float:
        """Take a reading; return the joules up to it. The first reading only starts the sum."""
        if self._last is not None:
            then_s, then_w = self._last
            self.joules += (now_s - then_s) * (power_w + then_w) / 2
        self._last = (now_s, power_w)
        return self.joules


def read_text(path: Path) -> str | None:
    """Return a small file's text, stripped; None where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def read_int(path: Path) -> int | None:
    """Return a small file's whole number; None where it cannot be read or is none."""
    try:
        return int(read_text(path) or "")
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class EnergyReading:
    """Energy of some time, and how it is known; `measured` where a sensor gave all of it."""

    joules: float
    elapsed_s: float
    source: str
    measured: bool

    @property
    def mean_w(self) -> float | None:
        """Mean power; None where no time passed."""
        return self.joules / self.elapsed_s if self.elapsed_s > 0 else None

    @property
    def how(self) -> str:
        """`measured (…)` or `estimated…`, to stand beside the figure."""
        if self.measured:
            return f"measured ({self.source})"
        return self.source if self.source.startswith("estimated") else f"estimated in part ({self.source})"


def read_energy(sensor: Sensor, elapsed_s: float) -> EnergyReading:
    """Read a sensor that was opened `elapsed_s` ago."""
    joules = sensor.joules()  # first: reading may find that the sensor is lost, which changes its source
    return EnergyReading(joules, elapsed_s, sensor.source, sensor.measured)
