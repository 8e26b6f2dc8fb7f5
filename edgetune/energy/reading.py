"""What a sensor says of a run, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgetune.energy.base import Sensor

J_PER_KWH = 3.6e6


@dataclass(frozen=True, slots=True)
class EnergyReading:
    """Energy of some time, and how it is known.

    Attributes:
        joules: energy.
        elapsed_s: in which it was used.
        source: the sensor, or how it was estimated.
        measured: whether a sensor gave all of it.
    """

    joules: float
    elapsed_s: float
    source: str
    measured: bool

    @property
    def kwh(self) -> float:
        """Kilowatt hours: what was drawn, with no data centre's factor."""
        return self.joules / J_PER_KWH

    @property
    def co2e_lb(self) -> float:
        """Pounds of CO2 equivalent, by the grid factor of the paper's eq. 6 (US mean)."""
        from edgetune.metrics import paper_co2e_lb

        return paper_co2e_lb(self.kwh)

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

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "joules": self.joules,
            "kwh": self.kwh,
            "co2e_lb": self.co2e_lb,
            "mean_w": self.mean_w,
            "elapsed_s": self.elapsed_s,
            "measured": self.measured,
            "source": self.source,
        }


def read_energy(sensor: Sensor, elapsed_s: float) -> EnergyReading:
    """Read a sensor that was opened `elapsed_s` ago."""
    joules = sensor.joules()  # first: reading may find that the sensor is lost, which changes its source
    return EnergyReading(joules, elapsed_s, sensor.source, sensor.measured)
