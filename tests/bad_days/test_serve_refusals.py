"""What a server refuses: surroundings, flags, keys, foreign pages, and requests that do not fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from support.command import assert_one_sentence, flexinfer
from support.long_words import model_of_words
from support.served import Served, serving

MODEL = Path(str(files("flexinfer") / "data" / "shakespeare.gguf"))
SIZES = ("--slots", 2, "--ctx", 128, "--weight-memory", "2MiB")
KEY = "open-sesame"
OURS = (
    ("GET", "/engine/plan"),
    ("GET", "/engine/stats"),
    ("POST", "/engine/memory"),
    ("POST", "/engine/release"),
)


# -- before it starts ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LLAMA_ARG_CTX_SIZE", "64"),
        ("LLAMA_ARG_TOOLS", "all"),
        ("LLAMA_API_KEY", "x"),
        ("AIP_MODE", "PREDICTION"),
    ],
)
def test_variables_of_llama_server_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert_one_sentence(flexinfer("serve", MODEL, *SIZES, "--port", 0), name, "unset it")


def test_configuration_of_llama_server_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "llama.cpp" / "config.ini"
    path.parent.mkdir()
    path.write_text("[*]\nctx-size = 64\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert_one_sentence(flexinfer("serve", MODEL, *SIZES, "--port", 0), str(path), "move it away")


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("-c", "64"), "--ctx"),
        (("-np", "9"), "--slots"),
        (("--port", "1"), "--port"),
        (("--tools", "all"), "'--tools'"),
        (("--mcp-config", "x"), "'--mcp-config'"),
        (("--sleep-idle-seconds", "9"), "--idle-release"),
        (("--models-dir", "x"), "'--models-dir'"),
        (("-ngl", "99"), "'-ngl'"),
        (("--temp",), "lacks its value"),
        (("stray",), "'stray'"),
        (("--temp=0.5",), "'--temp=0.5'"),
        (("--spec-type", "mtp"), "--spec-type mtp"),
        (("--ctx-checkpoints", "-1"), "--ctx-checkpoints -1"),
        (("--grammar", 'root ::= "a'), "line 1: a text is not closed"),
        (("--grammar", "x"), "the grammar does not parse, line 1"),
        (("--grammar-file", __file__), "the grammar does not parse, line 1"),
        (("--grammar-file", "nowhere.gbnf"), "nowhere.gbnf cannot be read: no such file"),
    ],
)
def test_flags_that_are_not_passed_on_are_named(flags: tuple[str, ...], word: str) -> None:
    done = flexinfer("serve", MODEL, *SIZES, "--port", 0, "--", *flags)
    assert_one_sentence(done, word)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--lora", "nowhere.gguf"), ("nowhere.gguf", "No such file")),
        (("--mmproj", "nowhere.gguf"), ("nowhere.gguf", "no such file")),
        (("--mmproj", "/"), ("/ is a directory",)),
        (("--mmproj", "/dev/zero"), ("/dev/zero is no regular file",)),
        (("--mmproj", MODEL), (str(MODEL), "is no projector (its architecture is llama)")),
        (("--ubatch", 8, "--slots", 16), ("--ubatch 8", "--slots 16")),
        (("--weight-memory", "1KiB"), ("too small",)),
    ],
)
def test_options_that_cannot_be_met_are_said(
    options: tuple[object, ...], words: tuple[str, ...]
) -> None:
    assert_one_sentence(flexinfer("serve", MODEL, *SIZES, "--port", 0, *options), *words)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--api-key", "", "cannot stand in a header"),
        ("--api-key", "a\udcff", "no UTF-8 text: byte 0xff at 1"),
        ("--api-key", "secret\nSet-Cookie: a", "cannot stand in a header"),
        ("--cors-origins", "http://a\r\nX: b", "cannot stand in a header"),
        ("--cors-origins", "", "cannot stand in a header"),
        ("--alias", "\udcff", "no UTF-8 text"),
        ("--host", "\udcff", "no UTF-8 text"),
        ("--threads", 513, "not in the range 1<=x<=512"),
    ],
)
def test_what_no_server_can_use_is_refused(option: str, value: Any, says: str) -> None:
    done = flexinfer("serve", MODEL, *SIZES, "--port", 0, option, value)
    assert done.returncode == 2
    assert says in done.stderr
    assert "secret" not in done.stderr


def test_a_budget_that_does_not_hold_the_slots_is_said() -> None:
    done = flexinfer("serve", MODEL, "--slots", 64, "--memory", "64MiB", "--port", 0)
    assert_one_sentence(done, "64 slots")


def test_an_address_without_a_key_that_others_reach_is_warned_of() -> None:
    with serving(MODEL, *SIZES, "--host", "0.0.0.0") as open_to_all:
        assert "give --api-key" in open_to_all.log
    with serving(MODEL, *SIZES, "--host", "0.0.0.0", "--api-key", KEY) as closed:
        assert "give --api-key" not in closed.log


# -- keys and pages ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked() -> Iterator[Served]:
    with serving(MODEL, *SIZES, "--api-key", KEY) as served:
        yield served


@pytest.mark.parametrize("given", [{}, {"Authorization": "Bearer open-says-me"}])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        *OURS,
        ("GET", "/metrics"),
        ("GET", "/slots"),
        ("GET", "/props"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/messages"),
        ("POST", "/tokenize"),
    ],
)
def test_nothing_is_told_without_the_key(
    locked: Served, method: str, path: str, given: dict[str, str]
) -> None:
    body = None if method == "GET" else b"{}"
    status, _, said = locked.request(method, path, body, given)
    assert status == 401
    assert "key" in json.loads(said)["error"]["message"].lower()


def test_with_the_key_all_is_told(locked: Served) -> None:
    given = {"Authorization": f"Bearer {KEY}"}
    for path in ("/engine/plan", "/engine/stats", "/metrics"):
        assert locked.request("GET", path, None, given)[0] == 200
    assert locked.request("GET", "/health")[0] == 200


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [("http://localhost:3000", True), ("https://evil.example", False), ("null", False)],
)
def test_pages_of_others_may_not_ask(locked: Served, origin: str, allowed: bool) -> None:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    for method, path in (("OPTIONS", "/v1/chat/completions"), ("GET", "/health")):
        _, headers, _ = locked.request(method, path, None, asked)
        allows = {name.lower(): value for name, value in headers.items()}
        assert (allows.get("access-control-allow-origin") == origin) is allowed
        assert allows.get("access-control-allow-origin") != "*"


# -- requests ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving(MODEL, *SIZES) as served:
        yield served


@pytest.fixture
def answers(server: Served) -> Iterator[Served]:
    """The server, which answers after the test as before."""
    asked: dict[str, Any] = {"prompt": "ROMEO:", "n_predict": 8, "temperature": 0}
    expected = server.complete(**asked)["content"]
    yield server
    assert server.complete(**asked)["content"] == expected


def refused(served: Served, path: str, body: Any, *words: str, status: int = 400) -> None:
    got, answer = served.post(path, body)
    assert got == status, answer
    message = answer["error"]["message"]
    assert "\n" not in message.strip()
    for word in words:
        assert word in message


def test_a_body_that_is_too_large_is_refused_with_its_limit(answers: Served) -> None:
    # As much above the limit as whoever sends it need not wait for it to be read.
    body = {"prompt": "x" * 1_080_000}
    refused(answers, "/completion", body, "bytes", "--ctx", status=413)


def test_a_prompt_larger_than_its_slot_is_refused(answers: Served) -> None:
    body = {"prompt": [5] * 200, "n_predict": 1}
    refused(answers, "/completion", body, "context", "128")


@pytest.mark.parametrize("count", [100_000, -5])
def test_more_probabilities_than_fit_are_refused(answers: Served, count: int) -> None:
    body = {"prompt": "O", "n_predict": 64, "n_probs": count}
    refused(answers, "/completion", body, "probabilities" if count > 0 else "")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/completion", {}),
        ("/completion", {"prompt": {"a": 1}}),
        ("/completion", {"prompt": "x", "grammar": "root ::= ("}),
        ("/completion", {"prompt": "x", "json_schema": {"type": "no-such-type"}}),
        ("/completion", {"prompt": [-7, 10**9]}),
        ("/v1/chat/completions", {"messages": "no list"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": 5}]}),
    ],
)
def test_requests_that_make_no_sense_are_refused(answers: Served, path: str, body: Any) -> None:
    status, answer = answers.post(path, body)
    assert status == 400, answer
    assert answer["error"]["message"]


def test_a_body_that_is_no_json_is_refused(answers: Served) -> None:
    for path in ("/completion", "/engine/memory"):
        status, _, said = answers.request("POST", path, b'{"prompt": ')
        assert status == 400
        assert json.loads(said)["error"]["message"]


@pytest.mark.parametrize("wish", [{}, [], "1GiB", {"memory": "lots"}, {"memory": True}])
def test_a_budget_that_is_none_is_refused(answers: Served, wish: Any) -> None:
    refused(answers, "/engine/memory", wish, "")


def test_a_word_that_no_stack_holds(tmp_path: Path) -> None:
    """llama.cpp's regular expressions would end the process with 26,000 characters of one."""
    model = model_of_words(tmp_path, pre=("STRING", "tekken"))
    with serving(model, *SIZES) as server:
        status, answer = server.post("/tokenize", {"content": "a" * 34_000})
        assert (status, len(answer["tokens"])) == (200, 17_000)
        for path, key in (("/tokenize", "content"), ("/completion", "prompt")):
            status, answer = server.post(path, {key: "a" * 50_000})
            assert status == 400
            assert "50,000 characters of the text may be one word" in answer["error"]["message"]
        status, answer = server.post("/completion", {"prompt": "a word", "n_predict": 2})
        assert status == 200
