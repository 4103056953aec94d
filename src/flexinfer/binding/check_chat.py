"""A request for a chat, checked for the shapes that the parent takes for granted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flexinfer.binding.check_request import check_biases, check_stops
from flexinfer.binding.check_schema import check_schemas
from flexinfer.errors import RequestError
from flexinfer.text import shown_value

_WORDS = ("none", "auto", "required")
_MESSAGE = '{"role": "user", "content": "..."}'
_MESSAGES = f"a list such as [{_MESSAGE}]"
_FUNCTION = '{"name": ..., "parameters": {...}}'
_TOOL = f'{{"type": "function", "function": {_FUNCTION}}}'


def check_chat(request: Mapping[str, Any], vocabulary: int) -> None:
    """Raise for what is wrong in a request for a chat.

    Args:
        request: the arguments of `create_chat_completion` by name.
        vocabulary: how many tokens the model has.

    Raises:
        RequestError: names the argument, its value and its form.
    """
    messages = request.get("messages")
    if not isinstance(messages, (list, tuple)):
        raise _wrong("messages", messages, _MESSAGES)
    for message in messages:
        # Whatever a template can look into; some have objects of their own.
        role = message.get("role") if isinstance(message, Mapping) else getattr(message, "role", 0)
        if not isinstance(role, str):
            raise _wrong("a message", message, _MESSAGE)
    tools = [tool.get("function") for tool in _listed(request, "tools", f"a list of {_TOOL}")]
    functions = _listed(request, "functions", f"a list of {_FUNCTION}")
    for kind, each, form in (("a tool", tools, _TOOL), ("a function", functions, _FUNCTION)):
        for function in each:
            if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
                raise _wrong(kind, function, form)
    _check_choice("function_call", request.get("function_call"), functions)
    # The parent takes functions for tools.
    _check_choice("tool_choice", _chosen(request.get("tool_choice")), functions or tools)
    wanted = request.get("response_format")
    if wanted is not None and not (
        isinstance(wanted, Mapping) and isinstance(wanted.get("type"), str)
    ):
        raise _wrong("response_format", wanted, '{"type": "json_object"}')
    check_schemas(request)
    check_stops(request.get("stop"))
    check_biases(request.get("logit_bias"), vocabulary)


def _listed(request: Mapping[str, Any], name: str, form: str) -> list[Mapping[str, Any]]:
    given = request.get(name)
    if given is None:
        return []
    if not isinstance(given, (list, tuple)) or not all(isinstance(one, Mapping) for one in given):
        raise _wrong(name, given, form)
    return list(given)


def _chosen(choice: Any) -> Any:
    """What `tool_choice` names, in the form of `function_call`."""
    if not isinstance(choice, Mapping):
        return choice
    function = choice.get("function")
    if not isinstance(function, Mapping):
        raise _wrong("tool_choice", choice, '{"type": "function", "function": {"name": ...}}')
    return function


def _check_choice(name: str, choice: Any, functions: list[Any]) -> None:
    if choice is None or (isinstance(choice, str) and choice in _WORDS[:2]):
        return
    if choice != _WORDS[2] and not (
        isinstance(choice, Mapping) and isinstance(choice.get("name"), str)
    ):
        raise _wrong(name, choice, f"one of {', '.join(_WORDS)}, or the name of one")
    what = "tools" if name == "tool_choice" else "functions"
    if not functions:
        raise RequestError(f"{name} asks for one of the {what}, and there are none; give {what}")
    if choice == _WORDS[2]:
        return
    wanted = next((one for one in functions if one["name"] == choice["name"]), None)
    if wanted is None:
        known = ", ".join(one["name"] for one in functions)
        raise RequestError(f"{name} names {choice['name']!r}, which is not among {known}")
    if not isinstance(wanted.get("parameters"), Mapping):
        raise RequestError(
            f"{name} names {choice['name']!r}, whose parameters are "
            f"{shown_value(wanted.get('parameters'))}; give a JSON schema"
        )


def _wrong(what: str, value: Any, form: str) -> RequestError:
    return RequestError(f"{what} is {shown_value(value)}; give {form}")
