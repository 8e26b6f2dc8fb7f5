"""Requests to stop (SIGINT, SIGTERM, SIGHUP), and output streams whose reader has gone.

A request to stop ends the current step, then the run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


def _is_heard(number: int) -> bool:
    """Return whether a signal reaches the process: `nohup` has it ignore SIGHUP, and that stays so."""
    return number in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(number) is not signal.SIG_IGN


class StopRequest:
    """Whether somebody asked the run to stop."""

    def __init__(self) -> None:
        self.requested = False
        self._defers_second_signal = False

    def __call__(self) -> bool:
        """Return whether to stop now."""
        return self.requested

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested or not self._defers_second_signal:
            raise KeyboardInterrupt
        self.requested = True

    @contextlib.contextmanager
    def handling_signals(self) -> Iterator[StopRequest]:
        """Turn these signals into KeyboardInterrupt, or into a request while `deferring_second_signal`."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._on_signal) for number in SIGNALS if _is_heard(number)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def deferring_second_signal(self) -> Iterator[None]:
        """While training: the first signal only asks; a second one interrupts at once."""
        self._defers_second_signal = True
        try:
            yield
        finally:
            self._defers_second_signal = False


class ClosedPipeTolerant:
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


def flush_stdout() -> bool:
    """Write what is left to stdout; return whether somebody read it, and complain no further if not."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True
