"""Which of llama-server's flags may be passed on, which are forced, and what is refused by name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flexinfer.errors import RequestError
from flexinfer.serve.flags import INSTEAD, SWITCHES, WITH_VALUE
from flexinfer.text import decode

# Kinds of speculation whose memory is known beforehand: what gives their longest draft, by default.
_DRAFTS = {
    "none": ("", 0),
    "draft-simple": ("--spec-draft-n-max", 3),
    "draft-mtp": ("--spec-draft-n-max", 3),
    "ngram-simple": ("--spec-ngram-simple-size-m", 48),
    "ngram-map-k": ("--spec-ngram-map-k-size-m", 48),
    "ngram-map-k4v": ("--spec-ngram-map-k4v-size-m", 48),
    "ngram-mod": ("--spec-ngram-mod-n-max", 64),
}
_MODEL_DRAFT = ("-md", "--model-draft", "--spec-draft-model")
_CHECKPOINTS = ("-ctxcp", "--ctx-checkpoints", "--swa-checkpoints")
_CACHE = ("-cram", "--cache-ram")
_CERTIFICATE = ("--ssl-cert-file", "--ssl-key-file")
# Whatever llama.cpp reads besides its command line.
_VARIABLES = ("AIP_MODE", "LLAMA_API_KEY", "LLAMA_SERVER_ROUTER_PORT", "LLAMA_SERVER_CHILD_MODE")


@dataclass(frozen=True)
class Extra:
    """Flags after ``--`` that were looked through.

    Attributes:
        drafts: how many tokens a slot may draft at a time.
        kinds: of llama.cpp's speculation.
        draft_model: path of the model that drafts.
        checkpoints: how many a slot keeps, where it was asked.
        cache_mib: of prompts that no slot holds any more, where it was asked.
        tls: connections are encrypted.
    """

    flags: tuple[str, ...] = ()
    drafts: int = 0
    draft_model: str | None = None
    checkpoints: int | None = None
    cache_mib: int | None = None
    tls: bool = False
    kinds: tuple[str, ...] = ()

    @property
    def head(self) -> bool:
        """The model's own trained head drafts."""
        return "draft-mtp" in self.kinds


def read_extra(flags: Sequence[str]) -> Extra:
    """Look through the flags after ``--``.

    Raises:
        RequestError: names the first that is not taken.
    """
    given = dict(_pairs(flags))
    kinds = given.get("--spec-type", "draft-simple" if _first(given, _MODEL_DRAFT) else "none")
    drafts = 0
    for kind in kinds.split(","):
        if kind not in _DRAFTS:
            raise RequestError(
                f"--spec-type {kind} is not planned for; take one of {', '.join(_DRAFTS)}"
            )
        flag, default = _DRAFTS[kind]
        drafts = max(drafts, _number(flag, given.get(flag, str(default))))
    _check_grammar(given)
    return Extra(
        tuple(flags),
        drafts,
        _first(given, _MODEL_DRAFT),
        _asked(given, _CHECKPOINTS),
        _asked(given, _CACHE),
        _checked_certificate(given),
        tuple(kinds.split(",")),
    )


def refuse_surroundings(environment: Mapping[str, str]) -> None:
    """Raise `RequestError` for whatever else would set llama-server's options."""
    for name in sorted(environment):
        if name.startswith("LLAMA_ARG_") or name in _VARIABLES:
            raise RequestError(
                f"the environment has {name}, which flexinfer does not take; unset it and give "
                "the option on the command line"
            )
    home = environment.get("XDG_CONFIG_HOME") or os.path.join(
        environment.get("HOME", ""), ".config"
    )
    for path in ("/etc/llama.cpp/config.ini", os.path.join(home, "llama.cpp", "config.ini")):
        if Path(path).exists():
            raise RequestError(
                f"{path} sets llama.cpp's options, which flexinfer does not take; move it away "
                "and give the options on the command line"
            )


def _checked_certificate(given: Mapping[str, str]) -> bool:
    """Whether a certificate is given, which can then be used."""
    certificate, key = (given.get(flag) for flag in _CERTIFICATE)
    if certificate is None and key is None:
        return False
    if certificate is None or key is None:
        raise RequestError(f"{' and '.join(_CERTIFICATE)} go together; give both or neither")
    import ssl  # late: few servers need it

    try:
        # An empty password: nobody is there to be asked for one.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{certificate} with {key}: no certificate with its key ({error}); give two PEM files, "
            "the key without a password"
        ) from error
    return True


def _check_grammar(given: Mapping[str, str]) -> None:
    """Raise `RequestError` for one of which llama.cpp would end the process."""
    from flexinfer.binding.check_grammar import check_grammar  # late: few servers have one

    text, path = given.get("--grammar", ""), given.get("--grammar-file")
    if path is not None:
        try:
            text = decode(Path(path).read_bytes(), path)
        except OSError as error:
            raise RequestError(
                f"--grammar-file {path} cannot be read: {(error.strerror or '').lower()}"
            ) from error
    if text:
        check_grammar(text)


def _pairs(flags: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each flag with its value, "" for switches."""
    rest = iter(flags)
    for flag in rest:
        if flag in SWITCHES:
            yield flag, ""
        elif flag in WITH_VALUE:
            value = next(rest, None)
            if value is None:
                raise RequestError(f"{flag} after -- lacks its value")
            yield flag, value
        elif flag in INSTEAD:
            raise RequestError(f"{flag} is not taken after --; use {INSTEAD[flag]}")
        else:
            raise RequestError(
                f"{flag!r} is not among the flags of llama-server that are passed on; "
                "docs/serve.md lists those"
            )


def _first(given: Mapping[str, str], names: Sequence[str]) -> str | None:
    return next((given[name] for name in names if name in given), None)


def _asked(given: Mapping[str, str], names: Sequence[str]) -> int | None:
    value = _first(given, names)
    return None if value is None else _number(names[1], value)


def _number(flag: str, value: str) -> int:
    if not value.isdecimal():
        raise RequestError(f"{flag} {value} is no number; give 0 or more")
    return int(value)
