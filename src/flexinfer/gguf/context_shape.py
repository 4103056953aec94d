"""What the size of a context depends on: what a token takes in its caches and buffers."""

from __future__ import annotations

from dataclasses import dataclass

from flexinfer.gguf.as_weight import BLOCK
from flexinfer.gguf.catalogue import Catalogue
from flexinfer.gguf.types import QUANT_TYPES, TensorInfo

# llama.cpp rounds a context up to a multiple of so many tokens.
_CONTEXT_STEP = 256
_F32_BYTES = 4
# ggml's number of the type that activations are multiplied in.
_Q8_0 = 8
# Vectors as wide as the model that are alive at a time: beside attention scores, beside the inside
# of a feed-forward network, beside logits.
_BESIDE_SCORES, _BESIDE_FFN, _BESIDE_LOGITS = 7, 8, 5

Layer = dict[str, TensorInfo]


@dataclass(frozen=True)
class ContextShape:
    """What the size of a context depends on.

    Attributes:
        width, ffn: elements of a token between layers, and inside of a feed-forward network.
        inside: elements alive at a time inside of a layer's feed-forward networks, experts or not.
        queries: elements of a token's queries.
        heads: of attention.
        vocabulary: tokens.
        kv_row: bytes of K and V of one position in all layers.
        state: bytes of recurrent states in all layers.
        masks: of attention, each of all cells.
        plain: all layers are attention over rows of K and V and a feed-forward network.
    """

    width: int
    ffn: int
    inside: int
    queries: int
    heads: int
    vocabulary: int
    kv_row: int
    state: int
    masks: int
    plain: bool

    @classmethod
    def of(cls, catalogue: Catalogue, kv_types: tuple[int, int]) -> ContextShape:
        width = integer(catalogue, "embedding_length", 4096)
        embedding = catalogue.get("token_embd.weight")
        layers = list(_layers(catalogue).values())
        kv_row, state = 0, 0
        for layer in layers:
            keys, values = _kv_widths(catalogue, layer)
            kv_row += _bytes(kv_types[0], keys) + _bytes(kv_types[1], values)
            state += _state_bytes(catalogue, layer)
        used = integer(catalogue, "expert_used_count", 1)
        return cls(
            width=width,
            ffn=integer(catalogue, "feed_forward_length", 3 * width),
            inside=max((_inside(layer, used) for layer in layers), default=0),
            queries=max((layer["attn_q"].rows for layer in layers if "attn_q" in layer), default=0),
            heads=integer(catalogue, "attention.head_count", max(width // 128, 1)),
            vocabulary=embedding.rows if embedding else 0,
            kv_row=kv_row,
            state=state,
            masks=1 if catalogue.parameter("attention.sliding_window") is None else 2,
            plain=all(_is_plain(layer) for layer in layers),
        )

    def kv_bytes(self, ctx: int, sequences: int) -> int:
        """KV cache, recurrent states, and the logits that llama.cpp hands out."""
        padded = -(-ctx // _CONTEXT_STEP) * _CONTEXT_STEP
        return padded * self.kv_row + self.state + _F32_BYTES * self.vocabulary * sequences

    def compute_bytes(self, ctx: int, ubatch: int, outputs: int, *, flash: bool) -> int:
        """Bytes of compute buffers: of logits, or of one layer, whichever are larger.

        Fitted to what ggml's allocator asks for; see the test that compares the two. What is alive
        in layers of other kinds is not known: as if all tokens had logits.
        """
        rows = outputs if self.plain else ubatch
        mask = self.masks * (2 if flash else _F32_BYTES) * ctx
        widest = max(self.width, self.queries)
        scores = (0 if flash else self.heads * ctx) + _BESIDE_SCORES * widest
        layer = max(scores, self.inside + _BESIDE_FFN * self.width)
        logits = self.vocabulary + _BESIDE_LOGITS * self.width
        return ubatch * mask + _F32_BYTES * max(rows * logits, ubatch * layer)

    def work_bytes(self, ctx: int, flash: bool) -> int:
        """Bytes of the processor backend's own buffer for one token of a ubatch.

        Rows of activations as quantised weights are multiplied with, and in f16 for attention.
        """
        quantised = _bytes(_Q8_0, max(self.width, self.ffn))
        return quantised if flash else max(quantised, 2 * self.heads * ctx)


def integer(catalogue: Catalogue, key: str, default: int) -> int:
    """A parameter that is one number; some models have a list, one entry a layer."""
    value = catalogue.parameter(key)
    return value if isinstance(value, int) else default


def _inside(layer: Layer, used: int) -> int:
    """Elements of a token that are alive inside of a layer's feed-forward networks."""
    dense = [layer[role].rows for role in ("ffn_up", "ffn_up_shexp") if role in layer]
    experts = 0
    for role in ("ffn_up_exps", "ffn_gate_up_exps"):
        if role in layer and len(layer[role].shape) == 3:
            width, rows, _ = layer[role].shape
            experts = used * (width + max(width, 2 * rows))
    return max(2 * max(dense, default=0), experts)


def _is_plain(layer: Layer) -> bool:
    others = ("ssm_", "time_mix_", "shortconv", "attn_kv_a", "inp_gate")
    attends = "attn_k" in layer or "attn_qkv" in layer
    return attends and not any(role.startswith(others) for role in layer)


def _layers(catalogue: Catalogue) -> dict[int, Layer]:
    layers: dict[int, Layer] = {}
    for info in catalogue.tensors:
        block = BLOCK.search(info.name)
        if block:
            layers.setdefault(int(block[1]), {})[block[2]] = info
    return layers


def _kv_widths(catalogue: Catalogue, layer: Layer) -> tuple[int, int]:
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


def _state_bytes(catalogue: Catalogue, layer: Layer) -> int:
    """Bytes of the recurrent state of one layer, in f32."""
    if not any(role.startswith("ssm_") for role in layer):
        return 0
    inner = integer(catalogue, "ssm.inner_size", 0)
    state = integer(catalogue, "ssm.state_size", 0)
    groups = integer(catalogue, "ssm.group_count", 0)
    taps = max(integer(catalogue, "ssm.conv_kernel", 1) - 1, 0)
    return _F32_BYTES * (taps * (inner + 2 * groups * state) + inner * state)


def _bytes(kind: int, elements: int) -> int:
    quant = QUANT_TYPES[kind]
    return elements * quant.nbytes // quant.block
