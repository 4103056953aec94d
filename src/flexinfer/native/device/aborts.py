"""When a check of ggml's own fails it ends the process; here only the thread that called it ends.

`ggml_abort` (``ggml/src/ggml.c``, ggml 0.25.3) tells a callback before it calls ``abort``, and so
does the C++ runtime where an exception leaves llama.cpp. A callback that never returns keeps the
process: the thread is parked for good, with whatever it had allocated, and whoever waited for it
gets an error. So only calls whose parked thread holds no lock that others need may be made this
way: loading a model or its vocabulary, creating a context, making tokens of a text, parsing a
grammar, loading an adapter. They must not compute: the threads that help would wait for ever.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from flexinfer.awake import POLL_SECONDS, AwakeClock
from flexinfer.errors import FlexInferError, ModelFileError
from flexinfer.memory.refusals import refused_to_library, start_thread
from flexinfer.native import mirror
from flexinfer.native.device.interrupts import hold_interrupts
from flexinfer.native.device.uncaught import Uncaught
from flexinfer.native.library import Library

T = TypeVar("T")
# Python keeps one size of stacks for the process; what it was while another one is set.
_stack_lock = threading.Lock()
_usual_stack: int | None = None

# Where llama.cpp was compiled, the file in it, and what did not hold.
_MESSAGE = re.compile(r"(?:.*/)?llama\.cpp/(?P<place>\S+?:\d+): (?P<what>.*)", re.DOTALL)
# Conditions that say nothing about the model: ``ggml_init`` of ggml.c, ``ggml_aligned_malloc``.
_OUT_OF_MEMORY = re.compile(r"mem_buffer != NULL|failed to allocate|insufficient memory", re.I)


class _Call(Generic[T]):
    """One call in a thread of its own: how it ended."""

    def __init__(self, call: Callable[[], T]) -> None:
        self.over = threading.Event()
        self.aborted: str | None = None
        self.failure: BaseException | None = None
        self.result: T
        self._call = call

    def run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:
            self.failure = error
        self.over.set()

    def check(self) -> None:
        """Raise what the call raised, once: kept, it would keep the frames it came through."""
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure


class Aborts:
    """Makes calls survive the `abort` of `native`; one for a process, as ggml has one callback."""

    def __init__(self, native: Library) -> None:
        self._calls: dict[int, _Call[object]] = {}
        self._callback = mirror.OnAbort(self._aborting)
        native.ggml_set_abort_callback(self._callback)
        self._uncaught = Uncaught(native.runtime, self._ending)

    def survive(
        self,
        call: Callable[[], T],
        blame: Callable[[str], Exception],
        undo: Callable[[T], object] = lambda result: None,
        seconds: float | None = None,
        late: Callable[[], object] = lambda: None,
        stack: int = 0,
    ) -> T:
        """The result of `call`, which runs in another thread.

        Ctrl-C waits until the call is over; `undo` then frees the result that nobody gets.

        Args:
            blame: makes the error of what did not hold, where ggml would have ended the process,
                or of a call that takes longer than `seconds`: it goes on where nobody waits for it.
            late: is told of such a call, which reads what it was given for as long as it likes.
            stack: bytes of the thread's stack, 0 for as many as threads have.
        """
        made: _Call[T] = _Call(call)
        thread = threading.Thread(
            target=self._run, args=(made,), name="flexinfer-open", daemon=True
        )
        with hold_interrupts() as held:
            _start(thread, stack)
            in_time = _over_within(made.over, seconds)
        if not in_time:
            _give_way(thread)
            late()
            raise blame(f"it takes longer than {seconds:.0f} s")
        if made.aborted is not None:
            raise blame(_condition(made.aborted))
        thread.join()
        made.check()
        try:
            held.deliver()
        except BaseException:
            undo(made.result)
            raise
        return made.result

    def _run(self, made: _Call[T]) -> None:
        me = threading.get_ident()
        self._calls[me] = made  # type: ignore[assignment]
        try:
            made.run()
        finally:
            del self._calls[me]

    def _aborting(self, message: bytes) -> None:
        self._ending(message.decode("utf-8", "replace"))

    def _ending(self, text: str) -> None:
        call = self._calls.get(threading.get_ident())
        if call is None:  # a thread of somebody else's: what ggml does without a callback
            os.write(2, f"{text}\n".encode())
            return
        call.aborted = text
        call.over.set()
        threading.Event().wait()


def _start(thread: threading.Thread, stack: int) -> None:
    """Start `thread` with a stack of its own size; others that start meanwhile get it too."""
    global _usual_stack
    with _stack_lock:
        if stack:
            _usual_stack = threading.stack_size(stack)
        try:
            start_thread(thread)
        finally:
            _usual_size()


def _usual_size() -> None:
    global _usual_stack
    if _usual_stack is not None:
        threading.stack_size(_usual_stack)
        _usual_stack = None


def _anew() -> None:
    """A lock that another thread held is held for ever in a process that was forked."""
    global _stack_lock
    _stack_lock = threading.Lock()
    _usual_size()


os.register_at_fork(after_in_child=_anew)


def _over_within(over: threading.Event, seconds: float | None) -> bool:
    if seconds is None:
        return over.wait()
    clock = AwakeClock()
    while not over.wait(POLL_SECONDS):
        if clock() >= seconds:
            return over.is_set()
    return True


def _give_way(thread: threading.Thread) -> None:
    """Let `thread` run only while nobody else wants the processor."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(thread.native_id or 0, os.SCHED_IDLE, os.sched_param(0))


def in_new_thread(call: Callable[[], T]) -> T:
    """The result of `call`, made in a thread that ends with it; this one waits."""
    made: _Call[T] = _Call(call)
    thread = threading.Thread(target=made.run, name="flexinfer-compute", daemon=True)
    start_thread(thread)
    thread.join()
    made.check()
    return made.result


def contradiction(path: str, condition: str) -> FlexInferError:
    """The error of a model for which ggml would have ended the process, or of too little memory."""
    if _OUT_OF_MEMORY.search(condition):
        return refused_to_library(f"{path}: llama.cpp gave up, {condition}")
    return ModelFileError(
        f"{path}: llama.cpp cannot run this model, {condition}; its "
        "metadata and its tensors contradict each other, fetch or convert the model again"
    )


def _condition(message: str) -> str:
    match = _MESSAGE.fullmatch(message)
    found = f"{match['what']} at {match['place']}" if match else message
    return " ".join(found.split())
