"""Where a worker is: a host and a port, as people write them."""

from __future__ import annotations

from collections.abc import Iterable

from flexinfer.errors import RequestError

# As many as ggml keeps in its lists of devices, this machine being one of them.
_MOST = 15


def read_endpoints(wanted: str | Iterable[str]) -> tuple[str, ...]:
    """The endpoints in a text with commas, or in several texts, each as ``host:port``.

    Raises:
        RequestError: one cannot be read, is named twice, or there are too many.
    """
    texts = [wanted] if isinstance(wanted, str) else list(wanted)
    found = [_read(part.strip()) for text in texts for part in str(text).split(",")]
    twice = {endpoint for endpoint in found if found.count(endpoint) > 1}
    if twice:
        raise RequestError(f"worker {sorted(twice)[0]} is named twice; name each once")
    if len(found) > _MOST:
        raise RequestError(f"{len(found)} workers are named; llama.cpp takes at most {_MOST}")
    return tuple(found)


def _read(text: str) -> str:
    host, _, port = text.rpartition(":")
    if (
        not host
        or ":" in host
        or not (port.isascii() and port.isdecimal())
        or not 0 < int(port) < 1 << 16
    ):
        raise RequestError(f"{text!r} names no worker; write host:port, as 192.168.1.20:50052")
    return f"{host}:{int(port)}"


def host_and_port(endpoint: str) -> tuple[str, int]:
    """Both parts of an endpoint that was read."""
    host, _, port = endpoint.rpartition(":")
    return host, int(port)


def plain_over(rpc: Iterable[str], repack: bool | None) -> bool | None:
    """What was asked for as `repack`; plain kernels where workers compute, which have no others.

    Raises:
        RequestError: packed ones were asked for beside workers.
    """
    if not tuple(rpc):
        return repack
    if repack:
        raise RequestError("workers compute with plain kernels; leave out --repack, repack=True")
    return False
