"""Requests to stop (SIGINT, SIGTERM, SIGHUP), and output streams whose reader has gone.

After a request to stop, the current step is finished; then the run ends.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

from edgetune.utils.errors import Interrupted, ResourceError

SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


def _is_heard(number: int) -> bool:
    """Return whether a signal reaches the process: `nohup` has it ignore SIGHUP, and that stays so."""
    return number in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(number) is not signal.SIG_IGN


class StopRequest:
    """Whether somebody asked the run to stop.

    A KeyboardInterrupt can be lost: what is raised in a weak reference's callback is only printed, and a C
    extension that is being imported makes an ImportError of it. So the request remembers it, and raises it
    again as soon as it can.

    Attributes:
        requested: a stop was requested.
        interrupted: KeyboardInterrupt was raised.
    """

    def __init__(self) -> None:
        self.requested = self.interrupted = False
        self._defers_first_signal = False

    def __call__(self) -> bool:
        """Return whether to stop now."""
        return self.requested

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested or not self._defers_first_signal:
            self.interrupted = True
            raise KeyboardInterrupt
        self.requested = True

    @contextlib.contextmanager
    def handling_signals(self, numbers: Sequence[int] = SIGNALS) -> Iterator[StopRequest]:
        """Raise KeyboardInterrupt at these signals; in `deferring_first_signal`, the first is a request.

        Raises:
            KeyboardInterrupt: a signal came, now or while an outer StopRequest handled them.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        outer = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
        self.interrupted |= isinstance(outer, StopRequest) and outer.interrupted
        before = {number: signal.signal(number, self._on_signal) for number in numbers if _is_heard(number)}
        try:
            with self._raising_lost_interrupts():
                yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def deferring_first_signal(self) -> Iterator[None]:
        """While training, the first signal only requests a stop; a second one interrupts at once.

        Raises:
            KeyboardInterrupt: a second signal came, or one came before training.
        """
        with self._raising_lost_interrupts():
            self._defers_first_signal = True
            try:
                yield
            finally:
                self._defers_first_signal = False

    @contextlib.contextmanager
    def _raising_lost_interrupts(self) -> Iterator[None]:
        """Raise KeyboardInterrupt if an earlier one was lost, or in place of the error that became of it."""
        if self.interrupted:
            raise KeyboardInterrupt
        try:
            yield
        except Interrupted:
            raise
        except Exception as error:
            if self.interrupted:
                raise KeyboardInterrupt from error
            raise


@contextlib.contextmanager
def remembering_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt at Ctrl-C even where a library loses it, unless the process ignores SIGINT.

    Raises:
        KeyboardInterrupt: SIGINT came, now or earlier.
    """
    heard = [signal.SIGINT] if callable(signal.getsignal(signal.SIGINT)) else []  # ignored in the background
    with StopRequest().handling_signals(heard):
        yield


class _Stream:
    """A text stream that another one stands in for."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _guard(self) -> contextlib.AbstractContextManager[None]:
        raise NotImplementedError

    def write(self, text: str) -> int:
        with self._guard():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._guard():
            self._stream.flush()


class ClosedPipeTolerant(_Stream):
    """A text stream whose reader may go: what is written after that is lost, and nobody minds.

    A run must not die because the terminal that showed its progress was closed.
    """

    def _guard(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.suppress(OSError, ValueError)


class CheckedStdout(_Stream):
    """Stdout, which says in a sentence that it cannot be written; a pipe that was closed stays one."""

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            why = "it is closed" if error.errno == errno.EBADF else error.strerror
            raise ResourceError(f"Cannot write to the standard output: {why}.") from error


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def open_missing_streams() -> None:
    """Give a process that was started without stdin, stdout or stderr a substitute for each.

    Otherwise the next file that is opened gets the number of the missing one, and what a library prints goes
    into it. Stdin is empty, stderr loses what is written, stdout fails as a closed one does.
    """
    for number in (0, 1, 2):
        if not _is_open(number):
            os.open(os.devnull, os.O_RDONLY if number == 1 else os.O_RDWR)  # the lowest free number: this one
    if sys.stdin is None:
        sys.stdin = io.StringIO()
    if sys.stdout is None:
        sys.stdout = open(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def flush_stdout() -> bool:
    """Write what is left to stdout; return whether somebody read it, and complain no further if not."""
    try:
        sys.stdout.flush()
    except (OSError, ResourceError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True
