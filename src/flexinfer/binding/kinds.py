"""Arguments of `flexinfer.Llama` by kind: each as Python's own value of it, or refused by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

import numpy as np

from flexinfer.binding.check_arguments import WHOLE
from flexinfer.binding.check_request import shown_value
from flexinfer.errors import RequestError
from flexinfer.gguf.catalogue import Catalogue

_SWITCHES = (
    *("vocab_only", "use_mmap", "use_mlock", "logits_all", "embedding", "offload_kqv", "repack"),
    *("flash_attn", "op_offload", "swa_full", "no_perf", "spm_infill", "verbose"),
)
_WHOLE = (*WHOLE, "type_k", "type_v", "split_mode", "main_gpu")
# Those for which None means what leaving them out does.
_OPTIONAL = frozenset(
    {"n_threads", "n_threads_batch", "seed", "rope_scaling_type", "type_k", "type_v"}
)


def plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` as plain values: the parent hands them to libraries that take no others.

    Raises:
        RequestError: a value of another kind; names the argument.
    """
    return {
        name: _READ[name](name, value) if name in _READ else value
        for name, value in options.items()
    }


def path(name: str, value: Any) -> str:
    """`value` as the text of a path.

    Raises:
        RequestError: it is none.
    """
    try:
        return os.fsdecode(value)
    except TypeError as error:
        raise _wrong(name, value, "a path") from error


def _switch(name: str, value: Any) -> bool | None:
    if value is None:
        return None
    if not isinstance(value, (bool, np.bool_, Integral)):
        raise _wrong(name, value, "True or False")
    return bool(value)


def _whole(name: str, value: Any) -> int | None:
    if value is None and name in _OPTIONAL:
        return None
    if not isinstance(value, (Integral, np.bool_)):
        raise _wrong(name, value, "a whole number")
    return int(value)


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
    listed = value.tolist() if isinstance(value, np.ndarray) else value
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


def _wrong(name: str, value: Any, wanted: str) -> RequestError:
    return RequestError(f"{name} is {shown_value(value)}; give {wanted}")


_READ: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(_SWITCHES, _switch),
    **dict.fromkeys(_WHOLE, _whole),
    "n_gpu_layers": _layers,
    **dict.fromkeys(("memory", "weight_memory", "window"), _size),
    **dict.fromkeys(("lora_path", "lora_base"), _optional_path),
    **dict.fromkeys(("on_move", "on_lost"), _call),
    "chat_format": _text,
    "rpc": lambda name, value: _list(name, value, _word),
    "mirrors": lambda name, value: _list(name, value, path),
    "tensor_split": _numbers,
    "kv_overrides": _overrides,
    "catalogue": _catalogue,
}
