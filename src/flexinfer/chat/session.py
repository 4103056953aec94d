"""A conversation in two files: its messages, and beside them its KV cache."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexinfer.errors import BudgetError, RequestError
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


class SessionFile:
    """Where a conversation is kept.

    Args:
        path: of the messages; a link stays one.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.realpath(path))
        # Tokens of the cache that is in the file beside it.
        self._cached: list[int] = []

    def __repr__(self) -> str:
        return f"<SessionFile {self.path}, {len(self._cached)} tokens cached>"

    def check(self) -> None:
        """Raise `RequestError` where a session could not be written later."""
        try:
            # A link that is still one names itself.
            found = self.path.exists() or self.path.is_symlink()
            if found and not self.path.is_file():
                raise RequestError(
                    f"{self.path} is no file that could hold a session; give another"
                )
            # As `whole_file` will, beside the file.
            probe = self.path.with_name(f"{self.path.name}.{secrets.token_hex(4)}.part")
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            probe.unlink()
        except (OSError, ValueError) as error:
            if isinstance(error, RequestError):
                raise
            raise self._unwritten(error) from error

    def note(self, llm: Llama, session: Session) -> None:
        """Write the messages, on the drive for good; the cache stays what it was.

        Raises:
            RequestError: the file cannot be written.
        """
        document = {
            "version": _VERSION,
            "model": _fingerprint(llm),
            "kernels": llm.plan.rates.kernels.value,
            "messages": session.messages,
            "tokens": session.tokens,
            "cached": self._cached,
        }
        try:
            with whole_file(self.path, durable=True) as partial:
                partial.write_text(json.dumps(document, indent=1), encoding="utf-8")
        except OSError as error:
            raise self._unwritten(error) from error

    def save(self, llm: Llama, session: Session) -> None:
        """Write messages and cache; each file appears only once it is complete.

        Raises:
            RequestError: a file cannot be written; the messages are, if they can be.
        """
        ids = [int(token) for token in llm.input_ids[: llm.n_tokens]]
        trouble: Exception | None = None
        if ids:
            try:
                llm.save_state_file(self._cache_path)
                self._cached = ids
            # It can be computed again, the messages can not.
            except (OSError, RequestError, BudgetError) as error:
                trouble = error
        self.note(llm, session)
        if trouble is not None:
            raise RequestError(
                f"{self.path} has the messages, but their cache is not kept: {trouble}"
            ) from trouble

    def kernels(self, name: str, sizes: Sequence[int]) -> str | None:
        """With which kernels the model of that name and files computed what is there.

        None where nothing is, or another model's.
        """
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            model, kernels = document["model"], document["kernels"]
            known = (model["name"], model["sizes"]) == (name, list(sizes))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return kernels if known and kernels in ("packed", "plain") else None

    def load(self, llm: Llama) -> Session:
        """The session in the file, its cache taken over into the context of `llm`.

        The cache is left out when it is another model's or another set of kernels', larger than
        the context, or gone: the messages are then computed again.

        Raises:
            RequestError: the file is no session.
        """
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            messages = [_message(one) for one in document["messages"]]
            tokens = [int(token) for token in document["tokens"]]
            ids = [int(token) for token in document["cached"]]
            usable = document["version"] == _VERSION and document["model"] == _fingerprint(llm)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise RequestError(
                f"{self.path} is not a session of flexinfer; give another file"
            ) from error
        known = llm.n_vocab()
        usable = usable and all(0 <= token < known for token in tokens)
        if usable and 0 < len(ids) <= llm.n_ctx() and self._take_over(llm, ids):
            self._cached = ids
        return Session(messages, tokens if usable else [], bool(self._cached))

    def _take_over(self, llm: Llama, ids: list[int]) -> bool:
        with contextlib.suppress(RequestError):
            llm.load_state_file(self._cache_path)
            if [int(token) for token in llm.input_ids[: llm.n_tokens]] == ids:
                return True
            llm.reset()
        return False

    @property
    def _cache_path(self) -> Path:
        return self.path.with_name(self.path.name + ".kv")

    def _unwritten(self, error: Exception) -> RequestError:
        why = getattr(error, "strerror", None) or str(error)
        return RequestError(
            f"the session cannot be written to {self.path}: {why.lower()}; give another file"
        )


def _message(found: Any) -> dict[str, str]:
    role, content = found["role"], found["content"]
    if not isinstance(role, str) or not isinstance(content, str):
        raise TypeError("a message is a role and a text")
    # Half a character, which JSON can write, is a ValueError here.
    (role + content).encode()
    return {"role": role, "content": content}


def _fingerprint(llm: Llama) -> dict[str, Any]:
    catalogue = llm.catalogue
    return {
        "name": catalogue.name,
        "architecture": catalogue.architecture,
        "sizes": list(catalogue.sizes),
        "kv_types": [llm.context_params.type_k, llm.context_params.type_v],
    }
