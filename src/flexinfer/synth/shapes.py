"""Shapes of the models that can be made, and the tensors that a shape consists of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from flexinfer.gguf.types import QUANT_TYPES, QuantType

_F32, _Q6_K = QUANT_TYPES[0], QUANT_TYPES[14]


@dataclass(frozen=True)
class Shape:
    """A decoder of the llama family, of qwen3's when queries and keys are normed, or of qwen3moe's.

    `ffn` is the width of one expert where there are experts. `embedding` is the spread of the token
    embeddings: large against what the layers add, so that routing follows the token and does not
    collapse to the same few experts in every layer.
    """

    layers: int
    width: int
    ffn: int
    heads: int
    kv_heads: int
    vocabulary: int
    head_size: int
    context: int = 4096
    rope_base: float = 10000.0
    experts: int = 0
    experts_used: int = 0
    tied: bool = False
    qk_norm: bool = False
    embedding: float = 1.0

    @property
    def architecture(self) -> str:
        if self.experts:
            return "qwen3moe"
        return "qwen3" if self.qk_norm else "llama"


PRESETS: dict[str, Shape] = {
    "llama2-7b": Shape(32, 4096, 11008, 32, 32, 32000, 128),
    "llama2-13b": Shape(40, 5120, 13824, 40, 40, 32000, 128),
    "llama2-70b": Shape(80, 8192, 28672, 64, 8, 32000, 128),
    "llama3-8b": Shape(32, 4096, 14336, 32, 8, 128256, 128, context=8192, rope_base=5e5),
    "llama3-1b": Shape(16, 2048, 8192, 32, 8, 128256, 64, context=8192, rope_base=5e5, tied=True),
    "qwen3-8b": Shape(
        36, 4096, 12288, 32, 8, 151936, 128, context=40960, rope_base=1e6, qk_norm=True
    ),
    "codellama-34b": Shape(48, 8192, 22016, 64, 8, 32000, 128, context=16384, rope_base=1e6),
    "qwen3-30b-a3b": Shape(
        48,
        2048,
        768,
        32,
        4,
        151936,
        128,
        context=40960,
        rope_base=1e6,
        experts=128,
        experts_used=8,
        qk_norm=True,
        embedding=100.0,
    ),
    "tinyllama-1.1b": Shape(22, 2048, 5632, 32, 4, 32000, 64, context=2048),
    "tiny-llama": Shape(4, 256, 768, 4, 2, 2048, 64),
    "tiny-qwen": Shape(4, 256, 768, 4, 2, 2048, 64, qk_norm=True),
    "tiny-tied": Shape(4, 256, 768, 4, 4, 2048, 64, tied=True),
    "tiny-wide": Shape(3, 256, 512, 4, 2, 32000, 64),
    "tiny-moe": Shape(
        4, 256, 256, 4, 2, 2048, 64, experts=16, experts_used=4, qk_norm=True, embedding=8.0
    ),
}


@dataclass(frozen=True)
class RandomWeight:
    """A tensor to be written; `shape` is in ggml's order, `scale` the spread of its values.

    With `mean` 1 it is a norm: values near 1. `blank` is a row of zeros.
    """

    name: str
    type: QuantType
    shape: tuple[int, ...]
    scale: float
    mean: float = 0.0
    blank: int | None = None

    @property
    def rows(self) -> int:
        rows = 1
        for n in self.shape[1:]:
            rows *= n
        return rows

    @property
    def row_bytes(self) -> int:
        return self.shape[0] // self.type.block * self.type.nbytes

    @property
    def nbytes(self) -> int:
        return self.rows * self.row_bytes


def weights(shape: Shape, quant: QuantType, blank: int | None = None) -> list[RandomWeight]:
    """All tensors of a model in the order of the file; row `blank` of the output is zero."""
    # As llama-quantize does: the output in q6_K where the rest has about 4 bits.
    best = _Q6_K if quant.name in ("q4_0", "q4_K") else quant
    vocabulary = (shape.width, shape.vocabulary)
    embedding = RandomWeight(
        "token_embd.weight",
        best if shape.tied else quant,
        vocabulary,
        shape.width**-0.5 if shape.tied else shape.embedding,
        blank=blank if shape.tied else None,
    )
    found = [embedding]
    for layer in range(shape.layers):
        found += _layer(shape, quant, f"blk.{layer}.")
    found.append(_norm("output_norm.weight", shape.width))
    if not shape.tied:
        found.append(
            RandomWeight("output.weight", best, vocabulary, shape.width**-0.5, blank=blank)
        )
    return found


def _layer(shape: Shape, quant: QuantType, prefix: str) -> Iterator[RandomWeight]:
    def matrix(name: str, *dims: int) -> RandomWeight:
        return RandomWeight(f"{prefix}{name}.weight", quant, dims, dims[0] ** -0.5)

    width, ffn = shape.width, shape.ffn
    q, kv = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    yield _norm(f"{prefix}attn_norm.weight", width)
    yield matrix("attn_q", width, q)
    yield matrix("attn_k", width, kv)
    yield matrix("attn_v", width, kv)
    yield matrix("attn_output", q, width)
    if shape.qk_norm:
        yield _norm(f"{prefix}attn_q_norm.weight", shape.head_size)
        yield _norm(f"{prefix}attn_k_norm.weight", shape.head_size)
    yield _norm(f"{prefix}ffn_norm.weight", width)
    if not shape.experts:
        yield matrix("ffn_gate", width, ffn)
        yield matrix("ffn_up", width, ffn)
        yield matrix("ffn_down", ffn, width)
        return
    yield RandomWeight(f"{prefix}ffn_gate_inp.weight", _F32, (width, shape.experts), width**-0.5)
    yield matrix("ffn_gate_exps", width, ffn, shape.experts)
    yield matrix("ffn_up_exps", width, ffn, shape.experts)
    yield matrix("ffn_down_exps", ffn, width, shape.experts)


def _norm(name: str, width: int) -> RandomWeight:
    return RandomWeight(name, _F32, (width,), 0.05, mean=1.0)
