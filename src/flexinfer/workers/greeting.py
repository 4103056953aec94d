"""Asking a worker who it is and what memory it has: a few messages of llama.cpp's RPC protocol.

In Python, with limits of time, before anything native connects: the first to meet a worker that is
not there, is busy or is something else. Message layouts are those of ``ggml-rpc.cpp``.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from flexinfer.errors import WorkerError
from flexinfer.workers.endpoint import host_and_port

_HELLO, _DEVICE_COUNT, _DEVICE_MEMORY = 14, 15, 11
_CAPABILITIES = 24
# RPC_PROTO_MAJOR_VERSION of the pinned ggml-rpc.h.
_PROTOCOL = 7
# Larger than any answer to what is asked here.
_LARGEST = 64
# Seconds for each message.
_PATIENCE = 5.0
# What our workers send back while they serve somebody else, see `server-build/rpc`.
_PING = b"\xf1"


@dataclass(frozen=True)
class Worker:
    """A worker as it answered; memory in bytes."""

    endpoint: str
    free: int
    total: int


def greet(endpoint: str, patience: float = _PATIENCE) -> Worker:
    """The worker at that endpoint.

    Args:
        patience: seconds for each answer.

    Raises:
        WorkerError: nobody answers there within that time, or not as a worker of this version.
    """
    try:
        with socket.create_connection(host_and_port(endpoint), timeout=patience) as connection:
            talk = _Talk(connection)
            version = talk.ask(_HELLO, bytes(_CAPABILITIES))
            if version[0] != _PROTOCOL:
                raise WorkerError(
                    f"worker {endpoint} speaks version {version[0]} of llama.cpp's protocol, this "
                    f"one {_PROTOCOL}; install the same flexinfer on both machines"
                )
            if struct.unpack("<I", talk.ask(_DEVICE_COUNT, b""))[0] < 1:
                raise WorkerError(f"worker {endpoint} has no device")
            memory = talk.ask(_DEVICE_MEMORY, struct.pack("<I", 0))
            return Worker(endpoint, *struct.unpack("<QQ", memory))
    except TimeoutError as error:
        raise WorkerError(_silent(endpoint, patience)) from error
    except (OSError, EOFError, struct.error, IndexError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise WorkerError(
            f"no worker answers at {endpoint}: {why.lower()}; start one there with "
            "`flexinfer worker`"
        ) from error


def _silent(endpoint: str, patience: float) -> str:
    try:
        with socket.create_connection(host_and_port(endpoint), timeout=patience) as connection:
            connection.sendall(_PING * 2)
            if connection.recv(1) == _PING:
                return f"worker {endpoint} serves another client; ask again when that is done"
    except OSError:
        pass
    return f"worker {endpoint} has not answered for {patience:.0f} s"


class _Talk:
    """Requests and answers over one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def ask(self, command: int, content: bytes) -> bytes:
        self._connection.sendall(struct.pack("<BQ", command, len(content)) + content)
        (size,) = struct.unpack("<Q", self._receive(8))
        if size > _LARGEST:
            raise EOFError("what answers is no worker")
        return self._receive(size)

    def _receive(self, size: int) -> bytes:
        received = b""
        while len(received) < size:
            part = self._connection.recv(size - len(received))
            if not part:
                raise EOFError("the connection was closed")
            received += part
        return received
