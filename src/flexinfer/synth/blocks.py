"""Random blocks of each quantisation: random bytes, with scales that mean something put over them.

Every block has mean zero in expectation: quants of q4_0 alone average -0.5, which makes all tokens
look alike after a few layers. Block layouts: ``ggml-common.h`` of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


def fill(kind: str, blocks: Bytes, scale: float, mean: float = 0.0) -> None:
    """Turn random bytes, one block a row, into blocks whose values have the RMS `scale`.

    `mean` is for f32 only.
    """
    if kind == "f32":
        _f32(blocks, scale, mean)
    else:
        _FILLERS[kind](blocks, scale)


def _f32(blocks: Bytes, scale: float, mean: float) -> None:
    noise = blocks.reshape(-1).view(np.uint32) / np.float64(1 << 31) - 1.0
    blocks.reshape(-1).view(np.float32)[:] = mean + noise * (scale * 3**0.5)


def _float16(blocks: Bytes, scale: float) -> None:
    _two_octaves(blocks, scale, mantissa=10, bias=15)


def _bfloat16(blocks: Bytes, scale: float) -> None:
    _two_octaves(blocks, scale, mantissa=7, bias=127)


def _two_octaves(blocks: Bytes, scale: float, mantissa: int, bias: int) -> None:
    # Sign, mantissa and the lowest bit of the exponent stay random: magnitudes in [1, 4) times a
    # power of two, with an RMS of sqrt(35/6).
    exponent = round(float(np.log2(scale / (35 / 6) ** 0.5))) + bias
    bits = blocks.reshape(-1).view(np.uint16)
    bits &= np.uint16(0x8000 | (1 << (mantissa + 1)) - 1)
    bits += np.uint16(exponent << mantissa)


def _q4_0(blocks: Bytes, scale: float) -> None:
    # (q - 8) over 0..15 has the mean square 21.5.
    _put(blocks, 0, _signed(blocks[:, 0], scale / 21.5**0.5))


def _q8_0(blocks: Bytes, scale: float) -> None:
    # -128..127: mean square (2^16 - 1) / 12 + 1/4.
    _put(blocks, 0, _signed(blocks[:, 0], scale / 73.9))


def _q4_k(blocks: Bytes, scale: float) -> None:
    # value = d * s * q - dmin * m, with a 6-bit s and m for each 32 values. m = s and
    # dmin = 7.5 d give the mean zero. s = 32 + four random bits, eight times: the low four
    # bits of the last four s and m share a byte, their high two stand above the first four.
    first = (blocks[:, 4:8] & 0x0F) | np.uint8(0xA0)
    last = blocks[:, 8:12] & 0x0F
    blocks[:, 4:8] = first
    blocks[:, 8:12] = first
    blocks[:, 12:16] = last | last << 4
    # s over 32..47: mean square 1581.5; (q - 7.5): 21.25.
    d = _signed(blocks[:, 0], scale / (1581.5 * 21.25) ** 0.5)
    _put(blocks, 0, d)
    _put(blocks, 2, (7.5 * d.astype(np.float32)).astype(np.float16))


def _q6_k(blocks: Bytes, scale: float) -> None:
    # value = d * s * (q - 32), a signed s for each 16 values: 64..127 with a random sign.
    scales = blocks[:, 192:208]
    signs = (scales & 0x80) != 0
    sizes = ((scales & 0x3F) | np.uint8(0x40)).view(np.int8)
    blocks[:, 192:208] = np.where(signs, -sizes, sizes).view(np.uint8)
    # s: mean square 9461.5; (q - 32) over 0..63: 341.5.
    d = np.full(len(blocks), scale / (9461.5 * 341.5) ** 0.5, np.float16)
    _put(blocks, 208, d)


def _signed(random: Bytes, size: float) -> NDArray[np.float16]:
    """`size` with the sign in the top bit of each random byte, one that no quant shares."""
    bits = np.uint16(np.float16(size).view(np.uint16))
    signed: NDArray[np.uint16] = (random.astype(np.uint16) & 0x80) << 8 | bits
    return signed.view(np.float16)


def _put(blocks: Bytes, at: int, values: NDArray[Any]) -> None:
    blocks[:, at : at + 2] = values.view(np.uint8).reshape(-1, 2)


_FILLERS: dict[str, Callable[[Bytes, float], None]] = {
    "q4_0": _q4_0,
    "q4_K": _q4_k,
    "q6_K": _q6_k,
    "q8_0": _q8_0,
    "f16": _float16,
    "bf16": _bfloat16,
}
QUANTS = tuple(_FILLERS)
