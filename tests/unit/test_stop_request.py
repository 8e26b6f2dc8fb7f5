from __future__ import annotations

import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from edgetune.utils.signals import StopRequest, remembering_interrupts


@pytest.fixture(autouse=True)
def sigint_is_heard() -> Iterator[None]:
    """Also where the tests run in the background, as shells have such processes ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


both_signals = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@both_signals
def test_interrupts_at_once_outside_training(number: int) -> None:
    stop = StopRequest()
    with stop.handling_signals(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    assert not stop()


@both_signals
def test_asks_while_training_and_interrupts_when_asked_twice(number: int) -> None:
    stop = StopRequest()
    with stop.handling_signals(), stop.deferring_first_signal():
        assert not stop()
        signal.raise_signal(number)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


def swallowed_interrupt() -> None:
    """Be interrupted in a weak reference's callback, where Python only prints what is raised."""

    class Gone:
        pass

    gone = Gone()
    reference = weakref.ref(gone, lambda _: signal.raise_signal(signal.SIGINT))
    del gone
    assert reference() is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("outer", [remembering_interrupts, StopRequest().handling_signals])
def test_an_interrupt_that_a_library_lost_comes_before_training(
    outer: Callable[[], AbstractContextManager[object]],
) -> None:
    begun = False
    stop = StopRequest()
    with outer():
        swallowed_interrupt()
        with pytest.raises(KeyboardInterrupt), stop.handling_signals(), stop.deferring_first_signal():
            begun = True
    assert not begun


@both_signals
def test_an_error_that_an_interrupt_caused_is_an_interrupt(number: int) -> None:
    def interrupted_import() -> None:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt as interrupt:
            raise ImportError("initialization failed") from interrupt

    with pytest.raises(KeyboardInterrupt), StopRequest().handling_signals():
        interrupted_import()


def test_ctrl_c_stays_ignored_in_the_background() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with remembering_interrupts():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


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
