"""Whether this processor has kernels for packed weights."""

from __future__ import annotations

import pytest

from flexinfer.native.packing import packer


def require_packed_kernels() -> None:
    """Skip where ggml has none."""
    if packer() is None:
        pytest.skip("this processor's ggml has no packed kernels")
