"""Ctrl-C held back: noted while a call runs, delivered after it, to whoever handled it before."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from flexinfer.native.device.interrupts import hold_interrupts


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """The signals that a handler of the program's own heard."""
    found: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: found.append(number))
    yield found
    signal.signal(signal.SIGINT, before)


def test_a_press_waits_until_it_is_delivered() -> None:
    calls: list[str] = []
    with hold_interrupts(lambda: calls.append("pressed")) as held:
        assert repr(held) == "<HeldInterrupts, none>"
        press()
        press()
        assert calls == ["pressed", "pressed"]
        assert repr(held) == "<HeldInterrupts, SIGINT>"
    with pytest.raises(KeyboardInterrupt):
        held.deliver()
    with pytest.raises(KeyboardInterrupt):
        press()


def test_nothing_is_delivered_without_a_press(heard: list[int]) -> None:
    with hold_interrupts() as held:
        pass
    held.deliver()
    assert heard == []


def test_the_handler_from_before_hears_of_the_first_press_only(heard: list[int]) -> None:
    with hold_interrupts() as held:
        press()
        press()
        assert heard == []
    held.deliver()
    assert heard == [signal.SIGINT]
    press()
    assert len(heard) == 2


def test_the_handler_is_back_after_an_error(heard: list[int]) -> None:
    with pytest.raises(OSError, match="broken"), hold_interrupts():
        raise OSError("broken")
    press()
    assert heard == [signal.SIGINT]


def test_who_ignores_the_signal_goes_on_ignoring_it() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with hold_interrupts() as held:
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            press()
        assert not held.pressed
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_hold_nothing(heard: list[int]) -> None:
    inside = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def hold() -> None:
        with hold_interrupts():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=hold)
    thread.start()
    thread.join()
    assert seen == [inside]
