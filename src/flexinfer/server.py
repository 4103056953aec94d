"""`flexinfer.Server`: llama.cpp's server inside a budget, as a child of this process."""

from __future__ import annotations

import json
import os
import sys
import weakref
from collections.abc import Callable, Sequence
from http.client import HTTPConnection, HTTPException
from types import TracebackType
from typing import Any, NoReturn
from urllib.parse import urlsplit

from flexinfer.engine.process_one import end_as_process_one
from flexinfer.errors import EngineError, RequestError, UnsupportedError
from flexinfer.kinds import path as path_of
from flexinfer.kinds import plain
from flexinfer.serve.child import Child
from flexinfer.serve.said import named_error
from flexinfer.sizes import parse_size

_KEY = "FLEXINFER_API_KEY"
# A pass over a model much larger than memory may have to end first.
_ANSWER_SECONDS = 600
_CLEAR_LINE = "\r\x1b[K"
_QUIET = ("-lv", "1")
_CLOSED = "the server is closed; start another one"


class Server:
    """`flexinfer serve` for as long as this object: it ends with it, and with this process.

        with Server("model.gguf", memory="3GiB", slots=4) as server:
            client = openai.OpenAI(base_url=server.url + "/v1", api_key=server.api_key or "-")

    Args:
        model: a GGUF file, or hf:user/repo[:quant|:file].
        memory: budget of the server's process, as "6GiB" or "50%"; None: what is available.
        slots: requests answered together, or "auto".
        port: 0: one that is free.
        api_key: requests have to bring it, or one of several between commas; by default that of
            ``FLEXINFER_API_KEY``.
        flags: of llama.cpp's own server, as docs/serve.md lists them.
        on_progress: called with each line that the server says while it starts, in this thread; by
            default they are shown where standard error is a terminal.
        options: others of `flexinfer serve`, by name: ``ctx=2048``, ``mmproj="projector.gguf"``.
            What is given several times is a list, a switch True or False.

    Raises:
        FlexInferError: it did not start; the same exceptions as from `flexinfer.Llama`, with the
            server's own sentence.

    Attributes:
        url: where it answers, as ``http://127.0.0.1:41234``.
        api_key: what requests have to bring, of several the first; or None.
        pid: of the server's process.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        memory: int | str | None = None,
        slots: int | str = 1,
        *,
        port: int = 0,
        api_key: str | None = None,
        flags: Sequence[str] = (),
        on_progress: Callable[[str], None] | None = None,
        **options: Any,
    ) -> None:
        path, told = path_of("model", model), plain({"api_key": api_key, "flags": flags})
        on_progress = plain({"on_progress": on_progress})["on_progress"]
        if isinstance(memory, str) and memory != "auto" and not memory.rstrip().endswith("%"):
            parse_size(memory)
        keys = told["api_key"] or os.environ.get(_KEY) or ""
        # llama.cpp's server takes several between commas.
        self.api_key = next((key for key in keys.split(",") if key), None)
        given = {"memory": memory, "slots": slots, "port": port}
        if isinstance(flags, str):
            raise RequestError(f'flags={flags!r}: give a list, as ["--temp", "0.5"]')
        verbosity = () if {"-lv", "--verbosity", "--log-verbosity"} & set(told["flags"]) else _QUIET
        # Not among the arguments: those every user of the machine can see.
        environment = {_KEY: keys} if keys else {}
        # None of the first three is a switch.
        words = [f"--{name}={value}" for name, value in given.items() if value is not None]
        arguments = [*words, *_words(options), "--", path, *verbosity, *told["flags"]]
        shown = _Shown() if on_progress is None else None
        end_as_process_one()
        try:
            self._child = Child(arguments, environment, on_progress or shown)  # type: ignore[arg-type]
        finally:
            if shown is not None:
                shown.clear()
        self.url = str(self._child.ready["address"])
        self.pid = self._child.pid
        self._closed = False
        self._finalizer = weakref.finalize(self, self._child.end)

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"pid {self.pid}" if self._child.alive else "ended"
        return f"<Server {self.url} {state}>"

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise UnsupportedError(
            "a server cannot be copied or pickled; give another process its url and api_key"
        )

    def plan(self) -> dict[str, Any]:
        """What stays in memory, what streams and how fast that is; slots and their context."""
        return self._ask("GET", "/engine/plan")

    def stats(self) -> dict[str, Any]:
        """Passes, bytes read, seconds computed and waited, memory by purpose."""
        return self._ask("GET", "/engine/stats")

    @property
    def memory(self) -> int:
        """The budget of the server's process in bytes; 0: none. Another one may be set.

        Raises:
            SizeError: what is set is no size.
            BudgetError: it is too small for what the server holds; the old one is kept.
        """
        return int(self.stats()["memory"]["budget"])

    @memory.setter
    def memory(self, budget: int | str) -> None:
        self._ask("POST", "/engine/memory", {"memory": budget})

    def release(self) -> None:
        """Give the memory of all weights back; the next request reads them again."""
        self._ask("POST", "/engine/release", {})

    @property
    def log(self) -> tuple[str, ...]:
        """The last lines that the server wrote to standard error."""
        return self._child.said

    def wait(self, seconds: float | None = None) -> bool:
        """Whether it has ended, at the latest after so many seconds.

        Raises:
            FlexInferError: it has, and not because it was asked to; says why.
            RequestError: `seconds` is no number.
            UnsupportedError: another process started it: only that one is told.
        """
        # What is no number would be waited for without an end.
        if seconds is not None and not (isinstance(seconds, (int, float)) and seconds == seconds):
            raise RequestError(f"{seconds!r} are no seconds; give a number, or None for no limit")
        if not self._child.ours:
            raise UnsupportedError(
                f"process {os.getpid()} did not start the server and cannot wait for its end; "
                "have the one that did wait"
            )
        if not self._child.wait(seconds):
            return False
        if self._child.status and not self._closed:
            raise self._child.failure()
        return True

    def close(self) -> None:
        """End the server: requests under way get an error. May be called again."""
        self._closed = True
        self._finalizer()

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        if self._closed:
            raise EngineError(_CLOSED)
        address = urlsplit(self.url)
        assert address.hostname is not None
        headers: dict[str, str | bytes] = {"Content-Type": "application/json"}
        headers["Connection"] = "close"
        if self.api_key is not None:
            # Letters beyond Latin-1 go as what the server was given: their bytes.
            headers["Authorization"] = f"Bearer {self.api_key}".encode("utf-8", "surrogateescape")
        connection = HTTPConnection(address.hostname, address.port, timeout=_ANSWER_SECONDS)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, headers)
            answer = connection.getresponse()
            document = json.loads(answer.read())
        except TypeError as error:
            raise RequestError(f"{body} cannot be sent: {error}") from error
        except (OSError, HTTPException, ValueError) as error:
            if self._closed:
                raise EngineError(_CLOSED) from error
            if self._child.ours and self._child.wait(1):
                raise self._child.failure() from error
            raise EngineError(f"{self.url}{path} cannot be asked: {error}") from error
        finally:
            connection.close()
        if answer.status != 200:
            said = document["error"]
            raise named_error(said.get("raised"), said["message"])
        return dict(document)


def _words(options: dict[str, Any]) -> list[str]:
    """Options as the command line has them."""
    words = []
    for name, value in options.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif value is not None:
            each = value if isinstance(value, (list, tuple)) else (value,)
            words += [f"--{option}={part}" for part in each]
    return words


class _Shown:
    """Lines of a start, each over the one before, where standard error is a terminal."""

    def __init__(self) -> None:
        self._stream = sys.stderr if sys.stderr is not None and sys.stderr.isatty() else None

    def __call__(self, line: str) -> None:
        if self._stream is not None:
            self._stream.write(f"{_CLEAR_LINE}{line[:79]}")
            self._stream.flush()

    def clear(self) -> None:
        if self._stream is not None:
            self._stream.write(_CLEAR_LINE)
            self._stream.flush()
