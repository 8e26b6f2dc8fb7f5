from __future__ import annotations

import os
import signal
import threading

import pytest

from edgetune.utils.signals import StopRequest

both_signals = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@both_signals
def test_interrupts_at_once_outside_training(number: int) -> None:
    stop = StopRequest()
    with stop.handling_signals(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
    assert not stop()


@both_signals
def test_asks_while_training_and_interrupts_when_asked_twice(number: int) -> None:
    stop = StopRequest()
    with stop.handling_signals(), stop.deferring_first_signal():
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ValueError, match="broken"), StopRequest().handling_signals():
        raise ValueError("broken")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_listens_to_nothing_outside_the_main_thread() -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with StopRequest().handling_signals() as stop, stop.deferring_first_signal():
                assert not stop()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failures
