"""The clients that people have, against a real instruct model, or the bundled one without it."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import support
from support.real_model import instruct_model
from support.served import started

from flexinfer import Server

BUNDLED = Path(str(files("flexinfer") / "data" / "shakespeare.gguf"))
TEMPLATE = Path(support.__file__).with_name("tools.jinja")
KEY = "open-sesame"
ASKED = [{"role": "user", "content": "Name three colours."}]
WEATHER = {
    "name": "get_weather",
    "description": "Tell the weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
# A model this small calls a tool where it has seen how that is done.
EXAMPLE: list[Any] = [
    {"role": "user", "content": "What is the weather in Rome?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call1",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call1", "content": "It rains."},
]
OSLO: dict[str, Any] = {"role": "user", "content": "What is the weather in Oslo?"}
NUMBER = {
    "type": "object",
    "properties": {"number": {"type": "integer"}, "even": {"type": "boolean"}},
    "required": ["number", "even"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Chat with tools; the bundled model has no template of its own, and not the context."""
    real = instruct_model()
    sizes: dict[str, Any] = {"memory": "600MiB", "ctx": 1024, "slots": 4, "alias": "tested"}
    flags = ("--chat-template-file", str(TEMPLATE))
    with started(real or BUNDLED, **sizes, api_key=KEY, flags=flags) as server:
        yield server


@pytest.fixture
def real() -> None:
    if instruct_model() is None:
        pytest.skip("no instruct model is here; fetch it with: python -m support.real_model")


@pytest.fixture(scope="module")
def embedding() -> Iterator[Server]:
    model = instruct_model() or BUNDLED
    flags = ("--pooling", "mean")
    with started(model, memory="600MiB", ctx=512, slots=2, embeddings=True, flags=flags) as server:
        yield server


# -- openai ----------------------------------------------------------------------------------------


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def greedy(**more: Any) -> dict[str, Any]:
    return {"model": "tested", "messages": ASKED, "temperature": 0, "max_tokens": 24, **more}


def test_openai_chats_and_streams_the_same_with_its_usage(client: Any) -> None:
    whole = client.chat.completions.create(**greedy())
    text = whole.choices[0].message.content
    assert text.strip()
    assert whole.model == "tested"
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert 0 < whole.usage.completion_tokens <= 24
    parts = list(
        client.chat.completions.create(
            **greedy(), stream=True, stream_options={"include_usage": True}
        )
    )
    told = [part.choices[0].delta.content or "" for part in parts if part.choices]
    assert "".join(told) == text
    assert len(told) > 3
    assert parts[-1].usage.total_tokens == whole.usage.total_tokens
    ends = [part.choices[0].finish_reason for part in parts if part.choices]
    assert ends[-1] == whole.choices[0].finish_reason


def test_openai_completes_a_text_and_stops_at_a_word(client: Any) -> None:
    asked = {"model": "tested", "prompt": "One, two, three,", "temperature": 0, "max_tokens": 24}
    text = client.completions.create(**asked).choices[0].text
    word = text.split()[1]
    cut = client.completions.create(**asked, stop=[word]).choices[0]
    assert text.startswith(cut.text)
    assert word not in cut.text
    assert cut.finish_reason == "stop"


def test_openai_gets_the_probabilities_of_each_token(client: Any) -> None:
    answer = client.chat.completions.create(**greedy(logprobs=True, top_logprobs=3))
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) in (answer.usage.completion_tokens, answer.usage.completion_tokens - 1)
    for token in tokens:
        likeliest = [one.logprob for one in token.top_logprobs]
        assert len(likeliest) == 3
        assert likeliest == sorted(likeliest, reverse=True)
        assert token.logprob == likeliest[0] <= 0
    text = b"".join(bytes(token.bytes) for token in tokens).decode()
    assert text.startswith(answer.choices[0].message.content)


def test_openai_gets_json_of_its_schema(client: Any) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": NUMBER}}
    answer = client.chat.completions.create(**greedy(response_format=form, max_tokens=64))
    found = json.loads(answer.choices[0].message.content)
    assert set(found) == {"number", "even"}
    assert isinstance(found["number"], int)
    assert isinstance(found["even"], bool)


def test_openai_gets_a_tool_call_and_answers_it(client: Any, real: None) -> None:
    messages: list[Any] = [*EXAMPLE, OSLO]
    tools = [{"type": "function", "function": WEATHER}]
    asked = greedy(tools=tools, messages=messages, max_tokens=64)
    choice = client.chat.completions.create(**asked).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Oslo"}
    pieces = client.chat.completions.create(**asked, stream=True)
    deltas = [piece.choices[0].delta for piece in pieces if piece.choices]
    told = [one for delta in deltas for one in delta.tool_calls or ()]
    streamed = "".join(one.function.arguments or "" for one in told)
    assert json.loads(streamed) == {"city": "Oslo"}
    messages += [
        choice.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "It rains."},
    ]
    after = client.chat.completions.create(**greedy(messages=messages))
    assert after.choices[0].message.content.strip()


def test_openai_leaves_a_stream_and_the_slot_is_free(client: Any, server: Server) -> None:
    for _ in range(8):
        stream = client.chat.completions.create(**greedy(max_tokens=900), stream=True)
        next(iter(stream))
        stream.close()
    assert client.chat.completions.create(**greedy()).choices[0].message.content


def test_openai_asks_many_at_once_and_each_gets_its_own(server: Server) -> None:
    openai = pytest.importorskip("openai")

    def form(number: int) -> dict[str, Any]:
        schema = {"type": "object", "properties": {"n": {"const": number}}, "required": ["n"]}
        return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}

    async def ask() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY) as client:
            create = client.chat.completions.create
            asked = [greedy(response_format=form(number), max_tokens=128) for number in range(32)]
            return list(await asyncio.gather(*(create(**one) for one in asked)))

    answers = asyncio.run(ask())
    found = [json.loads(answer.choices[0].message.content) for answer in answers]
    assert found == [{"n": number} for number in range(32)]
    assert len({answer.id for answer in answers}) == 32


def test_openai_gets_the_errors_that_it_knows(client: Any, server: Server) -> None:
    openai = pytest.importorskip("openai")
    long = [{"role": "user", "content": "word " * 3000}]
    with pytest.raises(openai.BadRequestError, match="context"):
        client.chat.completions.create(**greedy(messages=long))
    with pytest.raises(openai.BadRequestError, match="messages"):
        client.chat.completions.create(model="tested", messages="no list")
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**greedy(response_format={"type": "no_such_form"}))
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="open-says-me").models.list()
    assert [model.id for model in client.models.list()] == ["tested"]


def test_openai_embeds(embedding: Server) -> None:
    openai = pytest.importorskip("openai")
    texts = ["a cat sits on a mat", "the king is dead", "a cat sits on a mat"]
    with openai.OpenAI(base_url=f"{embedding.url}/v1", api_key="-", max_retries=0) as client:
        whole = client.embeddings.create(model="any", input=texts)
        numbers = client.embeddings.create(model="any", input=texts, encoding_format="float")
    assert [one.index for one in whole.data] == [0, 1, 2]
    first, other, same = (one.embedding for one in whole.data)
    assert first == pytest.approx(same, abs=1e-3)
    assert first == pytest.approx(numbers.data[0].embedding, abs=1e-6)
    assert first != pytest.approx(other, abs=1e-2)
    assert sum(value * value for value in first) == pytest.approx(1, abs=1e-3)
    assert whole.usage.prompt_tokens > 0


# -- anthropic -------------------------------------------------------------------------------------


# What the client does not know goes into the body as it is.
COLD: dict[str, Any] = {"extra_body": {"temperature": 0}}


@pytest.fixture
def claude(server: Server) -> Iterator[Any]:
    anthropic = pytest.importorskip("anthropic")
    with anthropic.Anthropic(base_url=server.url, api_key=KEY, max_retries=0) as client:
        yield client


def test_anthropic_asks_and_streams_the_same(claude: Any) -> None:
    asked = {"model": "tested", "max_tokens": 24, "messages": ASKED, **COLD}
    whole = claude.messages.create(**asked)
    assert whole.content[0].text.strip()
    assert whole.stop_reason in ("max_tokens", "end_turn")
    assert whole.usage.output_tokens <= 24
    with claude.messages.stream(**asked) as stream:
        assert "".join(stream.text_stream) == whole.content[0].text
        final = stream.get_final_message()
    assert final.usage.output_tokens == whole.usage.output_tokens
    counted = claude.messages.count_tokens(model="tested", messages=ASKED)
    assert counted.input_tokens == whole.usage.input_tokens + (
        whole.usage.cache_read_input_tokens or 0
    )


def test_anthropic_gets_a_tool_call(claude: Any, real: None) -> None:
    tool = {key: WEATHER[key] for key in ("name", "description")}
    used = {"type": "tool_use", "id": "call1", "name": "get_weather", "input": {"city": "Rome"}}
    result = {"type": "tool_result", "tool_use_id": "call1", "content": "It rains."}
    answer = claude.messages.create(
        model="tested",
        max_tokens=64,
        messages=[
            EXAMPLE[0],
            {"role": "assistant", "content": [used]},
            {"role": "user", "content": [result]},
            OSLO,
        ],
        tools=[{**tool, "input_schema": WEATHER["parameters"]}],
        **COLD,
    )
    assert answer.stop_reason == "tool_use"
    (call,) = [block for block in answer.content if block.type == "tool_use"]
    assert (call.name, call.input) == ("get_weather", {"city": "Oslo"})


def test_anthropic_gets_the_errors_that_it_knows(claude: Any) -> None:
    anthropic = pytest.importorskip("anthropic")
    long = [{"role": "user", "content": "word " * 3000}]
    with pytest.raises(anthropic.BadRequestError, match="context"):
        claude.messages.create(model="tested", max_tokens=8, messages=long)
    with pytest.raises(anthropic.AuthenticationError):
        claude.with_options(api_key="open-says-me").messages.create(
            model="tested", max_tokens=8, messages=ASKED
        )


# -- langchain -------------------------------------------------------------------------------------


def test_langchain_asks_streams_and_calls_a_tool(server: Server, real: None) -> None:
    langchain = pytest.importorskip("langchain_openai")
    model = langchain.ChatOpenAI(
        base_url=f"{server.url}/v1", api_key=KEY, model="tested", temperature=0, max_tokens=64
    )
    whole = model.invoke("Name three colours.")
    assert whole.content.strip()
    assert whole.usage_metadata["output_tokens"] > 0
    streamed = "".join(part.content for part in model.stream("Name three colours."))
    assert streamed == whole.content
    tool = {"type": "function", "function": WEATHER}
    called = model.bind_tools([tool]).invoke([*EXAMPLE, OSLO])
    assert [(call["name"], call["args"]) for call in called.tool_calls] == [
        ("get_weather", {"city": "Oslo"})
    ]
    schema = {"title": "Number", "description": "A number.", **NUMBER}
    found = model.with_structured_output(schema, method="json_schema").invoke("Seven")
    assert set(found) == {"number", "even"}


def test_langchain_embeds(embedding: Server) -> None:
    langchain = pytest.importorskip("langchain_openai")
    model = langchain.OpenAIEmbeddings(
        base_url=f"{embedding.url}/v1", api_key="-", model="any", check_embedding_ctx_length=False
    )
    one, two = model.embed_documents(["a cat", "the king is dead"])
    assert len(one) == len(two) > 1
    assert model.embed_query("a cat") == pytest.approx(one, abs=1e-2)


# -- curl ------------------------------------------------------------------------------------------


def curl(*arguments: str) -> str:
    command = ["curl", "--silent", "--show-error", "--fail-with-body", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except FileNotFoundError:
        pytest.skip("curl is not installed")
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_curl_asks_and_streams_the_same(server: Server) -> None:
    url = f"{server.url}/v1/chat/completions"
    given = ("-H", f"Authorization: Bearer {KEY}", "-H", "Content-Type: application/json")
    whole = json.loads(curl(url, *given, "-d", json.dumps(greedy())))
    lines = curl("-N", url, *given, "-d", json.dumps(greedy(stream=True))).splitlines()
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    parts = [json.loads(event)["choices"] for event in events[:-1]]
    told = [choice["delta"].get("content") or "" for choices in parts for choice in choices]
    assert "".join(told) == whole["choices"][0]["message"]["content"]
