"""What constrains an answer: a grammar, or a JSON schema that becomes one."""

from __future__ import annotations

import json
from typing import Any

from llama_cpp import LlamaGrammar

from flexinfer.binding.check_grammar import check_grammar
from flexinfer.binding.check_schema import check_schemas
from flexinfer.errors import RequestError


def grammar(text: str) -> Any:
    """The `LlamaGrammar` of a text in llama.cpp's GBNF.

    Raises:
        RequestError: the line and what is wrong in it.
    """
    if not text.strip():
        raise RequestError("the grammar is empty; give one with a rule named root")
    check_grammar(text)
    return LlamaGrammar.from_string(text, verbose=False)


def schema_grammar(text: str) -> Any:
    """The `LlamaGrammar` of a JSON schema.

    Raises:
        RequestError: it is no JSON, too large, or describes nothing that a grammar can.
    """
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the JSON schema is no JSON: {error}") from error
    if not isinstance(schema, dict):
        raise RequestError("the JSON schema is no object; write it as {...}")
    check_schemas({"response_format": {"schema": schema}})
    try:
        made = LlamaGrammar.from_json_schema(text, verbose=False)
    # The converter takes what it reads for a schema, and raises whatever that comes to.
    except Exception as error:
        raise RequestError(
            f"no grammar can be made of the JSON schema ({type(error).__name__}: {error}); give a "
            "simpler one"
        ) from error
    return made
