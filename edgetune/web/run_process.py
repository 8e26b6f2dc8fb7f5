"""Training runs as child processes: they outlive the page and the server, and are found again.

runs/NAME/       the run folder, as the command line writes it
runs/.ui/        NAME.json: which process trains, NAME.log: what it said, uploads/: files dropped on the page
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import psutil

from edgetune.run_files.history import read_history
from edgetune.run_files.run_folder import LOCK, exclusive_lock, is_run_folder
from edgetune.run_files.summary import read_summary
from edgetune.utils.cache import private_folder
from edgetune.utils.errors import RunError, UsageError
from edgetune.utils.files import write_atomic
from edgetune.utils.isolation import module_command
from edgetune.utils.parsing import read_json_file
from edgetune.utils.sanitize import brief, visible

PRIVATE = ".ui"
TAIL_BYTES = 4000
RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped", "failed"


@dataclass(frozen=True)
class RunStatus:
    """State of a run.

    Attributes:
        state: `RUNNING`, `FINISHED`, `STOPPED` (before the end, with a model) or `FAILED`.
        losses: (seconds since the start, loss) of steps.
        accuracy: of the last evaluation; None before the first.
        micro_f1: the same, where a row may have several labels.
        elapsed_s: since it was started; None where another program started it.
        left_s: until its deadline; None where it has none or is over.
        message: the last line that it printed.
    """

    state: str
    losses: list[tuple[float, float]]
    accuracy: float | None
    micro_f1: float | None
    elapsed_s: float | None
    left_s: float | None
    message: str


class RunProcesses:
    """The runs of one folder: starts, watches and stops them."""

    def __init__(self, runs: Path, cache_dir: Path | None) -> None:
        """Make the private folder.

        Raises:
            OSError: it cannot be made.
        """
        self.runs, self.private = runs, runs / PRIVATE
        self._cache_dir = cache_dir
        self._starting = threading.Lock()
        private_folder(self.private)

    def folder(self, name: str) -> Path:
        """Return the folder of a run.

        Raises:
            UsageError: the name is no name of a folder in `runs`.
        """
        if not name or name.startswith(".") or Path(name).name != name or "\\" in name:
            raise UsageError(f'"{brief(name)}" cannot be the name of a run; use letters, digits, - and _.')
        return self.runs / name

    def names(self) -> list[str]:
        """Return the runs, the newest first."""
        folders = [path for path in self.runs.iterdir() if path.is_dir() and is_run_folder(path)]
        started = [self.runs / path.stem for path in self.private.glob("*.json")]
        found = {path.name: self._time(path) for path in [*folders, *started]}
        return sorted(found, key=lambda name: -found[name])

    def free_name(self, wanted: str) -> str:
        """Return the name, with a number where it is taken."""
        taken = {*self.names(), *(path.name for path in self.runs.iterdir())}
        numbered = (f"{wanted}-{number}" for number in count(2))
        return next(name for name in chain([wanted], numbered) if name not in taken)

    def running(self) -> str | None:
        """Return the name of a run that is going on."""
        return next((name for name in self.names() if self._is_running(name)), None)

    def start(self, name: str, data: str, options: list[str], deadline_s: float) -> None:
        """Start `edgetune finetune` on a file or folder, with further options of the command line.

        Raises:
            UsageError: the name is taken, or another run is going on.
        """
        folder = self.folder(name)
        with self._starting:
            if (other := self.running()) is not None:
                raise UsageError(
                    f"The run {brief(other)} is still training; wait until it ends, or stop it, since two "
                    "runs at once slow each other down."
                )
            if folder.exists():
                raise UsageError(f"There already is a run called {brief(name)}; choose another name.")
            command = [*module_command("edgetune", "finetune"), *options]
            command += ["--out", str(folder), "--deadline", f"{deadline_s:g}s"]
            if self._cache_dir is not None:
                command += ["--cache-dir", str(self._cache_dir)]
            with (self.private / f"{name}.log").open("wb") as log:
                process = subprocess.Popen(
                    [*command, "--", data],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # closing the terminal of the page does not stop it
                )
            threading.Thread(target=process.wait, daemon=True).start()  # leaves no zombie
            self._write(name, pid=process.pid, started=time.time(), deadline_s=deadline_s, stopping=False)

    def stop(self, name: str) -> None:
        """Ask a run to stop and to keep its model; asking twice does no harm.

        Raises:
            UsageError: it is not going on, or another program started it.
        """
        with self._starting:
            record = self._record(name)
            process = self._process(record)
            if process is None:
                where = "by another program; stop it there" if self._is_running(name) else "and ended already"
                raise UsageError(f"The run {brief(name)} was started {where}.")
            if not record["stopping"]:  # a second signal would not wait for the model to be saved
                self._write(name, **record | {"stopping": True})
                process.send_signal(signal.SIGINT)

    def status(self, name: str) -> RunStatus:
        """Return the state of a run.

        Raises:
            RunError: there is no such run, or its record is damaged.
        """
        folder, record, summary = self.folder(name), self._record(name), {}
        if not record and not folder.is_dir():
            raise RunError(f"The run {brief(name)} is gone: there is no folder {folder}.")
        if self._is_running(name):
            state = RUNNING
        elif summary := read_summary(folder):
            state = STOPPED if summary.get("interrupted") else FINISHED
        else:
            state = FAILED
        lines = read_history(folder / "history.jsonl") if (folder / "history.jsonl").is_file() else []
        last: dict[str, Any] = next((line for line in reversed(lines) if line["kind"] == "eval"), {})
        started, deadline_s = record.get("started"), record.get("deadline_s")
        elapsed_s = None if started is None or state != RUNNING else time.time() - started
        return RunStatus(
            state=state,
            losses=[(line["t_s"], line["loss"]) for line in lines if line["kind"] == "step" and line["loss"]],
            accuracy=summary.get("accuracy", last.get("accuracy")),
            micro_f1=summary.get("micro_f1", last.get("micro_f1")),
            elapsed_s=elapsed_s,
            left_s=None if elapsed_s is None or deadline_s is None else max(0.0, deadline_s - elapsed_s),
            message=self._last_line(name),
        )

    def _record(self, name: str) -> dict[str, Any]:
        path = self.private / f"{self.folder(name).name}.json"
        if not path.is_file():
            return {}
        try:
            return dict(read_json_file(path))
        except (OSError, ValueError) as error:
            raise RunError(f"{path} is damaged ({error}); delete it.") from error

    def _write(self, name: str, **record: Any) -> None:
        write_atomic(self.private / f"{name}.json", json.dumps(record))

    @staticmethod
    def _process(record: dict[str, Any]) -> psutil.Process | None:
        """Return the process of a record, None where it has ended (its number may be another's by now)."""
        with contextlib.suppress(psutil.Error, KeyError):
            process = psutil.Process(record["pid"])
            if process.create_time() <= record["started"] + 1 and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    def _is_running(self, name: str) -> bool:
        if self._process(self._record(name)) is not None:
            return True
        folder = self.folder(name)
        if not is_run_folder(folder) or not (folder / LOCK).exists():
            return False
        try:
            with exclusive_lock(folder):
                return False
        except RunError:
            return True
        except OSError:  # a folder that can only be read is nobody's to write to
            return False

    def _last_line(self, name: str) -> str:
        path = self.private / f"{name}.log"
        if not path.is_file():
            return ""
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = log.read().decode("utf-8", "replace").splitlines()
        return visible(next((line for line in reversed(lines) if line.strip()), ""))

    def _time(self, folder: Path) -> float:
        """Return when something last happened to a run, seconds since 1970."""
        paths = (folder / "summary.json", folder / "history.jsonl", self.private / f"{folder.name}.json")
        return max((path.stat().st_mtime for path in paths if path.exists()), default=0.0)
