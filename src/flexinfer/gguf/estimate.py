"""What a model needs, from its header alone: weights as a graph will use them, costs of contexts.

`flexinfer plan` decides with it before a model is opened, or even downloaded. Opening the model
measures the same things: there the names below play no part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flexinfer.errors import RequestError
from flexinfer.gguf.as_weight import (
    BLOCK,
    GROWTH,
    as_weight,
    encoded_bytes,
    gathered_bytes,
    looked_up_bytes,
)
from flexinfer.gguf.catalogue import Catalogue
from flexinfer.gguf.heads import trunk_of
from flexinfer.gguf.types import QUANT_TYPES, TensorInfo
from flexinfer.planning.plan import Costs, CostsOf
from flexinfer.planning.weights import Use, Weight

# Interpreter, library and command line: anonymous bytes before a model is opened.
PROCESS = 33 << 20
# llama.cpp's vocabulary in memory, by token.
_TOKEN_BYTES = 115
# llama.cpp rounds a context up to a multiple of so many tokens.
_CONTEXT_STEP = 256
_F32_BYTES = 4
# Vectors as wide as the model that are alive at a time beside the attention scores.
_LIVE_VECTORS = 7
# ggml type numbers of the KV cache types that llama.cpp takes.
KV_TYPES = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7}
_Q8_0 = KV_TYPES["q8_0"]
_NEEDS_FLASH_ATTENTION = {"q8_0", "q4_0", "q4_1", "q5_0", "q5_1"}
# Tables that `GET_ROWS` reads.
_TABLES = ("token_embd.weight", "position_embd.weight", "token_types.weight")


def needs_flash_attention(kv_type: str) -> bool:
    """Whether llama.cpp has this KV cache type only with flash attention."""
    return kv_type in _NEEDS_FLASH_ATTENTION


def kv_types(
    type_k: int | None, type_v: int | None, flash_attention: bool | None
) -> tuple[int, int]:
    """ggml's numbers of the types of K and V; f16 for None.

    Raises:
        RequestError: llama.cpp has no such cache, or not without flash attention.
    """
    kinds = tuple(KV_TYPES["f16"] if kind is None else kind for kind in (type_k, type_v))
    names = {number: name for name, number in KV_TYPES.items()}
    for kind in kinds:
        if kind not in names:
            known = ", ".join(f"{number} ({name})" for number, name in names.items())
            raise RequestError(f"there is no KV cache of type {kind}; take one of {known}")
    if needs_flash_attention(names[kinds[1]]) and flash_attention is False:
        raise RequestError(
            f"values of type {names[kinds[1]]} need flash attention; give flash_attn=True"
        )
    return kinds[0], kinds[1]


def estimate_weights(catalogue: Catalogue, threads: int) -> list[Weight]:
    """All weights, in about the order in which a graph first uses them.

    `threads` decide where rows may be cut without changing a bit.
    """
    ordered = sorted(trunk_of(catalogue).tensors, key=_place)
    groups = {layer: group for group, layer in enumerate(_expert_layers(catalogue))}
    return [_weight(catalogue, info, threads, groups) for info in ordered]


def estimate_costs(
    catalogue: Catalogue, kv_types: tuple[int, int] = (1, 1), *, flash_attention: bool = False
) -> CostsOf:
    """Costs in bytes of contexts of (tokens, tokens of a ubatch).

    `kv_types` are ggml's numbers of the types of K and V.
    Sliding windows of attention are not taken off: what comes out is then too much.
    """
    shape = _Shape.of(trunk_of(catalogue), kv_types)
    tables = [info for info in catalogue.tensors if info.name in _TABLES]
    experts = [info for info in catalogue.tensors if _use(catalogue, info) is Use.EXPERTS]
    base = PROCESS + GROWTH + _TOKEN_BYTES * shape.vocabulary
    encodes = any(info.name.startswith("enc.") for info in catalogue.tensors)

    def costs(ctx: int, ubatch: int) -> Costs:
        rows, gathered = looked_up_bytes(tables, ubatch), gathered_bytes(experts, ubatch)
        encoded = encoded_bytes(shape.vocabulary, shape.width, ubatch) if encodes else 0
        work = ubatch * shape.work_bytes(ctx, flash_attention)
        return Costs(
            overhead=base + work + rows + gathered,
            kv=shape.kv_bytes(ctx) + encoded,
            compute=ubatch * shape.activation_bytes(ctx, flash_attention),
        )

    return costs


@dataclass(frozen=True)
class _Shape:
    """What the size of a context depends on.

    Attributes:
        width, ffn: elements of a token between layers, and inside of a feed-forward network.
        heads: of attention.
        vocabulary: tokens.
        kv_row: bytes of K and V of one position in all layers.
        state: bytes of recurrent states in all layers.
    """

    width: int
    ffn: int
    heads: int
    vocabulary: int
    kv_row: int
    state: int

    @classmethod
    def of(cls, catalogue: Catalogue, kv_types: tuple[int, int]) -> _Shape:
        width = _integer(catalogue, "embedding_length", 4096)
        embedding = catalogue.get("token_embd.weight")
        kv_row, state = 0, 0
        for layer in _layers(catalogue).values():
            keys, values = _kv_widths(catalogue, layer)
            kv_row += _bytes(kv_types[0], keys) + _bytes(kv_types[1], values)
            state += _state_bytes(catalogue, layer)
        return cls(
            width=width,
            ffn=_integer(catalogue, "feed_forward_length", 3 * width),
            heads=_integer(catalogue, "attention.head_count", max(width // 128, 1)),
            vocabulary=embedding.rows if embedding else 0,
            kv_row=kv_row,
            state=state,
        )

    def kv_bytes(self, ctx: int) -> int:
        """KV cache, recurrent states, and the logits that llama.cpp hands out."""
        padded = -(-ctx // _CONTEXT_STEP) * _CONTEXT_STEP
        return padded * self.kv_row + self.state + _F32_BYTES * self.vocabulary

    def activation_bytes(self, ctx: int, flash: bool) -> int:
        """Bytes of compute buffers for one token of a ubatch: logits or attention, what is larger.

        Fitted to what ggml's allocator asks for; see the test that compares the two.
        """
        logits = _F32_BYTES * (self.vocabulary + 2 * max(self.width, self.ffn))
        # The mask, in f16 for flash attention; without it one row of scores a head as well.
        scores = 2 * ctx if flash else _F32_BYTES * (self.heads + 1) * ctx
        return max(logits, scores + _LIVE_VECTORS * _F32_BYTES * self.width)

    def work_bytes(self, ctx: int, flash: bool) -> int:
        """Bytes of the processor backend's own buffer for one token of a ubatch.

        Rows of activations as quantised weights are multiplied with, and in f16 for attention.
        """
        quantised = _bytes(_Q8_0, max(self.width, self.ffn))
        return quantised if flash else max(quantised, 2 * self.heads * ctx)


def _place(info: TensorInfo) -> tuple[int, int]:
    """Embeddings, blocks by number, what comes after them."""
    block = BLOCK.search(info.name)
    if block:
        return 1, int(block[1])
    return (2, 0) if info.name.startswith("output") else (0, 0)


def _weight(
    catalogue: Catalogue, info: TensorInfo, threads: int, groups: Mapping[int, int]
) -> Weight:
    use = _use(catalogue, info)
    if use is not Use.EXPERTS:
        return as_weight(info, use, threads)
    block = BLOCK.search(info.name)
    return as_weight(
        info,
        use,
        threads,
        experts=info.shape[2],
        used=_integer(catalogue, "expert_used_count", 1),
        group=groups[int(block[1]) if block else 0],
    )


def _use(catalogue: Catalogue, info: TensorInfo) -> Use:
    if info.name in _TABLES:
        tied = info.name == _TABLES[0] and catalogue.get("output.weight") is None
        return Use.MATMUL if tied else Use.ROWS
    if "_exps." in info.name and len(info.shape) == 3 and info.name.endswith(".weight"):
        return Use.EXPERTS
    is_matrix = len(info.shape) == 2 and info.name.endswith(".weight")
    return Use.MATMUL if is_matrix and ".ssm_conv1d" not in info.name else Use.WHOLE


def _expert_layers(catalogue: Catalogue) -> list[int]:
    blocks = (BLOCK.search(info.name) for info in catalogue.tensors if "_exps." in info.name)
    return sorted({int(block[1]) for block in blocks if block})


def _layers(catalogue: Catalogue) -> dict[int, dict[str, TensorInfo]]:
    layers: dict[int, dict[str, TensorInfo]] = {}
    for info in catalogue.tensors:
        block = BLOCK.search(info.name)
        if block:
            layers.setdefault(int(block[1]), {})[block[2]] = info
    return layers


def _kv_widths(catalogue: Catalogue, layer: dict[str, TensorInfo]) -> tuple[int, int]:
    """Elements of K and V for one position in one layer, from the shapes of its projections."""
    if "attn_kv_a_mqa" in layer:
        # Latent attention keeps one compressed vector, which is both.
        return layer["attn_kv_a_mqa"].rows, 0
    if "attn_qkv" in layer and "attn_output" in layer:
        both = layer["attn_qkv"].rows - layer["attn_output"].shape[0]
        return both // 2, both // 2
    if "attn_k" not in layer:
        return 0, 0
    keys = layer["attn_k"].rows
    return keys, layer["attn_v"].rows if "attn_v" in layer else keys


def _state_bytes(catalogue: Catalogue, layer: dict[str, TensorInfo]) -> int:
    """Bytes of the recurrent state of one layer, in f32."""
    if not any(role.startswith("ssm_") for role in layer):
        return 0
    inner = _integer(catalogue, "ssm.inner_size", 0)
    state = _integer(catalogue, "ssm.state_size", 0)
    groups = _integer(catalogue, "ssm.group_count", 0)
    taps = max(_integer(catalogue, "ssm.conv_kernel", 1) - 1, 0)
    return _F32_BYTES * (taps * (inner + 2 * groups * state) + inner * state)


def _bytes(kind: int, elements: int) -> int:
    quant = QUANT_TYPES[kind]
    return elements * quant.nbytes // quant.block


def _integer(catalogue: Catalogue, key: str, default: int) -> int:
    """A parameter that is one number; some models have a list, one entry a layer."""
    value = catalogue.parameter(key)
    return value if isinstance(value, int) else default
