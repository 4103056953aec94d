"""What a request brings, checked before llama.cpp sees it: numbers, tokens, texts, biases."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from flexinfer.binding.private import is_grammar
from flexinfer.errors import RequestError
from flexinfer.kinds import check_whole
from flexinfer.text import shown_value

# The largest number of 32 bits, in which samplers compute.
_LARGEST = 3.4e38
_FRACTIONS = (
    *("temp", "top_p", "min_p", "typical_p", "tfs_z", "repeat_penalty", "frequency_penalty"),
    *("presence_penalty", "mirostat_tau", "mirostat_eta"),
)
# Texts, whose bytes would be taken for tokens.
_RAW = (str, bytes, bytearray, memoryview)


def check_fraction(name: str, value: Any) -> None:
    """Raise `RequestError` unless `value` is a number that samplers and graphs can hold."""
    if not isinstance(value, Real) or not abs(float(value)) <= _LARGEST:
        raise RequestError(f"{name} is {shown_value(value)}; give a finite number")


def check_sampling(options: Mapping[str, Any]) -> None:
    """Raise `RequestError` for a parameter of samplers that is no number for it."""
    for name in _FRACTIONS:
        if name in options:
            check_fraction("temperature" if name == "temp" else name, options[name])
    check_whole("top_k", options.get("top_k", 0))
    check_whole("mirostat_mode", options.get("mirostat_mode", 0), 0, 2)
    _check_calls(options)
    grammar = options.get("grammar")
    if grammar is not None and not is_grammar(grammar):
        raise RequestError(
            f"grammar is {shown_value(grammar)}; give what LlamaGrammar.from_string() returns"
        )


def _check_calls(options: Mapping[str, Any]) -> None:
    stopping = options.get("stopping_criteria")
    if stopping is not None and not callable(stopping):
        raise RequestError(
            f"stopping_criteria is {shown_value(stopping)}; give a StoppingCriteriaList or a "
            "function"
        )
    processors = options.get("logits_processor")
    if processors is not None and not (
        isinstance(processors, (list, tuple)) and all(map(callable, processors))
    ):
        raise RequestError(
            f"logits_processor is {shown_value(processors)}; give a LogitsProcessorList"
        )


def listed_tokens(tokens: Any) -> list[Any]:
    """`tokens`, which may be an iterator, as a list; each is still to be checked.

    Raises:
        RequestError: they are none.
    """
    if isinstance(tokens, (*_RAW, Mapping)):
        raise _no_tokens(tokens)
    try:
        return list(tokens)
    except TypeError as error:
        raise _no_tokens(tokens) from error


def _no_tokens(value: Any) -> RequestError:
    return RequestError(
        f"the tokens are {shown_value(value)}; give a list of whole numbers, as tokenize() returns"
    )


def check_tokens(tokens: Any, vocabulary: int) -> None:
    """Raise `RequestError` for what is no list of tokens that the vocabulary has."""
    if not isinstance(tokens, (Sequence, np.ndarray, array)) or isinstance(tokens, _RAW):
        raise _no_tokens(tokens)
    if not len(tokens):
        return
    try:
        known = np.asarray(tokens)
    except ValueError:
        # Lists of several lengths, or too deep: told below by what is no token.
        known = np.asarray(())
    if (
        known.ndim == 1
        and known.dtype.kind in "iu"
        and known.min() >= 0
        and known.max() < vocabulary
    ):
        return
    for at, token in enumerate(tokens):
        if not isinstance(token, Integral) or not 0 <= int(token) < vocabulary:
            raise RequestError(
                f"token {at + 1} is {shown_value(token)}, but the model has tokens 0 to "
                f"{vocabulary - 1}"
            )


def check_completion(options: Mapping[str, Any], vocabulary: int) -> None:
    """Raise `RequestError` for what is wrong in a request for a completion."""
    prompt = options.get("prompt", "")
    if isinstance(prompt, str):
        check_text("the prompt", prompt)
    elif not isinstance(prompt, list):
        raise RequestError(f"the prompt is {shown_value(prompt)}; give a text or a list of tokens")
    else:
        # Those of images are below zero; what is computed is checked when it is.
        for at, token in enumerate(prompt, 1):
            check_whole(f"token {at}", token)
    check_text("suffix", "" if options.get("suffix") is None else options["suffix"])
    check_stops(options.get("stop"))
    check_biases(options.get("logit_bias"), vocabulary)
    for name, least in (("logprobs", 0), ("max_tokens", -math.inf), ("seed", -math.inf)):
        if options.get(name) is not None:
            check_whole(name, options[name], least)


def check_text(name: str, text: Any) -> None:
    """Raise `RequestError` for what cannot be written as UTF-8."""
    if not isinstance(text, str):
        raise RequestError(f"{name} is {shown_value(text)}; give a text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{name} has half a character ({text[error.start]!r}) at {error.start}, which is no "
            "text; remove it"
        ) from error


def check_stops(stops: Any) -> None:
    """Raise `RequestError` unless `stops` is none, a text or a list of texts."""
    if stops is None or isinstance(stops, str):
        stops = [stops or ""]
    if not isinstance(stops, (list, tuple)):
        raise RequestError(f"stop is {shown_value(stops)}; give a text or a list of texts")
    for stop in stops:
        check_text("stop", stop)


def check_biases(biases: Any, vocabulary: int) -> None:
    """Raise `RequestError` for a bias of a token that is not there, or that is no number."""
    if biases is None:
        return
    if not isinstance(biases, Mapping):
        raise RequestError(f"logit_bias is {shown_value(biases)}; give tokens and numbers")
    for token, bias in biases.items():
        try:
            number, added = int(token), float(bias)
        except (TypeError, ValueError) as error:
            raise RequestError(
                f"logit_bias has {shown_value(token)}: {shown_value(bias)}; give tokens and numbers"
            ) from error
        if not 0 <= number < vocabulary:
            raise RequestError(
                f"logit_bias names token {number}, but the model has tokens 0 to {vocabulary - 1}"
            )
        if math.isnan(added):
            raise RequestError(f"logit_bias of token {number} is no number")
