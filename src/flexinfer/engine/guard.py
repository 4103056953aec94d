"""Around each call that computes: Ctrl-C becomes a flag, and what a callback kept is raised."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from flexinfer.engine.interrupts import Interrupt
from flexinfer.errors import EngineError
from flexinfer.native.device.device import device
from flexinfer.native.device.interrupts import hold_interrupts


class Guard:
    """Wraps a context's `decode` and `encode`; `interrupt` stops the model's passes.

    What they allocate belongs to `owner`. After each, `settle` waits for other devices, and raises
    where one was lost.
    """

    def __init__(
        self, interrupt: Interrupt, owner: object, settle: Callable[[], None] = lambda: None
    ) -> None:
        self._interrupt = interrupt
        self._owner = owner
        self._settle = settle

    def wrap(self, call: Callable[[Any], None]) -> Callable[[Any], None]:
        def compute(batch: Any) -> None:
            device().take_failure()
            with device().working_for(self._owner):
                try:
                    call(batch)
                    self._settle()
                except RuntimeError as error:
                    failure = device().take_failure()
                    if failure is not None:
                        raise failure from error
                    if self._interrupt.closing:
                        raise EngineError("the model was closed while it answered") from error
                    raise EngineError(
                        f"llama.cpp could not compute a batch ({error}); opened with verbose=True "
                        "it says why"
                    ) from error

        def guarded(batch: Any) -> None:
            with self._interruptible():
                device().in_living_thread(lambda: compute(batch))

        return guarded

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C stops the passes under way, and then outranks what that made fail."""
        failure: Exception | None = None
        with hold_interrupts(self._interrupt.set) as held:
            try:
                yield
            except Exception as error:
                failure = error
        if held.pressed:
            self._interrupt.clear()
            held.deliver()
        if failure is not None:
            raise failure
