"""Standard output and error, when whoever reads them has gone."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any


class Patient:
    """A text stream whose reader may go: what is written after that is lost, and nobody minds.

    A run must not die because the terminal that showed its progress was closed.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def let_go_of_stdout() -> bool:
    """Write what is left to stdout; return whether somebody read it, and complain no further if not."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True
