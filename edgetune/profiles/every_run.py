"""What every run pays besides a backend's operations, asked of fresh workers; watts of doing nothing."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from edgetune.profiles.child import Child
from edgetune.profiles.opening import Job
from edgetune.profiles.subject import LIMIT_S

IDLE_S = 1.5


@dataclass(frozen=True)
class EveryRun:
    """Seconds as in `DeviceProfile`.

    Attributes:
        idle_w: mean power while nothing is computed.
        source: where that comes from.
        measured: whether a sensor gave it.
    """

    start_s: float
    tokenize_s_per_token: float
    meta_s_per_example: float
    report_s: float
    idle_w: float
    source: str
    measured: bool


def every_run(job: Job, n_starts: int, watts: float | None, tdp: float | None) -> EveryRun:
    """Measure.

    Args:
        job: without a backend.
        n_starts: processes that are started to see how long that takes.
        watts: what the user says the machine draws.
        tdp: watts of the processor, for an estimate.
    """
    start_s = []
    for _ in range(n_starts):
        with Child(job) as child:
            done_at = child.ask("chores", LIMIT_S, name="start")["done_at"]
            start_s.append(done_at - child.started_at)
    with Child(job) as child:
        report_s = child.ask("chores", LIMIT_S, name="report")["s"]
        tokenize = child.ask("chores", LIMIT_S, name="tokenize")["s_per_token"]
        meta = child.ask("chores", LIMIT_S, name="meta")["s_per_example"]
        child.ask("power", LIMIT_S, watts=watts, tdp=tdp)
        idle = child.ask("idle", LIMIT_S, seconds=IDLE_S)
    return EveryRun(
        *(statistics.median(start_s), tokenize, meta, report_s),
        *(idle["j"] / idle["s"], idle["source"], idle["measured"]),
    )
