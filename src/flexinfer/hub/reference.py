"""Which files of a hub's repository a reference means; no network.

``hf:user/repo``, ``hf:user/repo:quant`` and ``hf:user/repo:file``, each with ``@revision`` behind
the repository where it is not the main branch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flexinfer.errors import ModelNotFoundError, RequestError
from flexinfer.gguf.types import shard_names
from flexinfer.hub.failures import require_client

_REFERENCE = re.compile(
    r"hf:(?P<repo>[\w.-]+/[\w.-]+)"
    # As git has it: a branch may have slashes in its name, and none has two dots in a row.
    r"(?:@(?P<revision>(?!\S*\.\.)\w[\w./-]*))?"
    r"(?::(?P<want>.+))?\Z"
)
_LATER_SHARD = re.compile(r"-(?!00001-of-)\d{5}-of-\d{5}\.gguf\Z")
# What llama.cpp takes when nothing is asked for, then what is next nearest to it.
_PREFERRED = ("Q4_K_M", "Q4_K_S", "Q4_0", "Q5_K_M", "Q8_0")
# Files that are GGUF but no language model.
_NOT_MODELS = ("mmproj", "imatrix")


@dataclass(frozen=True)
class Reference:
    """A repository and, as `want`, a quantisation or a file of it.

    `revision` is a branch, a tag or a commit; None means the main branch.
    """

    repo: str
    want: str | None = None
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """The reference in `text`.

        Raises:
            RequestError: it is written in another way, or the hub's client does not start.
        """
        require_client()
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils._validators import validate_repo_id

        match = _REFERENCE.fullmatch(text)
        try:
            if match is None:
                raise HFValidationError(text)
            validate_repo_id(match["repo"])
        except HFValidationError as error:
            here = f", or ./{text} for the file here" if os.path.exists(text) else ""
            raise RequestError(
                f"{text} is no model of the hub; write hf:user/repo[@revision][:quant|:file]{here}"
            ) from error
        return cls(match["repo"], match["want"], match["revision"])


@dataclass(frozen=True)
class Choice:
    """The files of one model in a repository, with their sizes in bytes (None: unknown)."""

    repo: str
    files: tuple[str, ...]
    sizes: tuple[int | None, ...]
    revision: str | None = None

    def name(self, file: str) -> str:
        """The reference that means just this file."""
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf:{self.repo}{revision}:{file}"


def is_reference(model: str) -> bool:
    """Whether `model` names something on the hub, not a file here."""
    return model.startswith("hf:")


def is_settled(want: str | None, file: str) -> bool:
    """Whether `file`, chosen from what is at hand, is what any larger choice would give."""
    return want is not None or _has_quant(file, _PREFERRED[0])


def choose(files: Sequence[str], want: str | None) -> str:
    """The first file of the model that `want` names: a file, a quantisation, or the usual one.

    Raises:
        ModelNotFoundError: there is none, with what there is.
    """
    models = sorted((file for file in files if _is_model(file)), key=lambda file: (len(file), file))
    found = [file for file in models if want and want in (file, Path(file).name)]
    quants = [want] if want else [*_PREFERRED]
    for quant in quants:
        found += [file for file in models if _has_quant(file, quant)]
    if not found and want is None:
        found = models
    if not found:
        names = ", ".join(models) or "no GGUF file at all"
        raise ModelNotFoundError(f"nothing in the repository matches {want or '*.gguf'}: {names}")
    return found[0]


def _is_model(file: str) -> bool:
    name = Path(file).name.lower()
    return (
        name.endswith(".gguf")
        and not any(part in name for part in _NOT_MODELS)
        and _LATER_SHARD.search(file) is None
    )


def _has_quant(file: str, quant: str) -> bool:
    return bool(re.search(rf"(?i)(?:^|[-._/]){re.escape(quant)}(?=[-._/])", file))


def with_shards(first: str, files: Sequence[str]) -> tuple[str, ...]:
    """All files of the model whose first file this is, in order.

    Raises:
        ModelNotFoundError: one is not among `files`.
    """
    match = re.search(r"-00001-of-(\d{5})\.gguf\Z", first)
    if match is None:
        return (first,)
    names = tuple(shard_names(first[: match.start()], int(match[1])))
    missing = [name for name in names if name not in files]
    if missing:
        raise ModelNotFoundError(f"the repository lacks {missing[0]}, a part of {first}")
    return names
