"""Power of a Mac's processor from `powermetrics`, which Apple lets only root run.

    powermetrics (child process) ─ text, a block a second ─→ parser ─→ joules

On Apple silicon "Combined Power" is CPU, GPU and neural engine; on Intel it is the package. Screen, disk and
memory are outside it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterable

from edgetune.energy.sensor import SensorLost, TimeSource

PROGRAM = "/usr/bin/powermetrics"
ARGUMENTS = ("--samplers", "cpu_power", "-i", "1000", "-b", "1", "-f", "text")
SILENT_S = 10.0
"""It writes every second; a longer silence means that it is gone."""
MAX_AHEAD_S = 2.0
"""How far the last block's power is carried on until the next block."""

_HEADER = re.compile(r"^\*\*\* Sampled system activity .*\((?P<ms>[\d.]+)ms elapsed\)")
_POWER = re.compile(
    r"^(?P<what>Combined Power|CPU Power|Intel energy model derived package power)\b[^:]*:\s*"
    r"(?P<value>[\d.]+)\s*(?P<unit>m?W)\s*$"
)


class Parser:
    """Adds up joules of the text that powermetrics writes, line by line."""

    def __init__(self) -> None:
        self.joules: float | None = None
        self.power_w = 0.0
        self._block_s: float | None = None
        self._counted_w = 0.0

    def line(self, text: str) -> None:
        """Take one line. CPU Power counts until the block's Combined Power takes its place."""
        header, power = _HEADER.match(text), _POWER.match(text)
        if header is not None:
            self._block_s, self._counted_w = float(header["ms"]) / 1e3, 0.0
        elif power is not None and self._block_s is not None:
            power_w = float(power["value"]) / (1e3 if power["unit"] == "mW" else 1)
            gained_w = power_w - self._counted_w
            if gained_w < 0:  # never take back: the CPU alone is no more than the whole
                return
            self.joules = (self.joules or 0.0) + gained_w * self._block_s
            self.power_w = self._counted_w = power_w


class Powermetrics:
    """Joules of the processor since opening, read by a thread from the child's output."""

    def __init__(
        self,
        lines: Iterable[str],
        process: subprocess.Popen[str] | None = None,
        clock: TimeSource = time.perf_counter,
    ) -> None:
        """Start reading `lines`; `process` is ended by `close`."""
        self.name = "powermetrics processor power"
        self._process, self._clock = process, clock
        self._lock = threading.Lock()
        self._parser = Parser()
        self._heard_s = clock()
        self._ended = self._closing = False
        self._reader = threading.Thread(target=self._read, args=(lines,), daemon=True)
        self._reader.start()

    def _read(self, lines: Iterable[str]) -> None:
        for text in lines:
            with self._lock:
                if self._closing:
                    break
                before_j = self._parser.joules
                self._parser.line(text)
                if self._parser.joules != before_j:
                    self._heard_s = self._clock()
        with self._lock:
            self._ended = True
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()

    def joules(self) -> float | None:
        """Return joules since opening, the last power carried on to now; None before the first block.

        Raises:
            SensorLost: powermetrics has ended or fallen silent.
        """
        with self._lock:
            silent_s = self._clock() - self._heard_s
            if self._ended or silent_s > SILENT_S:
                raise SensorLost(
                    "powermetrics has exited" if self._ended else "powermetrics stopped reporting"
                )
            if self._parser.joules is None:
                return None
            return self._parser.joules + self._parser.power_w * min(silent_s, MAX_AHEAD_S)

    def close(self) -> None:
        """End the child process."""
        with self._lock:
            closing, self._closing = self._closing, True
        if self._process is None or closing:
            return
        try:
            self._process.terminate()
            self._process.wait(timeout=2)
        except (PermissionError, subprocess.TimeoutExpired):
            pass  # run by sudo it is not ours to end; with nobody reading, its next block ends it
        self._reader.join(timeout=2)


def command() -> list[str] | None:
    """Return how powermetrics may be run here without a password; None on other systems or if it may not."""
    if sys.platform != "darwin":
        return None
    if os.geteuid() == 0:
        return [PROGRAM, *ARGUMENTS]
    asked = ["sudo", "-n", "-l", PROGRAM, *ARGUMENTS]
    try:
        allowed = subprocess.run(asked, capture_output=True, timeout=5, check=False).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return None
    return ["sudo", "-n", PROGRAM, *ARGUMENTS] if allowed else None


def open_powermetrics() -> Powermetrics | None:
    """Start powermetrics; None where it may not be run."""
    wanted = command()
    if wanted is None:
        return None
    try:
        process = subprocess.Popen(
            wanted,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C asks the run to stop, not the sensor
        )
    except OSError:
        return None
    return Powermetrics(process.stdout or (), process)
