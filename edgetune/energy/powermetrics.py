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
from pathlib import Path

from edgetune.energy.sensor import Counter, SensorLost, TimeSource

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


class Powermetrics(Counter):
    """Joules of the processor since opening, read by a thread from the child's output.

    The last power is carried on to now. There is no figure before the first block.
    """

    covers = "processor"

    def __init__(
        self,
        lines: Iterable[str],
        process: subprocess.Popen[str] | None = None,
        clock: TimeSource = time.perf_counter,
    ) -> None:
        """Start reading `lines`; `process` is ended by `close`."""
        self.name = "powermetrics processor power"
        self._process, self._clock = process, clock
        # Joules (None before the first block), the last power (W), and when it was heard; replaced as one.
        self._heard: tuple[float | None, float, float] = (None, 0.0, clock())
        self._ended = self._closing = False
        self._reader = threading.Thread(target=self._read, args=(lines,), daemon=True)
        self._reader.start()

    @classmethod
    def find(cls, root: Path, clock: TimeSource) -> Powermetrics | None:
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
        return cls(process.stdout or (), process, clock)

    def _read(self, lines: Iterable[str]) -> None:
        """Add blocks up. CPU Power counts until the block's Combined Power takes its place."""
        block_s, counted_w = 0.0, 0.0
        for text in lines:
            if self._closing:
                break
            header, power = _HEADER.match(text), _POWER.match(text)
            if header is not None:
                block_s, counted_w = float(header["ms"]) / 1e3, 0.0
            elif power is not None and block_s:
                power_w = float(power["value"]) / (1e3 if power["unit"] == "mW" else 1)
                if power_w >= counted_w:  # never take back: the CPU alone is no more than the whole
                    joules = (self._heard[0] or 0.0) + (power_w - counted_w) * block_s
                    self._heard = (joules, power_w, self._clock())
                    counted_w = power_w
        self._ended = True
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()

    def joules(self) -> float | None:
        joules, power_w, heard_s = self._heard
        silent_s = self._clock() - heard_s
        if self._ended:
            raise SensorLost("powermetrics has exited")
        if silent_s > SILENT_S:
            raise SensorLost("powermetrics stopped reporting")
        return None if joules is None else joules + power_w * min(silent_s, MAX_AHEAD_S)

    def close(self) -> None:
        if self._process is None or self._closing:
            return
        self._closing = True
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
