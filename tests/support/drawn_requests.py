"""Requests as hypothesis draws them: documented fields of llama-server and ours, sound or not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

KEY = "open-sesame"
_LARGE = (
    0,
    -1,
    1,
    2**31 - 1,
    -(2**31),
    2**31,
    2**32,
    2**63,
    -(2**63),
    10**30,
    1e39,
    -1e300,
    1e-300,
)
_WORDS = ("O", "the king", "ROMEO:\n", "", "\0", "é\u2028", "<s>", "{", "x" * 700, "\U0001f600")

_Fields = dict[str, st.SearchStrategy[Any]]

_bool = st.booleans()
_text = st.one_of(st.sampled_from(_WORDS), st.text(max_size=20))
_number = st.one_of(st.integers(-3, 300), st.floats(-2, 4), st.sampled_from(_LARGE))
_token = st.one_of(st.integers(0, 500), st.sampled_from((-1, 511, 512, 4096, 2**31 - 1, 2**40)))
_any = st.recursive(
    st.one_of(st.none(), _bool, _number, _text),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_text, inner, max_size=4)),
    max_leaves=8,
)
_texts = st.lists(_text, max_size=4)
_prompt = st.one_of(
    _text,
    st.lists(_token, max_size=40),
    st.lists(st.one_of(_text, _token), max_size=6),
    st.lists(st.lists(_token, max_size=6), max_size=3),
    st.fixed_dictionaries({"prompt_string": _text, "multimodal_data": _texts}),
)
_grammar = st.sampled_from(
    (
        'root ::= "yes" | "no"',
        "root ::= [a-z]{1,9}",
        "root ::= (",
        "root ::= root",
        'root ::= "a"{9,99999999}',
        "root ::= a\na ::= b a | b\nb ::= [^x]",
        "",
        'rot ::= "a"',
        "root ::= [z-a]",
        'root ::= ("a" | "a")* ("a" | "a")*',
    )
)
_schema = st.recursive(
    st.one_of(
        st.sampled_from(
            (
                {},
                True,
                {"type": "string"},
                {"type": "integer", "minimum": -5, "maximum": 10**12},
                {"type": "string", "minLength": 10**9},
                {"type": "string", "maxLength": 3},
                {"type": "string", "pattern": "^(a|b)+$"},
                {"type": "string", "pattern": "^a{1,99999999}$"},
                {"type": "string", "pattern": "a("},
                {"type": "string", "format": "date"},
                {"type": ["string", "null"]},
                {"type": "no-such-type"},
                {"const": "x"},
                {"enum": ["a", 1, None]},
                {"enum": []},
                {"$ref": "#/definitions/none"},
                {"$ref": "#"},
                {"$ref": "https://example.invalid/schema.json"},
                {"type": "array", "minItems": 10**9},
            )
        ),
        _any,
    ),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"type": st.just("array"), "items": inner}),
        st.fixed_dictionaries(
            {
                "type": st.just("object"),
                "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
            },
            optional={"required": st.just(["a", "z"]), "additionalProperties": inner},
        ),
        st.fixed_dictionaries({"anyOf": st.lists(inner, max_size=3)}),
        st.fixed_dictionaries({"allOf": st.lists(inner, max_size=3)}),
    ),
    max_leaves=5,
)
_part = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": _text}),
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(
                ("image_url", "input_image", "image", "input_audio", "tool_result")
            ),
            "image_url": st.one_of(
                st.just({"url": "data:image/png;base64,AAAA"}), st.just({"url": "file:///x"}), _any
            ),
        },
        optional={"source": _any, "input_audio": _any, "content": _any},
    ),
    _any,
)
_call = st.fixed_dictionaries(
    {
        "id": _text,
        "type": st.just("function"),
        "function": st.fixed_dictionaries({"name": _text, "arguments": st.one_of(_text, _any)}),
    }
)
_message = st.fixed_dictionaries(
    {
        "role": st.sampled_from(("user", "system", "assistant", "tool", "developer", "", "king")),
        "content": st.one_of(_text, _text, st.lists(_part, max_size=3), st.none(), _any),
    },
    optional={
        "name": _text,
        "tool_calls": st.one_of(st.lists(_call, max_size=2), _any),
        "tool_call_id": _text,
        "reasoning_content": _text,
    },
)
_messages = st.lists(_message, max_size=4)
_tool = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.just("function"),
            "function": st.fixed_dictionaries(
                {"name": st.sampled_from(("look", "look up", "")), "parameters": _schema},
                optional={"description": _text, "strict": _bool},
            ),
        }
    ),
    _any,
)
_tools = st.lists(_tool, max_size=3)
_length = st.one_of(st.integers(0, 12), st.sampled_from((-1, -2, 500, 2**31 - 1, 2**31)))
_bias = st.one_of(
    st.lists(st.tuples(st.one_of(_token, _text), st.one_of(_number, st.just(False))), max_size=3),
    st.dictionaries(st.sampled_from(("5", "511", "99999", "x")), _number, max_size=3),
)

_SAMPLING: _Fields = {
    **dict.fromkeys(
        (
            *("top_p", "min_p", "top_n_sigma", "xtc_probability", "xtc_threshold", "typical_p"),
            *("temperature", "dynatemp_range", "dynatemp_exponent", "repeat_penalty"),
            *("frequency_penalty", "presence_penalty", "dry_multiplier", "dry_base"),
            *("mirostat_tau", "mirostat_eta", "adaptive_target", "adaptive_decay", "top_k"),
            *("repeat_last_n", "dry_allowed_length", "dry_penalty_last_n", "mirostat", "seed"),
            *("n_probs", "min_keep", "n_indent", "n_keep", "n_discard", "n_cache_reuse"),
            *("t_max_predict_ms", "sse_ping_interval", "reasoning_budget_tokens"),
            *("chat_format", "id_slot", "truncation"),
        ),
        _number,
    ),
    **dict.fromkeys(
        (
            *("verbose", "timings_per_token", "cache_prompt", "return_tokens", "return_progress"),
            *(
                "backend_sampling",
                "post_sampling_probs",
                "grammar_lazy",
                "parse_tool_calls",
                "echo",
            ),
            *("reasoning_control", "ignore_eos"),
        ),
        _bool,
    ),
    "n": st.one_of(st.integers(0, 3), _number),
    "stop": st.one_of(_text, _texts),
    "samplers": st.one_of(
        st.lists(st.sampled_from(("top_k", "dry", "temperature", "penalties", "infill", "x"))),
        st.text("kyptmxdi", max_size=8),
    ),
    "logit_bias": _bias,
    "dry_sequence_breakers": _texts,
    "response_fields": st.lists(st.sampled_from(("content", "generation_settings/n_predict", "/"))),
    "lora": st.lists(st.fixed_dictionaries({"id": _number, "scale": _number}), max_size=2),
    "preserved_tokens": _texts,
    "grammar_triggers": st.lists(
        st.fixed_dictionaries(
            {"type": st.integers(-1, 5), "value": _text}, optional={"token": _token}
        ),
        max_size=2,
    ),
    "grammar": _grammar,
    "json_schema": _schema,
    "reasoning_format": st.sampled_from(("none", "deepseek", "auto", "x")),
    "generation_prompt": _text,
    "chat_parser": _text,
    "continue_final_message": st.one_of(_bool, _text),
    **dict.fromkeys(
        ("reasoning_budget_start_tag", "reasoning_budget_end_tag", "reasoning_budget_message"),
        _text,
    ),
    "reasoning_budget_end_tags": _texts,
    "stream_options": st.fixed_dictionaries({"include_usage": _bool}),
    "model": _text,
}
_CHAT: _Fields = {
    "messages": _messages,
    "max_tokens": _length,
    "tools": _tools,
    "tool_choice": st.one_of(st.sampled_from(("auto", "none", "required", "x")), _any),
    "parallel_tool_calls": _bool,
    "response_format": st.one_of(
        st.fixed_dictionaries(
            {
                "type": st.just("json_schema"),
                "json_schema": st.fixed_dictionaries({"schema": _schema}),
            }
        ),
        st.fixed_dictionaries({"type": st.sampled_from(("json_object", "text", "x"))}),
    ),
    "chat_template_kwargs": st.dictionaries(_text, st.one_of(_text, _any), max_size=2),
    "add_generation_prompt": _bool,
    "logprobs": _bool,
    "top_logprobs": _number,
    "reasoning_effort": _text,
    "thinking": st.fixed_dictionaries({"type": _text, "budget_tokens": _number}),
    "system": st.one_of(_text, st.lists(_part, max_size=2)),
    "stop_sequences": _texts,
    "metadata": _any,
}
_ITEM = st.one_of(
    _message,
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(
                ("message", "function_call", "function_call_output", "reasoning")
            )
        },
        optional={"role": _text, "content": _any, "call_id": _text, "output": _any, "name": _text},
    ),
)
_SIZE = st.one_of(
    st.sampled_from(
        ("64MiB", "100MiB", "auto", "50%", "1KiB", "-1GiB", "lots", 10**8, 10**30, 0, True)
    ),
    _any,
)


def _shared(names: tuple[str, ...], fields: _Fields) -> dict[str, _Fields]:
    """Routes that take the same fields."""
    return dict.fromkeys(names, fields)


# Each route with its own fields; those it cannot do without come first.
_ROUTES: dict[str, _Fields] = {
    **_shared(
        ("/completion", "/completions", "/v1/completions"),
        {"prompt": _prompt, "n_predict": _length, **_SAMPLING},
    ),
    **_shared(
        (
            *("/chat/completions", "/v1/chat/completions", "/v1/messages"),
            *("/apply-template", "/v1/chat/completions/input_tokens", "/v1/messages/count_tokens"),
        ),
        _CHAT | _SAMPLING,
    ),
    **_shared(
        ("/v1/responses", "/v1/responses/input_tokens"),
        {
            "input": st.one_of(_text, st.lists(_ITEM, max_size=3)),
            "max_output_tokens": _length,
            "instructions": _text,
            "tools": _tools,
            "reasoning": st.one_of(st.fixed_dictionaries({"effort": _text}), _any),
            "previous_response_id": _text,
            **_SAMPLING,
        },
    ),
    "/infill": {
        "input_prefix": _text,
        "input_suffix": _text,
        "prompt": _text,
        "n_predict": _length,
        "input_extra": st.lists(
            st.fixed_dictionaries({"text": _text, "filename": _text}), max_size=2
        ),
    },
    **_shared(
        ("/embedding", "/embeddings", "/v1/embeddings"),
        {
            "input": _prompt,
            "content": _prompt,
            "encoding_format": st.sampled_from(("float", "base64", "x")),
            "embd_normalize": _number,
            "dimensions": _number,
        },
    ),
    **_shared(
        ("/rerank", "/v1/rerank"),
        {
            "query": _text,
            "documents": _texts,
            "top_n": _number,
            "texts": _texts,
            "return_text": _bool,
        },
    ),
    "/tokenize": {
        "content": _prompt,
        "add_special": _bool,
        "parse_special": _bool,
        "with_pieces": _bool,
    },
    "/detokenize": {"tokens": st.lists(_token, max_size=20)},
    "/v1/chat/completions/control": {
        "id": _text,
        "action": st.sampled_from(("end_reasoning", "cancel", "x")),
    },
    "/lora-adapters": {"id": _number, "scale": _number},
    "/props": {"chat_template": _text},
    "/v1/streams/lookup": {"conversation_ids": _texts},
    "/slots/0?action=erase": {"filename": _text},
    "/slots/9?action=save": {"filename": _text},
    "/slots/x?action=restore": {"filename": _text},
    "/slots/0": {},
    "/engine/memory": {"memory": _SIZE},
    "/engine/release": {},
}
_GETS = (
    *("/", "/health", "/metrics", "/props", "/slots", "/v1/models"),
    *("/lora-adapters", "/engine/plan", "/engine/stats", "/engine/tensors", "/v1/stream?conv_id=x"),
    *("/v1/stream", "/no/such/path", "/../../etc/passwd", "/%00", "/%zz", "//", "/engine/"),
    *(
        "/tools",
        "/cors-proxy?url=http://localhost/",
        "/models/sse",
        "/style.css",
        "/?" + "q=1&" * 300,
    ),
)


@dataclass(frozen=True)
class Asked:
    """One request as it is sent; `right` is whether its key is."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    right: bool


_HEADERS: st.SearchStrategy[dict[str, str]] = st.one_of(
    st.just({}),
    st.just({}),
    st.just({}),
    st.sampled_from(
        (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://localhost:3000"},
            {"Content-Type": "text/plain"},
            {"Content-Type": "application/x-www-form-urlencoded"},
            {"Content-Type": "multipart/form-data; boundary=x"},
            {"Content-Type": "multipart/form-data"},
            {"Content-Encoding": "gzip"},
            {"Content-Encoding": "br"},
            {"Accept": "text/event-stream"},
            {"Accept-Encoding": "gzip, br, zstd"},
            {"Range": "bytes=0-5,9-1,-7"},
            {"Expect": "100-continue"},
            {"Expect": "x"},
            {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "x"},
            {"X-Conversation-Id": "x"},
            {"Transfer-Encoding": "chunked"},
        )
    ),
)
_KEYS = st.sampled_from(
    (
        *(({"Authorization": f"Bearer {KEY}"}, True),) * 12,
        ({"X-Api-Key": KEY}, True),
        ({}, False),
        ({"Authorization": f"Bearer {KEY[:-1]}"}, False),
        ({"Authorization": "Basic " + "A" * 300}, False),
        ({"X-Api-Key": ""}, False),
    )
)


@st.composite
def _field(draw: st.DrawFn, sound: st.SearchStrategy[Any]) -> Any:
    return draw(_any) if draw(st.integers(0, 7)) == 0 else draw(sound)


@st.composite
def _documents(draw: st.DrawFn, fields: _Fields) -> dict[str, Any]:
    names = list(fields)
    needed = names[: draw(st.sampled_from((2, 2, 2, 2, 2, 1, 0)))]
    more = draw(st.lists(st.sampled_from(names), max_size=4)) if names else []
    document = {name: draw(_field(fields[name])) for name in dict.fromkeys([*needed, *more])}
    if draw(_bool):
        document["stream"] = draw(_bool)
    return document


@st.composite
def _bodies(draw: st.DrawFn, fields: _Fields) -> bytes:
    kind = draw(st.integers(0, 15))
    if kind == 0:
        return draw(
            st.one_of(
                st.binary(max_size=40),
                st.sampled_from(
                    (b"", b"[" * 5000, b'{"a":' * 3000, b"null", b'"', b"NaN", b"\xff\xfe")
                ),
            )
        )
    if kind == 1:
        return json.dumps(draw(_any)).encode()
    text = json.dumps(draw(_documents(fields))).encode()
    return text[: draw(st.integers(0, len(text)))] if kind == 2 else text


@st.composite
def requests(draw: st.DrawFn) -> Asked:
    """One request of any route."""
    key, right = draw(_KEYS)
    headers = {"Content-Type": "application/json", **key, **draw(_HEADERS)}
    if draw(st.integers(0, 9)) == 0:
        method = draw(
            st.sampled_from(("GET", "GET", "GET", "HEAD", "OPTIONS", "DELETE", "PUT", "X"))
        )
        return Asked(method, draw(st.sampled_from((*_GETS, *_ROUTES))), headers, b"", right)
    path = draw(st.sampled_from(tuple(_ROUTES)))
    return Asked("POST", path, headers, draw(_bodies(_ROUTES[path])), right)
