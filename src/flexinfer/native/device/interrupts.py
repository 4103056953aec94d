"""Ctrl-C held back: a handler that raises inside a callback of C would be lost, or lose the call.

Only the main thread is interrupted; in others nothing is held, nor where nobody handles Ctrl-C.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_Handler = Callable[[int, "FrameType | None"], object]


class HeldInterrupts:
    """Whether Ctrl-C was pressed, and who is to hear of it."""

    def __init__(self, handler: _Handler | None) -> None:
        self._handler = handler
        self._pressed: tuple[int, FrameType | None] | None = None

    def __repr__(self) -> str:
        return f"<HeldInterrupts, {'pressed' if self.pressed else 'none'}>"

    @property
    def pressed(self) -> bool:
        return self._pressed is not None

    def note(self, number: int, frame: FrameType | None) -> None:
        if self._pressed is None:
            self._pressed = number, frame

    def deliver(self) -> None:
        """Let the handler from before hear of the first press, if there was one.

        Raises:
            KeyboardInterrupt: that is what Python's own handler does.
        """
        if self._pressed is not None and self._handler is not None:
            self._handler(*self._pressed)


@contextlib.contextmanager
def hold_interrupts(on_press: Callable[[], object] = lambda: None) -> Iterator[HeldInterrupts]:
    """While entered, Ctrl-C is noted and calls `on_press`; afterwards it is there to `deliver`."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield HeldInterrupts(None)
        return
    held = HeldInterrupts(handler)

    def press(number: int, frame: FrameType | None) -> None:
        held.note(number, frame)
        on_press()

    signal.signal(signal.SIGINT, press)
    try:
        yield held
    finally:
        signal.signal(signal.SIGINT, handler)
