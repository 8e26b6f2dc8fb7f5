"""What every part of one run works with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgetune.backends.backend_contract import Backend
from edgetune.backends.hidden_cache import HiddenCache
from edgetune.backends.model_loader import ModelLoader
from edgetune.config.settings import RunConfig
from edgetune.data.splits import Splits
from edgetune.energy import Sensor
from edgetune.planning.plan import Plan, Plans
from edgetune.report.experiment_log import ExperimentLogs
from edgetune.report.live_view import View
from edgetune.run_files.run_folder import RunFolder
from edgetune.runs.choices import Usage
from edgetune.runs.deadline import Deadline
from edgetune.utils.meter import Meter
from edgetune.utils.signals import StopRequest

if TYPE_CHECKING:
    from edgetune.runs.recovery import Interruption


@dataclass
class RunContext:
    """One run; `setup.set_up` adds all fields that are not given.

    Attributes:
        config: settings; open choices about the encoder are filled in if there is one.
        folder: folder of the run, locked as soon as it is written to.
        cache_dir: where tokens, artifacts and earlier runs' speeds are kept.
        meter: records the seconds of every phase.
        view: shows what happens.
        stop: says whether the run was asked to end.
        interruption: where the run was interrupted; None if it is not resumed.
        asked_backend: the backend in the settings before the set-up.
        logs: logs of other programs.
        sensor: measures the energy.
        sensor_since_s: elapsed seconds when the sensor began to count.
        used: time and energy so far, and the energy that may be used.
        model_loader: the model that is finetuned.
        data: rows and labels.
        plans: what was planned, and why; None if nothing was.
        deadline: says when each part has to end.
        encoder: ready to train; None if there is no time for one, which `setup.open_later` may change.
    """

    config: RunConfig
    folder: RunFolder
    cache_dir: Path
    meter: Meter
    view: View
    stop: StopRequest
    interruption: Interruption | None = None
    asked_backend: str = field(init=False)
    logs: ExperimentLogs = field(init=False)
    sensor: Sensor = field(init=False)
    sensor_since_s: float = field(init=False)
    used: Usage = field(init=False)
    model_loader: ModelLoader = field(init=False)
    data: Splits = field(init=False)
    plans: Plans | None = field(init=False)
    deadline: Deadline = field(init=False)
    encoder: Backend | None = field(init=False, default=None)

    @property
    def plan(self) -> Plan | None:
        """The plan that was chosen; None if nothing was planned."""
        return None if self.plans is None else self.plans.best

    @property
    def model_name(self) -> str:
        """Name of the model that is finetuned."""
        return self.model_loader.source.name

    @property
    def backend(self) -> Backend:
        """The encoder of a run that has one."""
        assert self.encoder is not None
        return self.encoder

    def open_backend(self, cache: HiddenCache | None = None) -> Backend:
        """Open the encoder with its initial weights."""
        n_labels, several = len(self.data.label_names), self.data.multi_label
        return self.model_loader.open(
            self.config, n_labels, cache, self.meter, self.view.say, multi_label=several
        )
