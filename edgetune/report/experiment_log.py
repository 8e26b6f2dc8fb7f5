"""The figures of a run in other programs: `--log-to tensorboard`, `mlflow`, `wandb-offline`.

history.jsonl's records and the summary ─→ ExperimentLogs ─→ a logger for each program ─→ files

A logger writes one run for one program: `texts` are settings and paths, `metrics` numbers as of an optimizer
step, and `close` writes what is left.

The files lie beside the run folder (`runs/tensorboard`, `runs/mlruns`, `runs/wandb`), so that the runs of a
folder are shown together. Nothing is sent anywhere, unless `MLFLOW_TRACKING_URI` names a server.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgetune.config.choices import LogTo
from edgetune.config.settings import RunConfig
from edgetune.run_files.summary import RunResult
from edgetune.utils.errors import MissingDependencyError
from edgetune.utils.isolation import no_telemetry
from edgetune.utils.sanitize import brief
from edgetune.utils.types import Say

PROJECT = "edgetune"
FLUSH_S = 1.0
"""Seconds between two writes to MLflow, which writes a file for each metric."""
MOST_CHARS = 500
"""Of a setting: more is an error in older versions of MLflow."""
METRICS = ("accuracy", "micro_f1", "macro_f1")
FINAL = (*METRICS, "mcc", "eval_loss", "elapsed_s", "energy_j", "n_trained", "n_steps")
"""Fields of the summary that are logged at the end."""


class _TensorBoard:
    """An event file in a folder of its own: every start of a run, a resumed one too, is a line in a plot."""

    def __init__(self, module: Any, run_dir: Path) -> None:
        home = run_dir.parent / "tensorboard" / time.strftime(f"{run_dir.name}-%Y%m%d-%H%M%S")
        self._writer = module.SummaryWriter(str(home))

    def texts(self, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            self._writer.add_text(name, value)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Mlflow:
    """A run of the experiment "edgetune"."""

    def __init__(self, module: Any, run_dir: Path) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # MLflow 3.7 and later ask for it
            uri = (run_dir.parent / "mlruns").as_uri()
        self._entities, self._client = module.entities, module.MlflowClient(tracking_uri=uri)
        experiment = self._client.get_experiment_by_name(PROJECT)
        number = experiment.experiment_id if experiment else self._client.create_experiment(PROJECT)
        self._run_id: str = self._client.create_run(number, run_name=run_dir.name).info.run_id
        self._waiting: list[Any] = []
        self._written_s = time.monotonic()

    def texts(self, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            self._client.log_param(self._run_id, name, value[:MOST_CHARS])

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        now_ms = int(1000 * time.time())
        self._waiting += [self._entities.Metric(*item, now_ms, step) for item in values.items()]
        if time.monotonic() - self._written_s > FLUSH_S:
            self._flush()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), 1000):  # the most that MLflow takes at once
            self._client.log_batch(self._run_id, metrics=waiting[start : start + 1000])
        self._written_s = time.monotonic()

    def close(self) -> None:
        self._flush()
        self._client.set_terminated(self._run_id)


class _WandbOffline:
    """A run that `wandb sync` may upload later."""

    def __init__(self, module: Any, run_dir: Path) -> None:
        settings = module.Settings(silent=True, console="off", disable_git=True, save_code=False)
        self._run = module.init(
            dir=str(run_dir.parent), project=PROJECT, name=run_dir.name, mode="offline", settings=settings
        )

    def texts(self, values: Mapping[str, str]) -> None:
        self._run.config.update(dict(values))

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


_LOGGERS: dict[LogTo, tuple[str, Any]] = {
    "tensorboard": ("tensorboardX", _TensorBoard),
    "mlflow": ("mlflow", _Mlflow),
    "wandb-offline": ("wandb", _WandbOffline),
}
"""Package and class of each."""


class ExperimentLogs:
    """Passes the records of one run to each logger that was asked for.

    A logger that fails is dropped with a warning, and the run goes on.
    """

    def __init__(self, names: Iterable[LogTo] = (), warn: Say = lambda text: None) -> None:
        """Import what is needed; nothing is written yet, and `warn` is told of programs that fail.

        Raises:
            MissingDependencyError: a package is not installed.
        """
        no_telemetry()
        self._modules: dict[LogTo, Any] = {}
        for name in names:
            package = _LOGGERS[name][0]
            try:
                self._modules[name] = importlib.import_module(package)
            except ImportError as error:
                raise MissingDependencyError(
                    f"--log-to {name} needs the package {error.name or package}, which is not installed; "
                    'run `pip install "edgetune[log]"`.'
                ) from error
        self._warn = warn
        self._loggers: dict[LogTo, Any] = {}
        self._step = 0

    def start(self, run_dir: Path, config: RunConfig) -> None:
        """Begin to write, with all settings of the run in this folder."""
        run_dir = run_dir.absolute()
        for name, module in self._modules.items():
            with self._leaving_out(name):
                self._loggers[name] = _LOGGERS[name][1](module, run_dir)
        settings = {
            f"{section}.{name}": str(value)
            for section, values in config.model_dump(mode="json", exclude_none=True).items()
            if isinstance(values, dict)
            for name, value in values.items()
        }
        self._each("texts", {**settings, "run_folder": str(run_dir)})

    def record(self, fields: Mapping[str, Any]) -> None:
        """Take a record of the history (`run_files.history`)."""
        if fields["kind"] == "step":
            self._step = fields["step"]
            self._metrics({"train/loss": fields["loss"], "train/learning_rate": fields["lr"]})
        elif fields["kind"] == "eval":
            self._metrics({f"eval/{name}": fields.get(name) for name in (*METRICS, "loss")})

    def finish(self, result: RunResult) -> None:
        """Write the final figures, and those of each learner on held-out rows; close."""
        found = {f"final/{name}": getattr(result, name) for name in FINAL}
        for learner in (result.ensemble or {}).get("learners", []):
            name = learner["name"].replace(" ", "_")
            found[f"learners/{name}/weight"] = learner["weight"]
            for metric in (*METRICS, "log_loss"):
                found[f"learners/{name}/held_out_{metric}"] = (learner["held_out"] or {}).get(metric)
        self._metrics(found)
        model = Path(result.run_dir).absolute() / "model"
        if model.is_dir():
            self._each("texts", {"model_folder": str(model)})
        self.close()

    def close(self) -> None:
        """Write what is left."""
        self._each("close")
        self._loggers = {}

    def _metrics(self, found: Mapping[str, float | None]) -> None:
        values = {
            name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)
        }
        self._each("metrics", values, self._step)

    def _each(self, method: str, *arguments: Any) -> None:
        for name, logger in list(self._loggers.items()):
            with self._leaving_out(name):
                getattr(logger, method)(*arguments)

    @contextlib.contextmanager
    def _leaving_out(self, name: LogTo) -> Iterator[None]:
        """Drop a logger that fails, with a warning."""
        try:
            yield
        except Exception as error:  # the programs have errors of their own
            self._loggers.pop(name, None)
            why = brief(str(error) or type(error).__name__, 200).rstrip(".")
            self._warn(f"Logging to {name} failed, and the run goes on without it: {why}.")
