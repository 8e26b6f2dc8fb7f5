"""Feeds cases to a worker, one after the other, and says what came of each."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from cases import Case

HERE = Path(__file__).resolve().parent
START_LIMIT_S = 120.0
PATIENCE = 5.0
LOOK_S = 0.1
LINE_S, BYTE_S, MOST_BYTES = 50e-6, 0.2e-6, 64_000_000
"""Processor seconds that a line and a byte may take beside the limit of a file (a malformed line takes about
25e-6 on an idle Zen 3), and bytes that count: what grows faster than the file is a hang."""
MAX_SAID = 1_500
GOOD, BAD = ("read", "refused"), ("traceback", "unclear", "hang", "memory", "died")


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes:
        what: of `GOOD` or `BAD`. `unclear`: refused without a sentence, or with a book; `died`: the worker
            did, by a signal.
        said: the sentence, or the traceback.
        seconds: it took.
        grew_mb: the worker's memory at its peak, above what it was before (10^6 bytes).
    """

    what: str
    said: str
    seconds: float
    grew_mb: float


def _processor_s(pid: int) -> float:
    """Return the processor seconds that a process has used, 0 when it is gone."""
    try:
        used = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(used.user + used.system)


def _allowed_s(path: Path) -> float:
    """Return what lines and bytes of a file, unpacked if it is packed, may take; 0 of what is no file."""
    packed: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    unpack = packed.get(path.suffix, open)
    allowed_s, n_bytes = 0.0, 0
    with contextlib.suppress(Exception), unpack(path, "rb") as file:
        while n_bytes < MOST_BYTES and (block := file.read(1 << 20)):
            n_bytes += len(block)
            allowed_s += LINE_S * block.count(b"\n") + BYTE_S * len(block)
    return allowed_s


class Worker:
    """A process that lives as long as the files let it."""

    def __init__(self, limit_s: float, feeds: str = "feeds") -> None:
        self._limit_s, self._feeds = limit_s, feeds
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "worker.py"), self._feeds],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        if self._answer(START_LIMIT_S) is None:
            self._stop()
            raise SystemExit("The worker does not start; try `python tools/fuzz/worker.py` by hand.")

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _answer(self, limit_s: float) -> dict[str, Any] | None:
        """Return the worker's next answer; None when it does not come in time, or the worker died.

        Args:
            limit_s: of processor time; of wall clock, `PATIENCE` times as much, for a machine that is busy.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        started, used_s = time.perf_counter(), _processor_s(self._process.pid)
        ready = False
        while not ready and time.perf_counter() - started < PATIENCE * limit_s:
            ready = bool(select.select([self._process.stdout], [], [], LOOK_S)[0])
            if not ready and _processor_s(self._process.pid) - used_s > limit_s:
                break
        line = self._process.stdout.readline() if ready else ""
        return json.loads(line) if line else None

    def run(self, case: Case) -> Outcome:
        """Feed a case."""
        if self._process is None:
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        limit_s = self._limit_s + (_allowed_s(case.path) if case.path.is_file() else 0.0)
        started = time.perf_counter()
        request = {"path": str(case.path), "kind": case.feed, "seed": case.seed}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._answer(limit_s)
        seconds = time.perf_counter() - started
        if answer is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(LOOK_S)
            died = self._process.returncode is not None
            code = self._process.returncode
            self._stop()
            if died:
                return Outcome("died", f"the worker died (exit code {code})", seconds, 0.0)
            return Outcome("hang", f"no answer in {limit_s:.3g} s of processor time", seconds, 0.0)
        what = answer["outcome"]
        if what == "refused" and not is_clear(answer["said"], case):
            what = "unclear"
        return Outcome(what, answer["said"], seconds, answer["grew_mb"])


def is_clear(said: str, case: Case) -> bool:
    """Whether a refusal is a sentence of reasonable length that names the file, or the setting or cell."""
    named = (
        case.feed in ("config", "grid")
        or case.path.name in said
        or case.path.name.encode(errors="replace").decode() in said
    )
    return named and 20 <= len(said) <= MAX_SAID
