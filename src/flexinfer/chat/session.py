"""A conversation in two files: its messages, and beside them its KV cache."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexinfer.errors import RequestError
from flexinfer.whole_file import whole_file

if TYPE_CHECKING:
    from flexinfer.llama import Llama

_VERSION = 1


@dataclass(frozen=True)
class Session:
    """A conversation as it is kept: messages, the tokens they became, whether they are cached."""

    messages: list[dict[str, str]]
    tokens: list[int]
    cached: bool = False


def save_session(llm: Llama, path: Path, session: Session) -> None:
    """Write a session to `path` and the cache beside it; both appear only once complete.

    Raises:
        RequestError: the files cannot be written.
    """
    ids = [int(token) for token in llm.input_ids[: llm.n_tokens]]
    document = {
        "version": _VERSION,
        "model": _fingerprint(llm),
        "messages": session.messages,
        "tokens": session.tokens,
        "cached": ids,
    }
    try:
        if ids:
            llm.save_state_file(_cache_path(path))
        # The cache can be computed again, the messages can not.
        with whole_file(path, durable=True) as partial:
            partial.write_text(json.dumps(document, indent=1), encoding="utf-8")
    except OSError as error:
        raise RequestError(f"the session cannot be written to {path}: {error.strerror}") from error


def load_session(llm: Llama, path: Path) -> Session:
    """The session in a file, its cache taken over into the context of `llm`.

    The cache is left out when it is another model's, larger than the context, or gone: the
    messages are then computed again.

    Raises:
        RequestError: the file is no session.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        messages = [{"role": m["role"], "content": m["content"]} for m in document["messages"]]
        tokens = [int(token) for token in document["tokens"]]
        ids = [int(token) for token in document["cached"]]
        usable = document["version"] == _VERSION and document["model"] == _fingerprint(llm)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{path} is not a session of flexinfer; give another file") from error
    cached = usable and 0 < len(ids) <= llm.n_ctx() and _take_over(llm, ids, path)
    return Session(messages, tokens if usable else [], cached)


def _take_over(llm: Llama, ids: list[int], path: Path) -> bool:
    with contextlib.suppress(RequestError):
        llm.load_state_file(_cache_path(path))
        if [int(token) for token in llm.input_ids[: llm.n_tokens]] == ids:
            return True
        llm.reset()
    return False


def _cache_path(path: Path) -> Path:
    return path.with_name(path.name + ".kv")


def _fingerprint(llm: Llama) -> dict[str, Any]:
    catalogue = llm.catalogue
    return {
        "name": catalogue.name,
        "architecture": catalogue.architecture,
        "sizes": list(catalogue.sizes),
        "kv_types": [llm.context_params.type_k, llm.context_params.type_v],
    }
