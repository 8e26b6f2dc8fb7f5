"""The process that the files are fed to: one at a time, in bounded memory; started anew when it dies.

Request and answer are a line of JSON each, on standard input and output.

    {"path": …, "kind": …, "seed": …} ─→ {"outcome": …, "said": …, "grew_mb": …}

An outcome is `read`, `refused`, `traceback` or `memory`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[2]))

from edgetune.utils.errors import EdgetuneError
from edgetune.utils.limits import MEMORY_MB

HEADROOM_BYTES = 3 << 30
"""What the address space may grow by before the system refuses: a fault must not fill the machine."""


def _status_mb(name: str) -> float:
    """Return a figure of `/proc/self/status` in MB (10^6 bytes)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def _forget_peak() -> bool:
    """Make the system count the peak of memory from now on; whether it can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _limit_memory() -> None:
    import resource

    most = int(_status_mb("VmSize") * 1e6) + HEADROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _feed(feeds: Any, request: dict[str, Any]) -> tuple[str, str]:
    try:
        with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
            feeds.feed(Path(request["path"]), request["kind"], request["seed"])
    except EdgetuneError as error:
        return "refused", str(error)
    except MemoryError:
        return "memory", traceback.format_exc()
    except BaseException:  # whatever it is, the parent counts it
        return "traceback", traceback.format_exc()
    return "read", ""


def main() -> None:
    feeds = importlib.import_module(sys.argv[1] if len(sys.argv) > 1 else "feeds")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    feeds.warm_up()
    measured = _forget_peak()
    _limit_memory()
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        _forget_peak()
        before_mb = _status_mb("VmRSS")
        outcome, said = _feed(feeds, json.loads(line))
        grew_mb = _status_mb("VmHWM") - before_mb if measured else 0.0
        if grew_mb > MEMORY_MB:
            outcome = "memory"
        print(json.dumps({"outcome": outcome, "said": said, "grew_mb": grew_mb}), file=answers, flush=True)


if __name__ == "__main__":
    main()
