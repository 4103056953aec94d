"""A serving process as a child of this one: started, listened to, and ended with its parent."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flexinfer.errors import EngineError, FlexInferError, RequestError
from flexinfer.own_python import own_python
from flexinfer.serve.said import Lines, named_error

_PROGRAM = "sys.argv[0] = 'flexinfer'; from flexinfer.cli.main import main; main()"
# A server that is told to end does so within two seconds.
_END_SECONDS = 10
_KEPT_LINES = 50
_USAGE = 2
_OPEN: weakref.WeakSet[Child] = weakref.WeakSet()


class Child:
    """`flexinfer serve --json` with these arguments, once it is ready.

    Args:
        arguments: of the command; what is for llama.cpp's server stands behind ``--``.
        environment: variables beside this process's own.
        on_line: called with each line that it says until it is ready, in this thread.

    Raises:
        FlexInferError: it did not start; the server's own sentence.

    Attributes:
        ready: the document that it said when it was ready.
    """

    def __init__(
        self,
        arguments: Sequence[str | os.PathLike[str]],
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
    ) -> None:
        self._owner = os.getpid()
        self._ending = threading.Lock()
        self._said: deque[str] = deque(maxlen=_KEPT_LINES)
        self._documents = Lines(lambda line: None)
        self._log = Lines(self._said.append)
        theirs, ours = os.pipe()
        # Whose last copy is closed with this process, however that ends.
        self._hold: int | None = ours
        try:
            self._process = _start(arguments, environment, theirs)
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        _OPEN.add(self)
        self._listening = threading.Thread(
            target=self._listen, name="flexinfer-server-log", daemon=True
        )
        self.ready: dict[str, Any] = {}
        try:
            self._await_ready(on_line)
            self._listening.start()
        except BaseException:
            self.end()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ours(self) -> bool:
        """This process started it: another one that was forked from it did not."""
        return self._owner == os.getpid()

    @property
    def alive(self) -> bool:
        if self.ours:
            return self._process.poll() is None
        # Whoever is not its parent is not told what it ended with.
        return Path(f"/proc/{self.pid}").exists()

    @property
    def said(self) -> tuple[str, ...]:
        """The last lines of its log."""
        return tuple(self._said)

    @property
    def status(self) -> int | None:
        """What it ended with; minus the number of a signal that ended it."""
        return self._process.poll()

    def wait(self, seconds: float | None = None) -> bool:
        """Whether it has ended, at the latest after so long."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def failure(self) -> FlexInferError:
        """Why it has ended, as the exception that the server itself raised."""
        self._process.wait()
        if self._listening.is_alive():
            self._listening.join(_END_SECONDS)
        error = self._documents.found("error")
        if error is not None:
            return named_error(error.get("raised"), str(error.get("message")), self.said)
        status = self._process.returncode
        ours = [line for line in self.said if line.startswith("flexinfer: ")]
        if ours:
            kind = RequestError if status == _USAGE else EngineError
            return kind(ours[-1].partition(": ")[2])
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        last = f"; it last said: {self.said[-1]}" if self.said else ""
        return EngineError(f"the server ended with {how}{last}; start another one")

    def end(self) -> None:
        """End it in order, by force where that takes long; may be called again."""
        if not self.ours:
            return
        with self._ending:
            self.let_go()
            if not self.wait(_END_SECONDS):
                self._process.kill()
                self._process.wait()
            if self._listening.is_alive():
                self._listening.join(_END_SECONDS)
            for stream in (self._process.stdout, self._process.stderr):
                assert stream is not None
                stream.close()
        _OPEN.discard(self)

    def let_go(self) -> None:
        """Close our end of the pipe, whose last copy keeps the server running."""
        hold, self._hold = self._hold, None
        if hold is not None:
            os.close(hold)

    def _await_ready(self, on_line: Callable[[str], None]) -> None:
        """Read what it says, in this thread, until it is ready or has ended."""

        def said(line: str) -> None:
            self._said.append(line)
            on_line(line)

        log = Lines(said)
        sinks = {self._process.stdout: self._documents, self._process.stderr: log}
        with selectors.DefaultSelector() as both:
            for stream in sinks:
                assert stream is not None
                both.register(stream, selectors.EVENT_READ)
            while both.get_map():
                for key, _ in both.select():
                    if not sinks[key.fileobj].feed(key.fd):  # type: ignore[index]
                        both.unregister(key.fileobj)
                found = self._documents.found("address")
                if found is not None:
                    self.ready = found
                    return
        raise self.failure()

    def _listen(self) -> None:
        """Keep the last lines of its log, read what it says at its end, and reap it."""
        assert self._process.stderr is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            while self._log.feed(self._process.stderr.fileno()):
                pass
            while self._documents.feed(self._process.stdout.fileno()):
                pass
        self._process.wait()


def _start(
    arguments: Sequence[str | os.PathLike[str]], environment: Mapping[str, str], pipe: int
) -> subprocess.Popen[bytes]:
    command = own_python(_PROGRAM, "serve", "--json", "--end-with-fd", str(pipe))
    try:
        return subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(pipe,),
            env=os.environ | dict(environment),
            # Ctrl-C is for the program that asks, not for the server that answers it.
            start_new_session=True,
        )
    except (TypeError, ValueError) as error:
        raise RequestError(f"this cannot be an argument of a server: {error}") from error
    except OSError as error:
        raise EngineError(f"the server could not be started: {error}") from error


def _forked() -> None:
    """A forked process holds no server: else one would outlive the parent that started it."""
    for child in list(_OPEN):
        child.let_go()


os.register_at_fork(after_in_child=_forked)
