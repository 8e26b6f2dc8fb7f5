"""The parent's end of a worker: asks with a JSON line, waits with a limit, kills what takes too long."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import queue
import subprocess
import threading
import time
from types import TracebackType
from typing import Any

from edgetune.profiling.opened_backend import MeasurementJob
from edgetune.utils.errors import EdgetuneError
from edgetune.utils.isolation import module_command

START_LIMIT_S = 60.0


class WorkerLost(EdgetuneError):
    """A worker died, was too slow, or said what was wrong; its backend is left out."""


class WorkerProcess:
    """A worker process; a context manager that leaves none behind."""

    def __init__(self, job: MeasurementJob) -> None:
        self.job = job
        self.started_at = time.time()
        self._process = subprocess.Popen(
            module_command("edgetune.profiling.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then kills
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.ask("hello", START_LIMIT_S, job=dataclasses.asdict(job))
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def ask(self, do: str, limit_s: float, **given: Any) -> dict[str, Any]:
        """Send one request and return its answer.

        Args:
            do: which request.
            limit_s: after so long the worker is killed.
            given: its arguments.

        Raises:
            WorkerLost: it was killed, died, or answered that it failed.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **given}) + "\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=limit_s)
        except queue.Empty:
            self.kill()
            raise WorkerLost(f"`{do}` took more than {limit_s:.0f} s") from None
        except (OSError, ValueError):  # it is gone, and its pipe closed
            line = ""
        if not line:
            self.kill()
            raise WorkerLost(f"its process died during `{do}` (exit code {self._process.returncode})")
        answer: dict[str, Any] = json.loads(line)
        if not answer.pop("ok"):
            raise WorkerLost(answer["message"])
        return answer

    def leave(self, limit_s: float = 20.0) -> float:
        """Ask the worker to end; return how many seconds that took."""
        started = time.perf_counter()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write('{"do": "exit"}\n')
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(limit_s)
        seconds = time.perf_counter() - started
        self.kill()
        return seconds

    def kill(self) -> None:
        """End the worker at once."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):  # what it did not read is lost
            self._process.stdin.close()
        self._reader.join(1.0)
        self._process.stdout.close()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
