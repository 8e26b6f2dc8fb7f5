"""Places at which a test can have the process die or fail; to everybody else they are a name and nothing.

`EDGETUNE_FAULT=PLACE:N:WHAT` asks for it: at the N-th passing of the place (1 is the first), `kill` ends the
process as a power cut would, `full` says that the disk is full, `stop` asks the run to stop. `tools/torture`
and the tests of `docs/reliability.md` use it.
"""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter

SWITCH = "EDGETUNE_FAULT"
PLACES = (
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


def place(name: str) -> None:
    """Pass a place; what the switch asks for happens here."""
    asked = os.environ.get(SWITCH)
    if asked is None:
        return
    where, number, what = asked.split(":")
    if where not in PLACES or name not in PLACES:
        raise ValueError(f"there is no place {where!r} or {name!r}; {SWITCH} knows {', '.join(PLACES)}")
    _passed[name] += 1
    if name != where or _passed[name] != int(number):
        return
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    os.kill(os.getpid(), signal.SIGTERM)
