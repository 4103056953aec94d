"""What goes wrong with the hub, told apart: its answers, the network, this machine's own drive.

Client and transport have errors of many kinds, by version: requests', httpx', its own. What they
come from is the same: a status, a name without an address, a connection refused, a full drive.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flexinfer.errors import (
    FlexInferError,
    ModelNotFoundError,
    ReadError,
    RequestError,
)

_FULL = {errno.ENOSPC, errno.EDQUOT}
_SERVER_ERRORS = 500


def require_client() -> None:
    """Raise `RequestError` where the hub's client cannot read its own variables, as it starts."""
    try:
        import huggingface_hub.file_download  # noqa: F401
    except ValueError as error:
        given = ", ".join(sorted(name for name in os.environ if name.startswith("HF_")))
        raise RequestError(
            f"the hub's client does not start: {_first_line(error)}; check these variables of the "
            f"environment: {given}"
        ) from error


@contextmanager
def hub_errors(repo: str) -> Iterator[None]:
    """The client's errors as ours, with what to do.

    Raises:
        ModelNotFoundError: no such repository, revision or file, or no permission.
        ReadError: the hub does not answer, or with an error of its own.
        RequestError: this machine's drive takes nothing.
    """
    try:
        yield
    except FlexInferError:
        raise
    except Exception as error:
        raise (
            _told(repo, error)
            or _answered(repo, _status(error), error)
            or _of_this_machine(error)
            or ReadError(f"{repo}: {_unreachable(error)}")
        ) from error


def _told(repo: str, error: Exception) -> FlexInferError | None:
    """What the client has a name for."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return ModelNotFoundError(
            f"{repo} is gated: accept its terms on the hub, then log in with: hf auth login"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelNotFoundError(
            f"{repo} has no such revision; give the name of a branch or tag, or a whole commit"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelNotFoundError(
            f"the hub has no {repo}, or it is private: check the name, or log in with: "
            "hf auth login"
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        return None
    if isinstance(error, errors.EntryNotFoundError):
        return ModelNotFoundError(f"{repo} lacks a file that it listed; try again")
    return None


def _answered(repo: str, status: int, error: Exception) -> FlexInferError | None:
    if status in (401, 403):
        return ModelNotFoundError(
            f"the hub does not let you read {repo} ({status}): check the token's permissions, or "
            "log in with: hf auth login"
        )
    if status == 404:
        return ModelNotFoundError(f"the hub has no {repo} (404); check the name")
    if status == 429:
        after = _header(error, "Retry-After")
        wait = f"{after} s" if after.isdigit() else "some minutes"
        return ReadError(
            f"{repo}: the hub takes no more requests for now (429); wait {wait} and try again, "
            "or log in with: hf auth login"
        )
    if status >= _SERVER_ERRORS:
        return ReadError(f"{repo}: the hub has an error of its own ({status}); try again later")
    return None


def _of_this_machine(error: Exception) -> FlexInferError | None:
    """Of the drive that holds the cache: errors that name a file, or that only drives have."""
    for cause in _causes(error):
        if not isinstance(cause, OSError) or cause.errno is None:
            continue
        where = os.fsdecode(cause.filename) if cause.filename is not None else _cache_folder()
        if cause.errno in _FULL:
            what = "the drive is full; make room"
        elif cause.filename is not None:
            what = f"{os.strerror(cause.errno).lower()}; make it writable"
        else:
            continue
        return RequestError(
            f"the hub's cache cannot use {where}: {what}, or set HF_HOME to another folder"
        )
    return None


def _unreachable(error: Exception) -> str:
    """Why nothing came from the hub, and what to do."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "it is not in the cache, and the hub is not asked in offline mode (HF_HUB_OFFLINE)"
    # A password in an address is nobody's who reads the log.
    hub = re.sub(r"//[^/@]*@", "//", constants.ENDPOINT)
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror):
            return f"the name in {hub} has no address; check the network (DNS) and try again"
        if isinstance(cause, ConnectionRefusedError):
            return f"{hub} refuses connections; check the network, proxy and HF_ENDPOINT"
        if isinstance(cause, ssl.SSLError):
            why = _first_line(cause)
            return f"{hub} cannot be trusted: {why}; check the clock, proxy and certificates"
        if isinstance(cause, TimeoutError) or "Timeout" in type(cause).__name__:
            return f"{hub} does not answer in time; check the network and try again"
        if isinstance(cause, UnicodeEncodeError):
            return (
                "the token has signs that none has; check HF_TOKEN, or log in with: hf auth login"
            )
        if isinstance(cause, json.JSONDecodeError):
            return f"what answers at {hub} is no hub; check HF_ENDPOINT and the proxy"
    why = _first_line(error).rstrip(".")
    return (
        f"{hub} does not answer: {why}; check the network, and HF_ENDPOINT, HTTPS_PROXY and "
        "SSL_CERT_FILE where they are set"
    )


def _status(error: Exception) -> int:
    """Of the hub's answer; 0 without one."""
    status = getattr(_response(error), "status_code", None)
    return status if isinstance(status, int) else 0


def _header(error: Exception, name: str) -> str:
    headers = getattr(_response(error), "headers", None) or {}
    return str(headers.get(name) or "")


def _response(error: Exception) -> Any:
    found = (getattr(cause, "response", None) for cause in _causes(error))
    return next((response for response in found if response is not None), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, the outermost first."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _cache_folder() -> str:
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
