"""powermetrics from output as Macs write it, and by a child process that writes the same."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue

import pytest
from fakes import FakeClock

from edgetune.energy import powermetrics
from edgetune.energy.powermetrics import Powermetrics
from edgetune.energy.sensor import SensorLost

SILICON = """Machine model: Mac14,2
OS version: 25C56
Boot arguments:
Boot time: Thu Sep 10 23:42:17 2026



*** Sampled system activity (Fri Sep 11 13:41:46 2026 -0700) (1002.90ms elapsed) ***


**** Processor usage ****

E-Cluster HW active frequency: 1248 MHz
E-Cluster HW active residency:  77.43% (600 MHz:   0% 912 MHz:  54% 2424 MHz: 8.7%)
CPU 0 frequency: 1359 MHz

CPU Power: 823 mW
GPU Power: 26 mW
ANE Power: 323 mW
Combined Power (CPU + GPU + ANE): 1172 mW


*** Sampled system activity (Fri Sep 11 13:41:47 2026 -0700) (2000.00ms elapsed) ***

CPU Power: 4205 mW
GPU Power: 19 mW
ANE Power: 0 mW
Combined Power (CPU + GPU + ANE): 4224 mW
"""
INTEL = """*** Sampled system activity (Tue Mar  2 10:11:12 2021 +0100) (1000.00ms elapsed) ***

**** Processor usage ****

Intel energy model derived package power (CPUs+GT+SA): 12.48W

LLC flushed residency: 31.5%
"""


def joules_of(text: str) -> float | None:
    """Return the joules of some text, before its end is noticed."""
    lines = Lines()
    sensor = Powermetrics(lines, clock=FakeClock())
    lines.queue.put(text)
    lines.queue.put("end of text")
    _wait_until(lines.queue.empty)
    lines.asked.wait(5)
    joules = sensor.joules()
    lines.queue.put(None)
    return joules


ALONE = "\n".join(line for line in SILICON.splitlines() if not line.startswith("Combined"))


@pytest.mark.parametrize(
    ("text", "joules"),
    [
        (SILICON, 1.172 * 1.0029 + 4.224 * 2),  # the combined power, once
        (ALONE, 0.823 * 1.0029 + 4.205 * 2),
        (INTEL, 12.48),
        ("CPU Power: 823 mW\nsomething else: 5 W\n", None),
        ("*** Sampled system activity (x) (1000ms elapsed) ***\nCPU Power: none\n", None),
    ],
)
def test_blocks_are_added_up(text: str, joules: float | None) -> None:
    assert joules_of(text) == (None if joules is None else pytest.approx(joules))


def _wait_until(true: Callable[[], bool]) -> None:
    for _ in range(1000):
        if true():
            return
        time.sleep(0.005)
    raise AssertionError("it did not come true")


class Lines:
    """Text that comes when a test sends it; the end is None."""

    def __init__(self) -> None:
        self.queue: Queue[str | None] = Queue()
        self.asked = threading.Event()

    def __iter__(self) -> Iterator[str]:
        while (text := self.queue.get()) is not None:
            yield from text.splitlines()
            if text == "end of text":
                self.asked.set()


def test_the_last_power_is_carried_on_a_little_and_silence_is_a_loss() -> None:
    clock, lines = FakeClock(), Lines()
    sensor = Powermetrics(lines, clock=clock)
    assert sensor.joules() is None
    lines.queue.put(SILICON)
    so_far_j = 1.172 * 1.0029 + 4.224 * 2
    _wait_until(lambda: sensor.joules() == pytest.approx(so_far_j))
    clock.now_s += 1
    assert sensor.joules() == pytest.approx(so_far_j + 4.224)
    clock.now_s += 7
    assert sensor.joules() == pytest.approx(so_far_j + 2 * 4.224)
    clock.now_s += 3
    with pytest.raises(SensorLost, match="stopped reporting"):
        sensor.joules()
    lines.queue.put(None)


def test_its_end_is_a_loss() -> None:
    lines = Lines()
    sensor = Powermetrics(lines, clock=FakeClock())
    lines.queue.put(None)

    def lost() -> bool:
        try:
            sensor.joules()
        except SensorLost as error:
            return "has exited" in str(error)
        return False

    _wait_until(lost)


def test_the_child_is_read_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    script = f"import time; print({SILICON!r}, flush=True); time.sleep(60)"
    monkeypatch.setattr(powermetrics, "command", lambda: [sys.executable, "-c", script])
    sensor = Powermetrics.find(Path("/"), time.perf_counter)
    assert sensor is not None
    process = sensor._process
    assert process is not None
    _wait_until(lambda: (sensor.joules() or 0) >= 4.224 * 2)
    sensor.close()
    assert process.returncode is not None
    assert not sensor._reader.is_alive()
    sensor.close()


@pytest.mark.parametrize(("uid", "sudo", "first"), [(0, 1, powermetrics.PROGRAM), (501, 0, "sudo")])
def test_it_is_run_by_root_or_by_sudo_without_a_password(
    monkeypatch: pytest.MonkeyPatch, uid: int, sudo: int, first: str
) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        asked.append(command)
        return subprocess.CompletedProcess(command, sudo)

    monkeypatch.setattr(powermetrics.sys, "platform", "darwin")
    monkeypatch.setattr(powermetrics.os, "geteuid", lambda: uid, raising=False)
    monkeypatch.setattr(powermetrics.subprocess, "run", run)
    command = powermetrics.command()
    assert command is not None
    assert command[0] == first
    assert command[-len(powermetrics.ARGUMENTS) :] == list(powermetrics.ARGUMENTS)
    assert all("-n" in one for one in asked)


def test_where_it_may_not_be_run_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "darwin":
        assert Powermetrics.find(Path("/"), time.perf_counter) is None
    monkeypatch.setattr(powermetrics.sys, "platform", "darwin")
    monkeypatch.setattr(powermetrics.os, "geteuid", lambda: 501, raising=False)
    monkeypatch.setattr(
        powermetrics.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1)
    )
    assert powermetrics.command() is None
