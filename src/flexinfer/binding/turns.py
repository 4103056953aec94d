"""Whose turn it is: of all that is asked of one model, one thing computes at a time.

A request, such as an answer that is read as a stream, has the context to itself: when another
begins before it was read to its end, what it computed is put aside and given back when it is
asked for its next part. Once the model is closed, or in a process that was forked, nothing of it
is touched any more.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from enum import Enum
from typing import Any, Generic, TypeVar

from flexinfer.errors import BudgetError, EngineError

T = TypeVar("T")


class Stage(Enum):
    """How far a model is in its life."""

    OPENING = "is being opened"
    OPEN = "is open"
    CLOSING = "is being closed"
    CLOSED = "is closed"


class Request(Generic[T]):
    """One request: what was put aside for it, or why nothing is."""

    def __init__(self) -> None:
        self.aside: T | None = None
        self.lost = False


class Turns(Generic[T]):
    """Turns of one model.

    Args:
        put_aside: what the context holds, as a value; `BudgetError` or None: it cannot be kept.
        give_back: restores such a value.
        mend: is called at the begin of each turn of a model that is open.
    """

    def __init__(
        self,
        put_aside: Callable[[], T | None],
        give_back: Callable[[T], None],
        mend: Callable[[], None] = lambda: None,
    ) -> None:
        self.stage = Stage.OPENING
        self.without_weights = False
        self._put_aside = put_aside
        self._give_back = give_back
        self._mend = mend
        self._process = os.getpid()
        self._turn = threading.RLock()
        self._depth = 0
        self._holder: int | None = None
        self._current: Request[T] | None = None
        # Threads that use the model, in a turn or beside it.
        self._inside: Counter[int] = Counter()
        self._left = threading.Condition()
        self._free: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"<Turns: the model {self.stage.value}, {len(self._inside)} threads inside>"

    @property
    def forked(self) -> bool:
        """Whether this process is a child of the one that opened the model."""
        return self._process != os.getpid()

    @property
    def is_mine(self) -> bool:
        """Whether this thread has the turn."""
        return self._holder == threading.get_ident()

    @property
    def is_idle(self) -> bool:
        """Whether no request has the context."""
        return self._current is None

    def check(self, *, weights: bool = True) -> None:
        """Raise `EngineError` where the model cannot be used, or has no `weights` that are used."""
        if self.forked:
            raise EngineError(
                f"the model was opened by process {self._process}, whose threads a fork does not "
                'have; open it in this one, or start processes by the method "spawn"'
            )
        if self.stage in (Stage.CLOSING, Stage.CLOSED):
            raise EngineError("the model is closed; open it again")
        if weights and self.without_weights:
            raise EngineError(
                "the model was opened with vocab_only=True, as a vocabulary without weights; open "
                "it without"
            )

    @contextlib.contextmanager
    def beside(self, *, weights: bool = True) -> Iterator[None]:
        """Use the model without waiting for a turn; it is not freed meanwhile."""
        self.check(weights=weights)
        me = threading.get_ident()
        with self._left:
            self._inside[me] += 1
        try:
            self.check(weights=weights)
            yield
        finally:
            self._leave(me)

    @contextlib.contextmanager
    def turn(self, request: Request[T] | None = None) -> Iterator[None]:
        """Use the model alone, with what `request` computed before in its context.

        Without a request the context is taken as it is. Within a turn of the same thread, the
        context is that of the outer one.
        """
        self.check()
        with self._turn, self.beside():
            self._depth += 1
            self._holder = threading.get_ident()
            try:
                if self._depth == 1 and self.stage is Stage.OPEN:
                    self._mend()
                if self._depth == 1 and request is not None:
                    self._switch(request)
                yield
            finally:
                self._depth -= 1
                if not self._depth:
                    self._holder = None

    def over(self, request: Request[T]) -> None:
        """`request` needs the context no more."""
        request.aside = None
        if self._current is request:
            self._current = None

    def stream(self, request: Request[T], parts: Iterator[Any]) -> Generator[Any, Any, None]:
        """`parts`, each made in a turn of `request`; what is sent goes to them."""
        sent = None
        try:
            while True:
                with self.turn(request):
                    try:
                        part = parts.send(sent) if isinstance(parts, Generator) else next(parts)
                    except StopIteration:
                        return
                sent = yield part
        finally:
            # Not in a turn: the collector of garbage may come here in any thread.
            self.over(request)
            if isinstance(parts, Generator):
                parts.close()

    def close(self, stop: Callable[[], None], free: Callable[[], None]) -> None:
        """Have who computes stop, wait until nobody is inside, then free.

        From within, as a processor of logits may call it, it is freed when that thread leaves.
        """
        with self._left:
            if self.stage in (Stage.CLOSING, Stage.CLOSED):
                return
            self.stage, self._free = Stage.CLOSING, free
        stop()
        with self._left:
            if self._inside[threading.get_ident()]:
                return
            self._left.wait_for(lambda: not +self._inside)
        self._free_once()

    def _leave(self, me: int) -> None:
        with self._left:
            self._inside[me] -= 1
            if not self._inside[me]:
                del self._inside[me]
            self._left.notify_all()
            last = not self._inside
        if last and self.stage is Stage.CLOSING:
            self._free_once()

    def _free_once(self) -> None:
        with self._left:
            free, self._free = self._free, None
        if free is not None:
            free()
            self.stage = Stage.CLOSED

    def _switch(self, request: Request[T]) -> None:
        if request.lost:
            raise EngineError(
                "another request used the model before this answer was read to its end, and the "
                "budget has no room for both; read one to its end first, or give more memory"
            )
        current = self._current
        if current is request:
            return
        if current is not None:
            with contextlib.suppress(BudgetError):
                current.aside = self._put_aside()
            current.lost = current.aside is None
        self._current = request
        if request.aside is not None:
            aside, request.aside = request.aside, None
            self._give_back(aside)
