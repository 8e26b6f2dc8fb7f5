"""What every source of joules has in common: the contract, the fall to an estimate, the sum of several.

Counter (may fail, may have no figure yet) ─→ Guarded (never fails) ─┐
Estimate (never fails) ──────────────────────────────────────────────┴─→ Sensor ─→ Total, a sum of sensors
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

Clock = Callable[[], float]
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
        ...


class SensorLost(Exception):
    """A counter cannot be read any more, or what it says cannot be; the message says why."""


class Counter(Protocol):
    """One piece of hardware that counts joules and may fail."""

    name: str

    def joules(self) -> float | None:
        """Return joules since opening; None while there is no figure yet.

        Raises:
            SensorLost: there will be no more figures.
        """
        ...

    def close(self) -> None: ...


class Guarded:
    """A counter until it is lost, an estimate from then on.

    counting ─ SensorLost ─→ estimated: at the counter's own mean power if it lasted long enough to have one,
    else by the estimate, which covers everything since the counter's last good figure.
    """

    def __init__(self, counter: Counter, estimate: Sensor, clock: Clock = time.perf_counter) -> None:
        self._counter, self._estimate, self._clock = counter, estimate, clock
        self._opened_s = self._good_s = clock()
        self._good_j = 0.0
        self._estimate_at_good_j = estimate.joules()
        self._total_j = 0.0
        self._silent = self._closed = False
        self._lost = ""
        self._mean_w: float | None = None

    @property
    def measured(self) -> bool:
        return not self._lost and not self._silent

    @property
    def source(self) -> str:
        if self._silent:
            return f"{self._estimate.source} ({self._counter.name} has shown no figure yet)"
        return self._lost or self._counter.name

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
                self._silent = read_j is None
                if read_j is None:
                    return self._estimate.joules()
                self._good_j, self._good_s = read_j, self._clock()
                self._estimate_at_good_j = self._estimate.joules()
                return read_j
        if self._mean_w is not None:
            return self._good_j + self._mean_w * (self._clock() - self._good_s)
        return self._good_j + self._estimate.joules() - self._estimate_at_good_j

    def _lose(self, why: str) -> None:
        lasted_s = self._good_s - self._opened_s
        how = self._estimate.source
        if lasted_s >= MEAN_AFTER_S and self._good_j > 0:
            self._mean_w = self._good_j / lasted_s
            how = f"estimated: {self._mean_w:.3g} W, its mean until then"
        name = self._counter.name
        self._lost = (
            f"{name} for {lasted_s:.0f} s, then {how} ({why})" if lasted_s else f"{how} ({name}: {why})"
        )
        self._silent = False
        self._counter.close()

    def close(self) -> None:
        self._closed = True
        self._counter.close()
        self._estimate.close()


class Total:
    """Several sensors of different hardware, added up."""

    def __init__(self, parts: Sequence[Sensor]) -> None:
        self._parts = tuple(parts)

    @property
    def source(self) -> str:
        return " + ".join(part.source for part in self._parts)

    @property
    def measured(self) -> bool:
        return all(part.measured for part in self._parts)

    def joules(self) -> float:
        return sum(part.joules() for part in self._parts)

    def close(self) -> None:
        for part in self._parts:
            part.close()


class CarriedOn:
    """A sensor of a run that was broken off and goes on: what was used before is added."""

    def __init__(self, sensor: Sensor, before_j: float, measured_before: bool) -> None:
        """Count on from `before_j` joules, of which a sensor gave all or not."""
        self._sensor, self._before_j, self._measured_before = sensor, before_j, measured_before

    @property
    def source(self) -> str:
        return self._sensor.source

    @property
    def measured(self) -> bool:
        return self._measured_before and self._sensor.measured

    def joules(self) -> float:
        return self._before_j + self._sensor.joules()

    def close(self) -> None:
        self._sensor.close()


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
    text = read_text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None
