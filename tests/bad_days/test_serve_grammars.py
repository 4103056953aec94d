"""Grammars and schemas of requests that llama.cpp would follow for ever, or end the process for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from support.served import ASKED, Served, serving

MODEL = Path(str(files("flexinfer") / "data" / "shakespeare.gguf"))
# Each character doubles the ways in which the text so far can be read.
_DOUBLING = "root ::= [^0-9] root [1] | [^0-9] root [2]"
_CANNOT_FOLLOW = "cannot follow the grammar here"


def _branching(rules: int) -> str:
    """A grammar that begins in two to the power of `rules` ways."""
    lines = [f'r{rule} ::= r{rule + 1} | r{rule + 1} "b"' for rule in range(rules)]
    return "\n".join(["root ::= r0", *lines, f'r{rules} ::= "x"', ""])


def _nested(keys: str, ends: str, depth: int) -> str:
    return keys * depth + "{}" + ends * depth


# What a request carries, and what it is told.
_GRAMMARS: dict[str, tuple[dict[str, Any], str]] = {
    "ever more ways": ({"grammar": _DOUBLING}, _CANNOT_FOLLOW),
    "many ways to begin": ({"grammar": _branching(60)}, "line 49: r47 begins in more than 20,000"),
    "taken for a tool's": (
        {"grammar": _branching(60), "grammar_type": "tool_calls"},
        _CANNOT_FOLLOW,
    ),
    "parentheses": ({"grammar": f"root ::= {'(' * 20_000}"}, "line 1: parentheses are nested"),
    "a tool's parentheses": (
        {"grammar": f"root ::= {'(' * 20_000}", "grammar_type": "tool_calls"},
        "does not read the grammar",
    ),
    "a mistake": ({"grammar": "root ::= ("}, "line 1: a parenthesis is not closed"),
    "repetitions": ({"grammar": "root ::= ([a-z]{0,2000}){0,2000}"}, "it repeats too much"),
    "a schema's mistake": (
        {"json_schema": {"properties": {"a": {"type": "nope"}}}},
        "failed: JSON schema error at #/properties/a: unrecognized type nope",
    ),
    "no number": ({"temperature": [1]}, "'temperature': type must be number, but is array"),
    "no such token": ({"grammar": "root ::= <[9999]>"}, "allows none of"),
}


def _triggered(*triggers: tuple[int, str], grammar: str = "root ::= [a-z]+") -> dict[str, Any]:
    """A grammar that waits until the text has a trigger: a type and a text each."""
    listed = [{"type": kind, "value": text} for kind, text in triggers]
    return {"grammar": grammar, "grammar_lazy": True, "grammar_triggers": listed}


_WORD, _PATTERN, _WHOLE = 1, 2, 3
_TRIGGERS: dict[str, tuple[dict[str, Any], str]] = {
    "ever more ways to a trigger": (
        _triggered((_PATTERN, "(.*)*(.*)*(.*)*0123")),
        "takes more than 2 s on this text",
    ),
    "ways that take no sign": (
        _triggered((_PATTERN, "(()|()|()|()){30}0123")),
        "takes more than 2 s on this text",
    ),
    "looks ahead": (_triggered((_PATTERN, "(?=(.*)*(.*)*(.*)*0123)x")), "takes more than 2 s"),
    "all of the text": (_triggered((_WHOLE, "(([^0-9])+)+0123")), "takes more than 2 s"),
    "no such kind": (_triggered((99, "x")), "the type 99; give 0 (token), 1 (word)"),
    "no kind below": (_triggered((-1, "x")), "the type -1; give 0"),
    "does not read": (_triggered((_PATTERN, "[a")), "expression [a, which does not read"),
    "within each other": (_triggered((_PATTERN, "(" * 9999)), "or 200 parentheses"),
    "long word": (_triggered((_WORD, "a b " * 1_999)), "more than 4096 bytes"),
    "written out": (_triggered((_PATTERN, "((a{99}){99}){99}")), "which does not read"),
    "many": (_triggered(*[(_PATTERN, "a")] * 99), "more than 32 texts"),
}
_GRAMMARS |= _TRIGGERS


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving(MODEL, "--slots", 2, "--ctx", 512, "--memory", "300MiB") as served:
        yield served


@pytest.mark.parametrize("name", _GRAMMARS)
def test_a_request_is_refused_and_others_go_on(server: Served, name: str) -> None:
    carried, says = _GRAMMARS[name]
    expected = server.complete(**ASKED)["tokens"]
    with ThreadPoolExecutor() as pool:
        beside = pool.submit(server.complete, **{**ASKED, "n_predict": 64})
        body = {"prompt": "O Romeo", "n_predict": 64, "temperature": 0, **carried}
        status, answer = server.post("/completion", body)
        assert status == 400, answer
        assert says in answer["error"]["message"]
        assert "\n" not in answer["error"]["message"]
        assert beside.result()["tokens"][:8] == expected
    assert server.complete(**ASKED)["tokens"] == expected


@pytest.mark.parametrize(("key", "depth"), [("a", 3000), ("k" * 200, 100)])
def test_a_schema_whose_names_would_not_fit_is_refused(
    server: Served, key: str, depth: int
) -> None:
    schema = _nested(f'{{"type":"object","properties":{{"{key}":', "}}", depth)
    body = f'{{"prompt":"O","n_predict":4,"json_schema":{schema}}}'
    status, _, text = server.request("POST", "/completion", body.encode())
    assert status == 400, text
    assert "reading this request takes" in json.loads(text)["error"]["message"]


def test_a_stream_ends_with_the_sentence(server: Served) -> None:
    with server.stream("/completion", {"prompt": "O", "grammar": _DOUBLING}) as answer:
        said = answer.read().decode()
    assert said.count(_CANNOT_FOLLOW) == 1


@pytest.mark.parametrize(
    "trigger",
    [(_PATTERN, "x|(th)"), (_WHOLE, r"(?:[^t]|t[^h])*(th)[\s\S]*")],
    ids=["pattern", "whole"],
)
def test_a_trigger_that_is_taken_still_holds(server: Served, trigger: tuple[int, str]) -> None:
    asked = _triggered(trigger, grammar='root ::= "th" [a-z]* "!"')
    written = server.complete(prompt="O", n_predict=200, temperature=0, **asked)["content"]
    assert written.endswith("!")
    assert written[written.index("th") + 2 : -1].isalpha()


def test_grammars_that_are_taken_still_hold(server: Served) -> None:
    chosen = server.complete(
        prompt="O", grammar='root ::= ("yes" | "no") "!"', n_predict=20, temperature=0
    )
    assert chosen["content"] in ("yes!", "no!")
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    written = server.complete(prompt="O", json_schema=schema, n_predict=200, temperature=0)
    assert written["content"].replace(" ", "").replace("\n", "") in ('{"a":1}', '{"a":2}')
    with ThreadPoolExecutor() as pool:
        both = [
            pool.submit(server.complete, prompt="O", grammar=f'root ::= "{word}" [a-c]{{3}}')
            for word in ("one", "two")
        ]
    assert [answer.result()["content"][:3] for answer in both] == ["one", "two"]
