"""The child process that measures one backend: a JSON line asks, a JSON line answers.

    hello ─→ power ─→ import ─→ open (depth, threads) ─→ run (op, batch, length, depth, n)… ─→ save ─→ exit

One process per backend keeps memory clean and the cost of importing real, lets the parent take turns
between backends, and can be killed when an operation takes far too long. It ends when its stdin does.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgetune.energy import Sensor
from edgetune.profiling.opened_backend import LABELS, MeasurementJob, OpenedBackends, import_runtime
from edgetune.utils.errors import EdgetuneError
from edgetune.utils.isolation import no_network

Answer = dict[str, Any]


def resident_mb() -> tuple[float, float]:
    """Return resident memory now and the largest since `forget_peak` (MB, 10^6 bytes)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        import psutil

        found = psutil.Process().memory_info()
        return found.rss / 1e6, float(getattr(found, "peak_wset", found.rss)) / 1e6
    values = {key: rest for key, _, rest in (line.partition(":") for line in lines)}
    now, peak = (int(values[key].split()[0]) * 1024 / 1e6 for key in ("VmRSS", "VmHWM"))
    return now, peak


def forget_peak() -> None:
    """Let the largest resident memory start anew, where the system allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


class Worker:
    """Answers requests about one backend."""

    def __init__(self, job: MeasurementJob) -> None:
        self._job = job
        self._opened: OpenedBackends | None = None
        self._sensor: Sensor | None = None

    @property
    def opened(self) -> OpenedBackends:
        """Backends that are open."""
        if self._opened is None:
            self._opened = OpenedBackends(self._job)
        return self._opened

    def answer(self, request: dict[str, Any]) -> Answer:
        """Do what is asked for."""
        calls: dict[str, Callable[..., Answer]] = {
            "power": self._power,
            "idle": self._idle,
            "import": self._import,
            "open": self._open,
            "close": self._close,
            "run": self._run,
            "save": self._save,
            "chores": self._chores,
        }
        given = {name: value for name, value in request.items() if name != "do"}
        return calls[request["do"]](**given)

    def _power(self, watts: float | None, tdp: float | None) -> Answer:
        """Open a sensor here, where the work is done: estimates go by the use of their own process."""
        from edgetune.energy import open_sensor
        from edgetune.energy.estimate import estimate_by_use

        self._sensor = open_sensor(watts, device=self._job.device)
        if watts is None and tdp is not None and not self._sensor.measured and self._job.device == "cpu":
            self._sensor = estimate_by_use(tdp)
        return {}

    def _idle(self, seconds: float) -> Answer:
        started, before_j = time.perf_counter(), self._joules()
        time.sleep(seconds)
        return {"s": time.perf_counter() - started, "j": self._joules() - before_j, **self._source()}

    def _joules(self) -> float:
        return 0.0 if self._sensor is None else self._sensor.joules()

    def _source(self) -> Answer:
        return (
            {} if self._sensor is None else {"source": self._sensor.source, "measured": self._sensor.measured}
        )

    def _import(self) -> Answer:
        return {"s": import_runtime(self._job.backend)}

    def _open(self, depth: int, threads: int | None, onnx: bool = True) -> Answer:
        return {"s": self.opened.open(depth, threads, onnx)}

    def _close(self, depth: int) -> Answer:
        self.opened.close(depth)
        return {}

    def _run(self, op: str, batch: int, length: int, depth: int, n: int, warm: bool) -> Answer:
        forget_peak()
        self.opened.warm(op, batch, length, depth, warm)
        before_j = self._joules()
        seconds = self.opened.run(op, batch, length, depth, n)
        return {"s": seconds, "peak_mb": resident_mb()[1], "j": self._joules() - before_j}

    def _save(self, depth: int) -> Answer:
        folder = Path(tempfile.mkdtemp(dir=self._job.scratch))
        try:
            started = time.perf_counter()
            self.opened.backend(depth).save(folder, LABELS)
            return {"s": time.perf_counter() - started}
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _chores(self, name: str) -> Answer:
        from edgetune.profiling import fixed_costs

        found: Answer = fixed_costs.CHORES[name](Path(self._job.tokenizer), Path(self._job.scratch))
        return found


def main() -> None:
    """Answer until stdin ends; whatever libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    no_network()
    worker: Worker | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "hello":
                worker = Worker(MeasurementJob(**request["job"]))
                answer: Answer = {}
            elif request["do"] == "exit":
                break
            else:
                assert worker is not None
                answer = worker.answer(request)
            answer["ok"] = True
        except EdgetuneError as error:
            answer = {"ok": False, "message": str(error)}
        except Exception as error:  # the parent leaves this backend out and says why
            answer = {"ok": False, "message": f"{type(error).__name__}: {str(error)[:300]}"}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
