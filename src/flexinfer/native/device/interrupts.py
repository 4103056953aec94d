"""Signals held back: a handler that raises inside a callback of C would be lost, or lose the call.

Held are Ctrl-C and what asks a process to end. Only the main thread is interrupted; in others
nothing is held, nor where nobody handles a signal.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

_Handler = Callable[[int, "FrameType | None"], object]

# Who is asked to end hears of that first.
_HELD = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class HeldInterrupts:
    """Whether Ctrl-C was pressed or the end asked for, and who is to hear of it."""

    def __init__(self, handlers: Mapping[int, _Handler]) -> None:
        self._handlers = handlers
        self._pressed: dict[int, FrameType | None] = {}

    def __repr__(self) -> str:
        names = ", ".join(signal.Signals(number).name for number in self._pressed)
        return f"<HeldInterrupts, {names or 'none'}>"

    @property
    def pressed(self) -> bool:
        return bool(self._pressed)

    def note(self, number: int, frame: FrameType | None) -> None:
        self._pressed.setdefault(number, frame)

    def deliver(self) -> None:
        """Let the handlers from before hear of the first signal of each kind, if there was one.

        Raises:
            KeyboardInterrupt: that is what Python's own handler of Ctrl-C does.
        """
        for number in _HELD:
            if number in self._pressed:
                self._handlers[number](number, self._pressed[number])


@contextlib.contextmanager
def hold_interrupts(on_press: Callable[[], object] = lambda: None) -> Iterator[HeldInterrupts]:
    """While entered, signals are noted and call `on_press`; afterwards they are there to `deliver`.

    One that comes again while it is delivered interrupts like any other.
    """
    found = {int(number): signal.getsignal(number) for number in _HELD}
    handlers = {number: handler for number, handler in found.items() if callable(handler)}
    if threading.current_thread() is not threading.main_thread() or not handlers:
        yield HeldInterrupts({})
        return
    held = HeldInterrupts(handlers)

    def press(number: int, frame: FrameType | None) -> None:
        held.note(number, frame)
        on_press()

    for number in handlers:
        signal.signal(number, press)
    try:
        yield held
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
