"""What every part of one run works with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from edgetune.energy import EnergyReading, Sensor, read_energy
from edgetune.report.experiment_log import ExperimentLogs
from edgetune.report.live_view import View
from edgetune.run_files.run_folder import RunFolder
from edgetune.runs.deadline import Deadline
from edgetune.runs.setup import PreparedRows
from edgetune.utils.meter import Meter
from edgetune.utils.signals import StopRequest

Setup = TypeVar("Setup", bound=PreparedRows, covariant=True)


@dataclass(frozen=True)
class RunContext(Generic[Setup]):
    """One run, once its settings are resolved and its folder is there.

    Attributes:
        prepared: settings and rows, and the encoder if there is one.
        folder: folder of the run, locked.
        meter: records the seconds of every phase.
        view: shows what happens.
        stop: says whether the run was asked to end.
        sensor: measures the energy.
        sensor_since_s: elapsed seconds when the sensor began to count.
        deadline: says when each part has to end.
        logs: logs of other programs.
    """

    prepared: Setup
    folder: RunFolder
    meter: Meter
    view: View
    stop: StopRequest
    sensor: Sensor
    sensor_since_s: float
    deadline: Deadline
    logs: ExperimentLogs = field(default_factory=ExperimentLogs)

    def energy(self) -> EnergyReading:
        """Return the energy used so far."""
        return read_energy(self.sensor, self.meter.elapsed_s() - self.sensor_since_s)
