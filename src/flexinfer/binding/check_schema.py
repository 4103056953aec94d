"""A JSON schema of a request, bounded: the parent writes all of its repetitions out."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from flexinfer.errors import RequestError

_MAX_TEXT = 1 << 20
_MAX_DEPTH = 64
# llama.cpp repeats nothing in a grammar more often.
_MAX_REPEAT = 2000
_CHOICES = ("enum", "anyOf", "oneOf", "type")
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems")


def check_schemas(request: Mapping[str, Any]) -> None:
    """Raise for a schema in a request for a chat that would become too large a grammar.

    Raises:
        RequestError: the schema's key and its value.
    """
    form = request.get("response_format")
    if isinstance(form, Mapping) and "schema" in form:
        _check(form["schema"])
    for tool in request.get("tools") or ():
        _check(tool)
    for function in request.get("functions") or ():
        _check(function)


def _check(schema: Any) -> None:
    for key, value in _walk(schema):
        if key in _COUNTS and isinstance(value, int) and value > _MAX_REPEAT:
            raise RequestError(
                f"the JSON schema has {key} {value}; a grammar repeats at most {_MAX_REPEAT} times"
            )
        if key in _CHOICES and isinstance(value, (list, tuple)) and not value:
            raise RequestError(
                f"the JSON schema has an empty {key}, which nothing satisfies; give it a value"
            )
        if key == "pattern" and isinstance(value, str):
            counts = [int(count) for count in re.findall(r"\d+(?=\s*\})", value)]
            if math.prod(max(count, 1) for count in counts) > _MAX_REPEAT:
                raise RequestError(
                    f"the JSON schema has a pattern that repeats more than {_MAX_REPEAT} times; "
                    "give a simpler one"
                )
    try:
        size = len(json.dumps(schema))
    except (TypeError, ValueError) as error:
        raise RequestError(f"the JSON schema is no JSON: {error}") from error
    if size > _MAX_TEXT:
        raise RequestError(f"the JSON schema has {size} bytes; at most {_MAX_TEXT} are read")


def _walk(schema: Any) -> Iterator[tuple[str, Any]]:
    left = [(schema, 0)]
    while left:
        part, depth = left.pop()
        if depth > _MAX_DEPTH:
            raise RequestError(f"the JSON schema is nested deeper than {_MAX_DEPTH}")
        if isinstance(part, Mapping):
            yield from part.items()
            left += [(value, depth + 1) for value in part.values()]
        elif isinstance(part, (list, tuple)):
            left += [(value, depth + 1) for value in part]
