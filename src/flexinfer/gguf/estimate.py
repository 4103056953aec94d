"""What a model needs, from its header alone: weights as a graph will use them, costs of contexts.

`flexinfer plan` decides with it before a model is opened, or even downloaded. Opening the model
measures the same things: there the names below play no part.
"""

from __future__ import annotations

from collections.abc import Mapping

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
from flexinfer.gguf.context_shape import ContextShape, integer
from flexinfer.gguf.heads import trunk_of
from flexinfer.gguf.types import ArrayValue, TensorInfo
from flexinfer.planning.plan import Costs, CostsOf
from flexinfer.planning.weights import Use, Weight

# Interpreter, library and command line: anonymous bytes before a model is opened.
PROCESS = 35 << 20
# llama.cpp's vocabulary in memory, by token, and by merge where it has some: strings, and two hash
# tables with strings as keys. Measured with vocabularies of 49,152 to 262,144 tokens.
_TOKEN_BYTES = 175
_MERGE_BYTES = 145
# ggml type numbers of the KV cache types that llama.cpp takes.
KV_TYPES = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7}
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
    catalogue: Catalogue,
    kv_types: tuple[int, int] = (1, 1),
    *,
    flash_attention: bool = False,
    sequences: int = 1,
    outputs: int | None = None,
    process: int = PROCESS,
) -> CostsOf:
    """Costs in bytes of contexts of (tokens, tokens of a ubatch).

    Sliding windows of attention are not taken off: what comes out is then too much.

    Args:
        kv_types: ggml's numbers of the types of K and V.
        sequences: that the context holds.
        outputs: tokens of a ubatch that have logits at most; None: all of them.
        process: anonymous bytes before a model is opened.
    """
    shape = ContextShape.of(trunk_of(catalogue), kv_types)
    tables = [info for info in catalogue.tensors if info.name in _TABLES]
    experts = [info for info in catalogue.tensors if _use(catalogue, info) is Use.EXPERTS]
    base = process + GROWTH + _TOKEN_BYTES * shape.vocabulary + _MERGE_BYTES * _merges(catalogue)
    encodes = any(info.name.startswith("enc.") for info in catalogue.tensors)

    def costs(ctx: int, ubatch: int) -> Costs:
        rows, gathered = looked_up_bytes(tables, ubatch), gathered_bytes(experts, ubatch)
        encoded = encoded_bytes(shape.vocabulary, shape.width, ubatch) if encodes else 0
        work = ubatch * shape.work_bytes(ctx, flash_attention)
        logits = ubatch if outputs is None else min(outputs, ubatch)
        return Costs(
            overhead=base + work + rows + gathered,
            kv=shape.kv_bytes(ctx, sequences) + encoded,
            compute=shape.compute_bytes(ctx, ubatch, logits, flash=flash_attention),
        )

    return costs


def _merges(catalogue: Catalogue) -> int:
    merges = catalogue.metadata.get("tokenizer.ggml.merges")
    return merges.length if isinstance(merges, ArrayValue) else 0


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
        used=integer(catalogue, "expert_used_count", 1),
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
