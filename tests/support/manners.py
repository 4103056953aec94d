"""Clients without manners: they come and stay silent, write or read slowly, lie, or just leave."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from support.drawn_requests import KEY

_HEAD = (
    "POST /completion HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    f"Authorization: Bearer {KEY}\r\n"
)
_LONG = json.dumps({"prompt": "ROMEO:", "n_predict": 100, "stream": True, "ignore_eos": True})
_PLENTY = "a" * (1 << 20)


def _asked(body: str, length: object = None) -> bytes:
    return (
        f"{_HEAD}Content-Length: {len(body) if length is None else length}\r\n\r\n{body}".encode()
    )


# What each sends; then it waits, and reads nothing.
SENT: dict[str, bytes] = {
    "nothing": b"",
    "half a line": b"POST /compl",
    "half a header": _HEAD.encode(),
    "half a body": _asked('{"prompt": ', 500),
    "a stream that nobody reads": _asked(_LONG),
    "many requests at once": _asked(_LONG) * 20,
    "a header of a megabyte": f"{_HEAD}X-Long: {_PLENTY}\r\n\r\n".encode(),
    "ten thousand headers": (_HEAD + "X-Many: 1\r\n" * 10_000 + "\r\n").encode(),
    "an address of a megabyte": f"GET /{_PLENTY} HTTP/1.1\r\n\r\n".encode(),
    "a body of eight megabytes": _asked(json.dumps({"prompt": _PLENTY * 8})),
    "a body without an end": f"{_HEAD}Content-Length: {10**18}\r\n\r\n{_PLENTY}".encode(),
    "a negative length": _asked("{}", -5),
    "no number as length": _asked("{}", "many"),
    "two lengths": (_HEAD + "Content-Length: 2\r\nContent-Length: 9\r\n\r\n{}").encode(),
    "half a chunk": (_HEAD + "Transfer-Encoding: chunked\r\n\r\nff\r\n{").encode(),
    "a chunk of no size": (_HEAD + "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}").encode(),
    "chunks and a length": (
        _HEAD + "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    ).encode(),
    "another protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    "zeros": bytes(4096),
}


@contextmanager
def impolite(port: int, sent: bytes, clients: int) -> Iterator[None]:
    """So many clients that send this and wait, until the end."""
    with ExitStack() as stack:
        for _ in range(clients):
            _send(stack.enter_context(_connected(port)), sent)
        yield


@contextmanager
def trickling(port: int, clients: int) -> Iterator[None]:
    """So many clients that send a request byte by byte, and come to no end."""
    over = threading.Event()
    with ExitStack() as stack:
        sockets = [stack.enter_context(_connected(port)) for _ in range(clients)]

        def trickle() -> None:
            for byte in itertools.chain(_HEAD.encode(), itertools.cycle(b"X: 1\r\n")):
                for connection in sockets:
                    _send(connection, bytes((byte,)))
                if over.wait(0.5):
                    return

        thread = threading.Thread(target=trickle, daemon=True)
        thread.start()
        yield
        over.set()
        thread.join()


def leave(port: int, sent: bytes) -> None:
    """Send this and reset the connection."""
    with _connected(port) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        _send(connection, sent)


def _connected(port: int) -> socket.socket:
    connection = socket.socket()
    # What is not read stays with the server.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(5)
    connection.connect(("127.0.0.1", port))
    return connection


def _send(connection: socket.socket, sent: bytes) -> None:
    with contextlib.suppress(OSError):  # the server has heard enough
        connection.sendall(sent)
