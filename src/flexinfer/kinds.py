"""Arguments that callers give, by kind: each as Python's own value of it, or refused by name."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

from flexinfer.errors import RequestError
from flexinfer.gguf.catalogue import Catalogue
from flexinfer.text import shown_value

INT32 = 2**31 - 1
# The most that ggml's backend of the processor starts (``GGML_MAX_N_THREADS``).
_MAX_THREADS = 512
# Arguments that are whole numbers, and their bounds.
WHOLE: dict[str, tuple[float, float]] = {
    "n_ctx": (0, INT32),
    "n_batch": (1, INT32),
    "n_ubatch": (0, INT32),
    "min_ctx": (0, INT32),
    "n_threads": (-1, _MAX_THREADS),
    "n_threads_batch": (-1, _MAX_THREADS),
    "last_n_tokens_size": (0, INT32),
    "seed": (-math.inf, math.inf),
    "rope_scaling_type": (-1, 3),
    "pooling_type": (-1, 4),
    "attention_type": (-1, 1),
    "yarn_orig_ctx": (0, INT32),
    "numa": (0, 4),
}
_SWITCHES = (
    *("vocab_only", "use_mmap", "use_mlock", "logits_all", "embedding", "offload_kqv", "repack"),
    *("flash_attn", "op_offload", "swa_full", "no_perf", "spm_infill", "verbose"),
)
_OTHER_WHOLE = ("type_k", "type_v", "split_mode", "main_gpu")
# Those for which None means what leaving them out does.
_OPTIONAL = frozenset(
    {"n_threads", "n_threads_batch", "seed", "rope_scaling_type", "type_k", "type_v"}
)


def plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` as plain values: the parent hands them to libraries that take no others.

    Raises:
        RequestError: a value of another kind, or a number that llama.cpp would not survive, or
            misread; names the argument.
    """
    return {
        name: _READ[name](name, value) if name in _READ else value
        for name, value in options.items()
    }


def check_whole(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> None:
    """Raise `RequestError` unless `value` is a whole number from `least` to `most`."""
    if not isinstance(value, Integral):
        raise RequestError(f"{name} is {shown_value(value)}; give a whole number")
    if not least <= int(value) <= most:
        bounds = f"from {least:,}" + (f" to {most:,}" if most < math.inf else "")
        raise RequestError(f"{name} is {shown_value(value)}; give a number {bounds}")


def path(name: str, value: Any, wanted: str = "a path") -> str:
    """`value` as the text of a path.

    Raises:
        RequestError: it is none; says what is `wanted`.
    """
    try:
        return os.fsdecode(value)
    except TypeError as error:
        raise _wrong(name, value, wanted) from error


def _switch(name: str, value: Any) -> bool | None:
    if value is None:
        return None
    given = _own(value)
    if not isinstance(given, Integral):
        raise _wrong(name, value, "True or False")
    return bool(given)


def _whole(name: str, value: Any) -> int | None:
    if value is None and name in _OPTIONAL:
        return None
    given = _own(value)
    check_whole(name, given, *WHOLE.get(name, ()))
    return int(given)


def _layers(name: str, value: Any) -> int | None:
    return 0 if value is None else _whole(name, value)


def _size(name: str, value: Any) -> str | int | None:
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if value is None or isinstance(value, (str, Real, Decimal)):
        return value  # type: ignore[return-value]  # whatever is no size is told as one
    raise _wrong(name, value, "a size, as 6GiB, 6GB or 6144M")


def _optional_path(name: str, value: Any) -> str | None:
    return None if value is None else path(name, value)


def _text(name: str, value: Any) -> str | None:
    return None if value is None else _word(name, value)


def _list(name: str, value: Any, one: Callable[[str, Any], str]) -> tuple[str, ...]:
    if value is None or (isinstance(value, str) and not value):
        return ()
    if isinstance(value, (str, bytes, os.PathLike)):
        return (one(name, value),)
    if not isinstance(value, Iterable) or isinstance(value, Mapping):
        raise _wrong(name, value, "a list of texts")
    return tuple(one(name, each) for each in value)


def _numbers(name: str, value: Any) -> list[float] | None:
    if value is None:
        return None
    listed = _own(value)
    if not isinstance(listed, (list, tuple)) or not all(isinstance(each, Real) for each in listed):
        raise _wrong(name, value, "a list of numbers")
    return [float(each) for each in listed]


def _word(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(name, value, "a text")
    return value


def _overrides(name: str, value: Any) -> Mapping[str, Any] | None:
    if value is not None and not isinstance(value, Mapping):
        raise _wrong(name, value, "keys and values")
    return value


def _catalogue(name: str, value: Any) -> Catalogue | None:
    if value is not None and not isinstance(value, Catalogue):
        raise _wrong(name, value, "what read_catalogue() returns")
    return value


def _call(name: str, value: Any) -> Any:
    if not callable(value):
        raise _wrong(name, value, "a function")
    return value


def _optional_call(name: str, value: Any) -> Any:
    return None if value is None else _call(name, value)


def _own(value: Any) -> Any:
    """What numpy has instead of Python's own values, as those; plans do without numpy."""
    return value.tolist() if hasattr(value, "tolist") else value


def _wrong(name: str, value: Any, wanted: str) -> RequestError:
    return RequestError(f"{name} is {shown_value(value)}; give {wanted}")


_READ: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(_SWITCHES, _switch),
    **dict.fromkeys((*WHOLE, *_OTHER_WHOLE), _whole),
    "n_gpu_layers": _layers,
    **dict.fromkeys(("memory", "weight_memory", "window"), _size),
    **dict.fromkeys(("lora_path", "lora_base"), _optional_path),
    **dict.fromkeys(("on_move", "on_lost"), _call),
    "draft": lambda name, value: path(name, value, "off, ngram, auto or the path of a GGUF file"),
    "model": lambda name, value: value if isinstance(value, Catalogue) else path(name, value),
    **dict.fromkeys(("chat_format", "api_key"), _text),
    "on_progress": _optional_call,
    **dict.fromkeys(("rpc", "flags"), lambda name, value: _list(name, value, _word)),
    "mirrors": lambda name, value: _list(name, value, path),
    "tensor_split": _numbers,
    "kv_overrides": _overrides,
    "catalogue": _catalogue,
}
