"""Failpoints: named places at which a test can have the process die or fail.

`EDGETUNE_FAILPOINT=NAME:N:WHAT` arms one: when it is passed for the N-th time (1 is the first), `kill` ends
the process as a power cut would, `full` raises the error of a full disk, `stop` asks the run to stop.
`tools/torture` and the tests of `docs/reliability.md` use it.
"""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter

SWITCH = "EDGETUNE_FAILPOINT"
FAILPOINTS = (
    "checkpoint-begun",
    "checkpoint-half-written",
    "checkpoint-written",
    "checkpoint-renamed",
    "checkpoint-pruned",
    "model-begun",
    "model-written",
    "model-ready",
    "model-half-placed",
    "model-placed",
    "metrics-written",
    "step",
    "evaluation-begun",
    "summary-written",
    "checkpoints-removed",
)
"""In the order of a run; the first five are passed at every checkpoint, the next five at every save."""

_passed: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Pass a place; what the switch asks for happens here."""
    asked = os.environ.get(SWITCH)
    if asked is None:
        return
    where, number, what = asked.split(":")
    if where not in FAILPOINTS or name not in FAILPOINTS:
        raise ValueError(f"unknown failpoint {where!r} or {name!r}; {SWITCH} accepts {', '.join(FAILPOINTS)}")
    _passed[name] += 1
    if name != where or _passed[name] != int(number):
        return
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    os.kill(os.getpid(), signal.SIGTERM)
