"""Where the time goes: every moment of a run belongs to exactly one phase.

    load ─ tokenize ─ open ─ export ─ ngrams ─ linear_probe ─ prepare ─ [ load ─ score ─ select ─ train ]…
    ensemble ─ evaluate ─ save ─ checkpoint ─ lost (to a break, before the run went on) ─ other

Phases nest: the inner one takes the time, the outer one goes on after it. So the parts always add up
to the whole.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

PHASES = (
    "load",
    "tokenize",
    "open",
    "export",
    "ngrams",
    "linear_probe",
    "prepare",
    "score",
    "train",
    "select",
    "ensemble",
    "evaluate",
    "save",
    "checkpoint",
    "lost",
    "other",
)
LONGEST_STARTUP_S = 10.0


def awake_or_asleep_s() -> float:
    """Return monotonic seconds that go on while the machine sleeps, where the system has such a clock."""
    try:  # Linux's monotonic clock stops in a suspended machine; its boot-time clock does not
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    except (AttributeError, OSError):
        return time.monotonic()


class Meter:
    """Splits wall-clock seconds by phase."""

    def __init__(self, already_s: float = 0.0, clock: Callable[[], float] = awake_or_asleep_s) -> None:
        """Start in the phase `load`."""
        self._clock = clock
        self._start = clock() - already_s
        self._since = self._start
        self._stack = ["load"]
        self._spent = dict.fromkeys(PHASES, 0.0)

    def _settle(self) -> float:
        now = self._clock()
        self._spent[self._stack[-1]] += now - self._since
        self._since = now
        return now

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge the time inside to a phase."""
        if name not in self._spent:
            raise ValueError(f"unknown phase {name!r}")
        self._settle()
        self._stack.append(name)
        try:
            yield
        finally:
            self._settle()
            self._stack.pop()

    def resume_from(self, spent_s: dict[str, float], lost_s: float) -> None:
        """Count the seconds of a run that was broken off, and goes on here, as this run's."""
        for name, seconds in {**spent_s, "lost": spent_s.get("lost", 0.0) + lost_s}.items():
            self._spent[name] += seconds
            self._start -= seconds

    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start

    def split_s(self) -> dict[str, float]:
        """Seconds by phase up to now; they add up to `elapsed_s`."""
        self._settle()
        return dict(self._spent)


def process_age_s(imported_at_s: float, cpu_at_import_s: float) -> float:
    """Return the seconds since this process started, its imports included.

    A shell may run its last command in its own process (`a && edgetune …`); the process is then older than
    edgetune. So a start-up of more than `LONGEST_STARTUP_S` is not believed: its CPU time counts instead.

    Args:
        imported_at_s: `time.perf_counter()` when the first of our modules was imported.
        cpu_at_import_s: `time.process_time()` then.
    """
    import psutil

    since_import_s = time.perf_counter() - imported_at_s
    startup_s = time.time() - float(psutil.Process().create_time()) - since_import_s
    believed = 0.0 <= startup_s <= LONGEST_STARTUP_S
    return since_import_s + (startup_s if believed else cpu_at_import_s)
