"""Endpoints as people write them."""

from __future__ import annotations

import pytest

from flexinfer.errors import RequestError
from flexinfer.workers.endpoint import host_and_port, plain_over, read_endpoints


def test_one_text_or_several() -> None:
    assert read_endpoints("a:1, b.example:50052") == ("a:1", "b.example:50052")
    assert read_endpoints(["a:1,b:2", "10.0.0.3:3"]) == ("a:1", "b:2", "10.0.0.3:3")
    assert host_and_port("b.example:50052") == ("b.example", 50052)


@pytest.mark.parametrize(
    "text", ["a", "a:", ":1", "a:0", "a:65536", "a:x", "a:1:2", "::1:5", "a:1,", "a:-1", "a:٣"]
)
def test_what_names_no_worker(text: str) -> None:
    with pytest.raises(RequestError, match=r"names no worker; write host:port"):
        read_endpoints(text)


def test_named_twice_or_too_many() -> None:
    with pytest.raises(RequestError, match="a:1 is named twice"):
        read_endpoints("a:1,b:1,a:01")
    with pytest.raises(RequestError, match="16 workers are named"):
        read_endpoints(f"a:{port}" for port in range(1, 17))


def test_kernels_beside_workers() -> None:
    assert plain_over((), repack=True) is True
    assert plain_over((), repack=None) is None
    assert plain_over(("a:1",), repack=None) is False
    with pytest.raises(RequestError, match="workers compute with plain kernels"):
        plain_over(("a:1",), repack=True)
