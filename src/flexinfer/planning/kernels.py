"""The two exact sets of kernels that a model can be computed with, and whose bits each gives."""

from __future__ import annotations

from enum import Enum


class Kernels(str, Enum):
    """One for a whole model; weights of types without packed kernels are as in the file in both."""

    PACKED = "packed"  # rows interleaved, as llama.cpp repacks them by default
    PLAIN = "plain"  # as in the file

    @property
    def reference(self) -> str:
        """What gives the same bits with all weights in memory."""
        return "stock llama.cpp" if self is Kernels.PACKED else "llama.cpp --no-repack"
