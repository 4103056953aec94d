"""Hostile requests: grammars, schemas, biases, stops, numbers, templates; a few in a child each.

    python requests.py INPUTS [SEED] [--seconds SECONDS]

Each must be answered or refused in one sentence, and the next sound request must be answered as
ever. Prints one JSON document, as `headers.py` does.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from llama_cpp import LlamaGrammar, llama_grammar
from support.children import campaign

from flexinfer import Llama
from flexinfer.binding.chat_template import ChatTemplate
from flexinfer.errors import RequestError
from flexinfer.synth.write import write_model

_EACH = 12
_OPTIONS: dict[str, Any] = {
    "n_ctx": 192,
    "n_batch": 64,
    "n_ubatch": 64,
    "n_threads": 1,
    "n_threads_batch": 1,
    "seed": 3,
}
_GRAMMARS = [
    'root ::= ("yes" | "no") " " [0-9]{1,3}',
    'root ::= item+\nitem ::= "- " [^\\n]+ "\\n"',
    'root ::= a b?\na ::= "x" | [a-z] a\nb ::= (a | "(" b ")")*',
    'root ::= . <[5]> !<[7]> "é" [\\u00e0-\\u00ff]',
    llama_grammar.JSON_GBNF,
    llama_grammar.ARITHMETIC_GBNF,
]
_BITS = [
    '"',
    "[",
    "]",
    "(",
    ")",
    "|",
    "*",
    "+",
    "?",
    "{2}",
    "{0,}",
    "{",
    "}",
    "::=",
    "\n",
    "\\",
    " ",
]
_BITS += [
    "root",
    "x",
    "#",
    ".",
    "<",
    "!",
    "\0",
    "é",
    "^",
    "-",
    "{9,99}",
    "\\x4",
    "\ud800",
    "a ::= a",
]
_NUMBERS: list[Any] = [
    0,
    1,
    -1,
    0.5,
    2,
    1e9,
    -1e9,
    1e39,
    float("nan"),
    float("inf"),
    2**31,
    2**40,
    "x",
    None,
]
_NAMES = ["temperature", "top_p", "min_p", "typical_p", "top_k", "repeat_penalty", "mirostat_tau"]
_NAMES += [
    "frequency_penalty",
    "presence_penalty",
    "mirostat_mode",
    "mirostat_eta",
    "tfs_z",
    "seed",
]
_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m.content | trim }}\n{% endfor %}"
_TEMPLATE_BITS = [
    "{{",
    "}}",
    "{%",
    "%}",
    "|",
    "for",
    "if",
    "endif",
    "(",
    ")",
    "'",
    "~",
    "*9**9",
    ".",
]
_TEMPLATE_BITS += ["range(99999)", "|join", "|tojson", "[", "namespace()", "macro f()", "%", "#}"]
_KEYS = ["type", "properties", "items", "enum", "const", "anyOf", "oneOf", "allOf", "required"]
_KEYS += [
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "pattern",
    "format",
    "$ref",
    "prefixItems",
]
_LEAVES: list[Any] = [
    "string",
    "integer",
    "object",
    "array",
    "null",
    "x",
    "#/a",
    "^a{1,9}$",
    "^(a|b)*$",
    "date",
]
_LEAVES += [0, 1, 99, 10**9, -1, True, None, "", "\0", [], {}]


def _mutated(chance: random.Random, text: str, bits: list[str]) -> str:
    for _ in range(chance.choice((0, 1, 1, 2, 5))):
        at = chance.randrange(len(text) + 1)
        text = text[:at] + chance.choice(bits) + text[at + chance.choice((0, 1, 3, 9)) :]
    return text


def _schema(chance: random.Random, depth: int = 4) -> Any:
    kind = chance.random()
    if not depth or kind < 0.3:
        return chance.choice(_LEAVES)
    if kind < 0.45:
        return [_schema(chance, depth - 1) for _ in range(chance.randrange(4))]
    return {chance.choice(_KEYS): _schema(chance, depth - 1) for _ in range(chance.randrange(1, 5))}


def _request(chance: random.Random) -> dict[str, Any]:
    options: dict[str, Any] = {"max_tokens": 4, "temperature": chance.choice((0.0, 0.8))}
    for _ in range(chance.choice((0, 0, 1, 2))):
        options[chance.choice(_NAMES)] = chance.choice(_NUMBERS)
    if chance.random() < 0.3:
        bias = {chance.choice((-1, 0, 5, 2047, 2048, 10**9, "7", "x")): chance.choice(_NUMBERS)}
        options["logit_bias"] = bias
    if chance.random() < 0.3:
        options["stop"] = chance.choice(
            ("", [""], ["a", "\0"], ["\ud800"], [None], 5, ["x" * 9999])
        )
    return options


def _ask(llm: Any, chance: random.Random) -> None:
    kind = chance.choice(("grammar", "grammar", "schema", "sampling", "tokens", "template"))
    if kind == "grammar":
        text = _mutated(chance, chance.choice(_GRAMMARS), _BITS)
        grammar = LlamaGrammar.from_string(text, verbose=False)
        llm("one two", **{**_request(chance), "max_tokens": 12}, grammar=grammar)
    elif kind == "schema":
        form = {"type": "json_object", "schema": _schema(chance)}
        messages = [{"role": "user", "content": chance.choice(("one", "", None, 5, "\0"))}]
        llm.create_chat_completion(messages, response_format=form, **_request(chance))
    elif kind == "sampling":
        llm(chance.choice(("one", "", "\0", "\ud800", None, 5)), **_request(chance))
    elif kind == "tokens":
        count = chance.choice((0, 1, 5, 191, 192, 500))
        tokens: list[Any] = [
            chance.choice((0, 1, 5, 2047, 2048, -1, 2**31, 1.5)) for _ in range(count)
        ]
        chance.choice((llm, llm.eval, llm.detokenize, lambda ids: next(llm.generate(ids))))(tokens)
    else:
        source = _mutated(chance, _TEMPLATE, _TEMPLATE_BITS)
        messages = [{"role": "user", "content": "one"}]
        ChatTemplate(source, "</s>", "<s>").render(messages, answer=True)


def attempt(number: int, folder: Path, verbose: bool) -> None:
    """Ask what `number` stands for, and between the requests something sound."""
    chance = random.Random(number)
    path = folder / "model.gguf"
    if not path.exists():
        write_model("tiny-llama", path, "q4_0")
    with Llama(str(path), verbose=verbose, **_OPTIONS) as llm:
        expected = _sound(llm)
        for _ in range(_EACH):
            try:
                _ask(llm, chance)
            except RequestError as error:
                if "\n" in str(error):
                    raise AssertionError(str(error)) from error
            except ValueError as error:
                if "exceed context window" not in str(error):
                    raise
            if _sound(llm) != expected:
                raise AssertionError("the next answer is another one")


def _sound(llm: Llama) -> str:
    llm.reset()
    return json.dumps(llm("three four", max_tokens=3, temperature=0.0)["choices"])


if __name__ == "__main__":
    campaign(__doc__, attempt)
