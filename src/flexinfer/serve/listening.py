"""Where a server may listen: the port is tried before anything is loaded."""

from __future__ import annotations

import errno
import socket

from flexinfer.errors import RequestError


def check_port(hosts: str, port: int) -> None:
    """Raise `RequestError` where one of `hosts`, by commas, has that port taken or is not here."""
    for host in hosts.split(","):
        if host.endswith(".sock"):
            continue
        try:
            family, kind, _, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            with socket.socket(family, kind) as tried:
                # As the server does: one that ended a moment ago is not in the way.
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tried.bind(address)
                tried.listen()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise RequestError(
                    f"port {port} of {host} is taken; give another --port, or 0 for any free one"
                ) from error
            raise RequestError(
                f"{host} cannot be listened on at port {port}: {error.strerror or error}; give "
                "another --host or --port"
            ) from error
