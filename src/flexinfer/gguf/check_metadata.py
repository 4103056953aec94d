"""What llama.cpp aborts the process for instead of failing: checked before it sees the model.

Limits and conditions are those of `src/llama-model.cpp` and `src/llama-hparams.h` (ggml 0.25.3).
"""

from __future__ import annotations

import re
from typing import Any

from flexinfer.errors import ModelFileError
from flexinfer.gguf.catalogue import Catalogue

_MAX_LAYERS = 512
_MAX_EXPERTS = 1024
_MAX_U32 = 2**32 - 1
# llama.cpp adds the size of a batch to it in 32 bits.
_MAX_SLIDING_WINDOW = 1 << 30
_EPSILONS = tuple(
    f"attention.{name}_epsilon" for name in ("layer_norm", "layer_norm_rms", "group_norm")
)
_QUERIES = re.compile(r"blk\.\d+\.attn_(q|qkv)\.weight")
# Tensors of a block that llama.cpp loads one by one and reads together: all of them, or none.
_TOGETHER = {
    "phi3": ("attn_q.weight", "attn_k.weight", "attn_v.weight"),
    "qwen35": ("attn_qkv.weight", "attn_gate.weight"),
    "nemotron_h": ("ssm_conv1d.weight", "ssm_conv1d.bias"),
    "glm-dsa": ("indexer.attn_k.weight", "indexer.attn_q_b.weight"),
}
# Encoders of which one layer in so many attends to everything, by default; there has to be one.
_WIDE_LAYERS = {"modern-bert": 3, "gemma-embedding": 6}
# Names of `tokenizer.ggml.model`; source: `src/llama-vocab.cpp`.
_VOCABULARIES = frozenset(
    (
        *("no_vocab", "none", "llama", "bert", "gpt2", "hybriddna", "whitespace", "t5", "rwkv"),
        *("test", "plamo2", "gemma4"),
    )
)
# They take a number of experts of one or none for none.
_ONE_IS_NONE = frozenset({"hunyuan_vl", "hunyuan-dense"})


def check_parameters(catalogue: Catalogue) -> None:
    """Raise for metadata that would end the process, or that llama.cpp does not know.

    Raises:
        ModelFileError: the key and its value.
    """
    _check_vocabulary(catalogue)
    _check_epsilons(catalogue)
    _check_temperature(catalogue)
    _check_heads(catalogue)
    _require(catalogue, "attention.sliding_window", None, 0, _MAX_SLIDING_WINDOW)
    layers = _number(catalogue, "block_count")
    if layers is not None:
        _require(catalogue, "block_count", layers, 1, _MAX_LAYERS)
        _require(catalogue, "nextn_predict_layers", None, 0, layers)
        _check_companions(catalogue, layers)
        _check_wide_layer(catalogue, layers)
    experts = _number(catalogue, "expert_count") or 0
    _require(catalogue, "expert_count", experts, 0, _MAX_EXPERTS)
    if catalogue.architecture in _ONE_IS_NONE and experts <= 1:
        return
    used = _largest(catalogue.parameter("expert_used_count", 0))
    _require(catalogue, "expert_used_count", used, 1 if experts else 0, experts)
    if not experts:
        _require(catalogue, "expert_group_count", None, 0, 0)
    else:
        groups = _number(catalogue, "expert_group_count") or 0
        _require(catalogue, "expert_group_count", groups, 0, experts - 1)
        if groups > 1 and experts % groups:
            raise ModelFileError(
                f"{catalogue.paths[0]}: {experts} experts do not divide into {groups} groups; "
                "fetch or convert the model again"
            )
        if groups > 1:
            _require(catalogue, "expert_group_used_count", None, 1, groups)


def _check_vocabulary(catalogue: Catalogue) -> None:
    name = catalogue.metadata.get("tokenizer.ggml.model")
    # A list is no member of anything.
    if name is not None and not (isinstance(name, str) and name in _VOCABULARIES):
        raise ModelFileError(
            f"{catalogue.paths[0]}: llama.cpp has no vocabulary of the kind {str(name)[:40]!r} "
            "(tokenizer.ggml.model); convert the model again, or take a later version of flexinfer"
        )


def _check_epsilons(catalogue: Catalogue) -> None:
    for key in _EPSILONS:
        epsilon = catalogue.parameter(key, 0.0)
        if not (isinstance(epsilon, (int, float)) and epsilon >= 0):
            raise ModelFileError(
                f"{catalogue.paths[0]}: {catalogue.architecture}.{key} is {epsilon}, not a number "
                "from 0; fetch or convert the model again"
            )


def _check_temperature(catalogue: Catalogue) -> None:
    """DeepSeek 2 divides positions by this length as soon as it scales at all."""
    scale = catalogue.parameter("attention.temperature_scale", 0.0)
    if catalogue.architecture == "deepseek2" and scale != 0:
        _require(catalogue, "attention.temperature_length", None, 1, _MAX_U32)


def _check_heads(catalogue: Catalogue) -> None:
    """Some architectures divide the width of attention by this number without a look at it.

    Those that mix attention with other layers have one for each layer, some of them 0.
    """
    heads = catalogue.parameter("attention.head_count", 0)
    if heads == 0 and any(_QUERIES.fullmatch(tensor.name) for tensor in catalogue.tensors):
        _require(catalogue, "attention.head_count", 0, 1, _MAX_U32)


def _check_companions(catalogue: Catalogue, layers: int) -> None:
    together = _TOGETHER.get(catalogue.architecture)
    if together is None:
        return
    names = {tensor.name for tensor in catalogue.tensors}
    for layer in range(layers):
        found = [f"blk.{layer}.{part}" in names for part in together]
        if any(found) and not all(found):
            missing = together[found.index(False)]
            raise ModelFileError(
                f"{catalogue.paths[0]}: blk.{layer}.{missing} is missing beside "
                f"{together[found.index(True)]}; fetch or convert the model again"
            )


def _check_wide_layer(catalogue: Catalogue, layers: int) -> None:
    default = _WIDE_LAYERS.get(catalogue.architecture)
    pattern = catalogue.parameter("attention.sliding_window_pattern", default)
    if default is not None and isinstance(pattern, int):
        _require(catalogue, "attention.sliding_window_pattern", pattern, 1, layers)


def _require(catalogue: Catalogue, key: str, value: int | None, least: int, most: int) -> None:
    found = value if value is not None else _number(catalogue, key) or 0
    if not least <= found <= most:
        raise ModelFileError(
            f"{catalogue.paths[0]}: {catalogue.architecture}.{key} is {found}, "
            f"not between {least} and {most}; fetch or convert the model again"
        )


def _number(catalogue: Catalogue, key: str) -> int | None:
    value = catalogue.parameter(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _largest(value: Any) -> int:
    """A number, or the largest of one for each layer."""
    numbers = value if isinstance(value, (list, tuple)) else [value]
    return max((number for number in numbers if isinstance(number, int)), default=0)
