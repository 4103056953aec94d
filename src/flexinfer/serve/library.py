"""The compiled server: found beside this file, checked against the installed binding, called."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from ctypes import CFUNCTYPE, c_bool, c_char_p, c_int, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any, Protocol

import llama_cpp.llama_cpp as binding

from flexinfer.errors import EngineError, RequestError, UnsupportedError
from flexinfer.native.built import open_built, sources

LIBRARY = Path(__file__).with_name("libflexinfer-server.so")

# What a pass that could not be computed comes to, and is not tried again.
FAILED = -3
# Instead of a number of tokens, and of a number of bytes: the text is not read.
_NO_TOKENS, _NO_STACK = -(2**31), -1

_Load = CFUNCTYPE(c_void_p, c_char_p, binding.llama_model_params)
_Create = CFUNCTYPE(c_void_p, c_void_p, binding.llama_context_params)
_Free = CFUNCTYPE(None, c_void_p)
_Process = CFUNCTYPE(c_int32, c_void_p, c_int, c_void_p)
_Tokenize = CFUNCTYPE(c_int32, c_void_p, c_void_p, c_int32, c_void_p, c_int32, c_bool, c_bool)
_StackFor = CFUNCTYPE(c_int64, c_void_p, c_int64)
_Failed = CFUNCTYPE(None, c_int32)
_Ready = CFUNCTYPE(c_int64, c_int64)
_Length = CFUNCTYPE(c_int64, c_int64, c_int64, c_int64)
_Verified = CFUNCTYPE(None, c_int64, c_int64)
_Answer = CFUNCTYPE(None, c_char_p, c_char_p, c_void_p)


def own_tokenize() -> Any:
    """The binding's ``llama_tokenize``, with addresses instead of arrays."""
    return _Tokenize(ctypes.cast(binding.llama_tokenize, c_void_p).value or 0)


class _Hooks(ctypes.Structure):
    """``struct flexinfer_hooks`` of ``server-build/our-hooks.h``."""

    _fields_ = (
        ("load", _Load),
        ("create", _Create),
        ("free_model", _Free),
        ("process", _Process),
        ("tokenize", _Tokenize),
        ("stack_for", _StackFor),
        ("tokenize_media", c_void_p),
        ("decode_media", c_void_p),
        ("failed", _Failed),
        ("draft_length", _Length),
        ("verified", _Verified),
        ("ready", _Ready),
        ("answer", _Answer),
        ("routes", c_char_p),
        ("body_bytes", c_int64),
        ("receive_bytes", c_int64),
        ("request_bytes", c_int64),
        ("text_bytes", c_int64),
        ("pixel_bytes", c_int64),
        ("threads", c_int64),
        ("probability_bytes", c_int64),
        ("context", c_int64),
        ("slots", c_int64),
        ("late_drafts", c_int64),
    )


class Host(Protocol):
    """Who answers what the server asks; nothing that it raises reaches the server."""

    def load(self, path: str, params: Any) -> int | None:
        """Load a model; None when it cannot be."""

    def create(self, model: int, params: Any) -> int | None:
        """Create a context of a model; None when it cannot be."""

    def free(self, model: int) -> None:
        """Free a model."""

    def process(self, context: int, kind: int, batch: int) -> int:
        """Decode or encode a batch; llama.cpp's status of it."""

    def tokenize(self, vocabulary: int, text: int, length: int, *rest: int) -> int:
        """As ``llama_tokenize``, with addresses.

        Raises:
            RequestError: the text may not be read.
        """

    def stack_for(self, text: int, length: int) -> int:
        """The stack in bytes that the text at this address needs beside a projector, or 0.

        Raises:
            RequestError: the text may not be read.
        """

    def failed(self, status: int) -> str:
        """What to tell the requests whose pass failed, asked in the thread that ran it."""

    def draft_length(self, slots: int, drafted: int, microseconds: int) -> int:
        """How many tokens each of `slots` may draft; what the last draft had and took."""

    def verified(self, drafted: int, accepted: int) -> None:
        """The pass over a slot's draft is over."""

    def ready(self, port: int) -> bool:
        """Everything is loaded; whether to serve."""

    def answer(self, route: str, body: str) -> tuple[int, str, str]:
        """Status, content type and text for one of `routes`."""


class ServerLibrary:
    """llama.cpp's server in this process.

    Raises:
        UnsupportedError: it was not built, or from another version than is installed.
    """

    def __init__(self) -> None:
        # Its dependencies by path: nothing else may be found under their names.
        media = Path(binding.__file__).parent / "lib" / "libmtmd.so.0"
        self._native = open_built(LIBRARY, "server", "flexinfer_source", [media])
        self._media = ctypes.CDLL(str(media))
        self._native.flexinfer_reply.argtypes = [c_void_p, c_int, c_char_p, c_char_p]
        self._native.flexinfer_reply.restype = None
        self._kept: list[Any] = []

    @property
    def tls(self) -> bool:
        """Whether it was built with what encrypts connections."""
        return bool(self._native.flexinfer_tls())

    def require_tls(self) -> None:
        """Raise `UnsupportedError` where connections cannot be encrypted."""
        if not self.tls:
            raise UnsupportedError(
                "this server was built without TLS, since OpenSSL was not there to be linked in; "
                "install its headers and static libraries (Debian: libssl-dev) and run `flexinfer "
                "serve --build`, or put a proxy that speaks TLS before it"
            )

    def connect(self, host: Host, routes: Sequence[str], limits: dict[str, int]) -> None:
        """Have the server ask `host`; `limits` are the integers among the hooks."""
        hooks = _Hooks.in_dll(self._native, "flexinfer_hooks")
        calls = {
            "load": _Load(_guarded(lambda path, params: host.load(os.fsdecode(path), params))),
            "create": _Create(_guarded(host.create)),
            "free_model": _Free(_guarded(host.free)),
            "process": _Process(_guarded(host.process, FAILED)),
            "tokenize": _Tokenize(self._refusing(host.tokenize, _NO_TOKENS)),
            "stack_for": _StackFor(self._refusing(host.stack_for, _NO_STACK)),
            "failed": _Failed(_guarded(lambda status: self._fail(host.failed(status)))),
            "draft_length": _Length(_guarded(host.draft_length, 0)),
            "verified": _Verified(_guarded(host.verified)),
            "ready": _Ready(_guarded(lambda port: 0 if host.ready(port) else 1, 1)),
            "answer": _Answer(_guarded(lambda *asked: self._answer(host, *asked))),
        }
        for name, call in calls.items():
            setattr(hooks, name, call)
        hooks.tokenize_media = _address(self._media.mtmd_tokenize)
        hooks.decode_media = _address(self._media.mtmd_helper_bitmap_init_from_buf)
        hooks.routes = "\n".join(routes).encode()
        for name, limit in limits.items():
            setattr(hooks, name, limit)
        self._kept = [calls, hooks]

    def run(self, arguments: Sequence[str]) -> int:
        """Serve until `stop`; returns what llama-server would exit with."""
        encoded = [os.fsencode(argument) for argument in ("llama-server", *arguments)]
        array = (c_char_p * (len(encoded) + 1))(*encoded, None)
        return int(self._native.flexinfer_server(len(encoded), array))

    def stop(self) -> None:
        """End requests with an error and have `run` return; may be called from any thread."""
        self._native.flexinfer_stop()

    def _fail(self, sentence: str) -> None:
        self._native.flexinfer_fail(sentence.encode())

    def _refusing(self, call: Callable[..., int], refused: int) -> Callable[..., Any]:
        """`call`, of whose refusals the server is told in words."""

        def refusing(*arguments: Any) -> int:
            try:
                return call(*arguments)
            except RequestError as error:
                self._native.flexinfer_refuse(str(error).encode())
                return refused

        return _guarded(refusing, refused)

    def _answer(self, host: Host, route: bytes, body: bytes, reply: int) -> None:
        status, kind, text = host.answer(route.decode(), body.decode("utf-8", "replace"))
        self._native.flexinfer_reply(reply, status, kind.encode(), text.encode())


def _address(function: Any) -> int | None:
    return ctypes.cast(function, c_void_p).value


def _guarded(call: Callable[..., Any], failed: Any = None) -> Callable[..., Any]:
    """`call`, whose exceptions have nowhere to go in C: they are reported as any thread's are."""

    def guarded(*arguments: Any) -> Any:
        try:
            return call(*arguments)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            return failed

    return guarded


def build(folder: Path) -> None:
    """Compile the server, working in `folder`.

    Raises:
        UnsupportedError: the installation lacks what it is built from.
        EngineError: the build failed; says why.
    """
    source = sources()
    if source is None:
        raise UnsupportedError("this installation has no server-build; install flexinfer by pip")
    command = [sys.executable, str(source / "build.py"), str(folder), str(LIBRARY.parents[1])]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise EngineError(done.stderr.strip())
