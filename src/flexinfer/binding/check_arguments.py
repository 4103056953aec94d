"""Arguments of `flexinfer.Llama` that llama.cpp would not survive, or that nobody has."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import llama_cpp

from flexinfer.binding.check_request import check_fraction
from flexinfer.errors import RequestError
from flexinfer.gguf.catalogue import Catalogue
from flexinfer.gguf.estimate import KV_TYPES, needs_flash_attention

# Arguments that the parent no longer has but takes; code that is copied around still gives them.
_FORMER = frozenset({"f16_kv", "low_vram", "mul_mat_q", "n_gqa", "n_parts", "rms_norm_eps"})
_MAX_KEY = 128
_FRACTIONS = (
    *("rope_freq_base", "rope_freq_scale", "yarn_ext_factor", "yarn_attn_factor"),
    *("yarn_beta_fast", "yarn_beta_slow", "lora_scale"),
)


# What the parent calls, or asks for a method, only once an answer is under way.
_COLLABORATORS = {
    "draft_model": ("__call__", "an object that drafts, or draft= a name or a file"),
    "chat_handler": ("__call__", "a chat handler"),
    "tokenizer": ("tokenize", "a tokenizer"),
}


def check_arguments(options: Mapping[str, Any], own: Iterable[str]) -> None:
    """Raise for an argument that does not exist, or a number that is none for it.

    Raises:
        TypeError: neither the parent nor `own` has such an argument.
        RequestError: llama.cpp would not survive the number, or misread it.
    """
    _check_names(options, own)
    _check_numbers(options)
    for name, (method, wanted) in _COLLABORATORS.items():
        given = options.get(name)
        if given is not None and not hasattr(given, method):
            raise RequestError(f"{name} is {given!r}; give {wanted}")


def _check_names(options: Mapping[str, Any], own: Iterable[str]) -> None:
    known = {*_parameters(llama_cpp.Llama.__init__), *own} - {"self", "kwargs"}
    for name in options:
        if name not in known | _FORMER:
            near = difflib.get_close_matches(name, sorted(known), 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise TypeError(f"there is no argument {name!r}{meant}")


def _check_numbers(options: Mapping[str, Any]) -> None:
    for name in _FRACTIONS:
        if name in options:
            check_fraction(name, options[name])
    _check_cache_types(options)


def _check_cache_types(options: Mapping[str, Any]) -> None:
    names = {number: name for name, number in KV_TYPES.items()}
    for name in ("type_k", "type_v"):
        kind = options.get(name)
        if kind is not None and kind not in names:
            known = ", ".join(f"{number} ({text})" for number, text in names.items())
            raise RequestError(f"{name}={kind!r} is no type of a KV cache; take one of {known}")
    values = names[options.get("type_v") or KV_TYPES["f16"]]
    if needs_flash_attention(values) and options.get("flash_attn", False) is False:
        raise RequestError(f"type_v={KV_TYPES[values]} ({values}) needs flash_attn=True")


def overridden(catalogue: Catalogue, overrides: Any) -> Catalogue:
    """The catalogue as llama.cpp sees it through ``kv_overrides``.

    Raises:
        RequestError: a key or a value that cannot override anything.
    """
    if not overrides:
        return catalogue
    if not isinstance(overrides, Mapping):
        raise RequestError(f"kv_overrides is {overrides!r}; give keys and values")
    for key, value in overrides.items():
        if not isinstance(key, str) or len(key.encode()) >= _MAX_KEY:
            raise RequestError(f"kv_overrides has the key {key!r}; give texts of at most 127 bytes")
        if not isinstance(value, (bool, int, float, str)):
            raise RequestError(f"kv_overrides: {key} is {value!r}; give a number, a text or a bool")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise RequestError(f"kv_overrides: {key} is {value}; give a number of 64 bits")
    return replace(catalogue, metadata={**catalogue.metadata, **overrides})


def _parameters(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters)
