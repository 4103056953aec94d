"""`flexinfer run` as a person calls it: output, statistics, and one sentence for each mistake."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.command import assert_one_sentence, flexinfer
from support.tiny_model import TinyModel


def test_the_document_adds_up(tiny_model: TinyModel) -> None:
    model = tiny_model("tiny-llama", "q4_0")
    done = flexinfer(
        "run", model, "-p", "hello", "-n", 6, "--temp", 0, "--memory", "120MiB", "--json"
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    memory, speed = document["memory"], document["speed"]
    spent = sum(memory[key] for key in ("locked", "window", "kv", "compute", "overhead"))
    assert 0 < spent <= memory["budget"] <= 120 << 20
    assert 0 < memory["peak"] <= memory["budget"]
    assert document["generated_tokens"] == len(document["token_ids"]) == 6
    assert document["prompt_tokens"] >= 1
    assert document["text"]
    assert speed["load_s"] <= speed["first_token_s"]


def test_streamed_and_resident_runs_say_the_same(tiny_model: TinyModel) -> None:
    model = tiny_model("tiny-llama", "q8_0")
    prompt = ("run", model, "-p", "hello there", "-n", 12, "--temp", 0, "--json")
    resident = json.loads(flexinfer(*prompt, "--memory", "200MiB").stdout)
    streamed = json.loads(flexinfer(*prompt, "--weight-memory", "1MiB").stdout)
    assert streamed["token_ids"] == resident["token_ids"]
    assert resident["speed"]["read_bytes_per_token"] == 0
    assert streamed["speed"]["read_bytes_per_token"] > 1 << 20


def test_what_people_see(tiny_model: TinyModel) -> None:
    model = tiny_model("tiny-llama", "q4_0")
    done = flexinfer("run", model, "-n", 4, "--weight-memory", "1MiB", text="from standard input")
    assert done.returncode == 0, done.stderr
    first, *_, last = done.stderr.strip().splitlines()
    assert first == "--weight-memory: the memory of the process is not limited"
    assert "streamed per token" in done.stderr
    assert "tokens/s" in last
    quiet = flexinfer("run", model, "-n", 4, "--memory", "200MiB", "-q", "-p", "x")
    assert (quiet.returncode, quiet.stderr) == (0, "")


def test_a_seed_makes_runs_equal(tiny_model: TinyModel) -> None:
    model = tiny_model("tiny-llama", "q4_0")
    call = ("run", model, "-p", "x", "-n", 8, "--seed", 7, "--memory", "200MiB", "--json")
    one, two = (json.loads(flexinfer(*call).stdout)["token_ids"] for _ in range(2))
    assert one == two


@pytest.fixture
def broken(tiny_model: TinyModel, tmp_path: Path) -> Path:
    content = tiny_model("tiny-llama", "q4_0").read_bytes()
    (tmp_path / "header.gguf").write_bytes(content[:400])
    (tmp_path / "data.gguf").write_bytes(content[: len(content) // 2])
    (tmp_path / "magic.gguf").write_bytes(b"FUGG" + content[4:])
    (tmp_path / "text.gguf").write_text("not a model\n" * 50)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("header.gguf", ["header.gguf", "download it again"]),
        ("data.gguf", ["data.gguf", "truncated"]),
        ("magic.gguf", ["magic.gguf", "GGUF"]),
        ("text.gguf", ["text.gguf", "text that begins with"]),
        ("missing.gguf", ["missing.gguf", "no such file"]),
        (".", ["is a directory"]),
    ],
)
def test_bad_files(broken: Path, name: str, words: list[str]) -> None:
    assert_one_sentence(flexinfer("run", broken / name, "-p", "x"), "flexinfer: ", *words)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read(broken: Path) -> None:
    (broken / "data.gguf").chmod(0)
    assert_one_sentence(flexinfer("run", broken / "data.gguf", "-p", "x"), "permission denied")


def test_bad_requests(tiny_model: TinyModel) -> None:
    model = tiny_model("tiny-llama", "q4_0")
    assert_one_sentence(flexinfer("run", model, "-p", ""), "the prompt is empty")
    long = flexinfer("run", model, "-p", "word " * 200, "--ctx", 64)
    assert_one_sentence(long, "the context only 64", "--ctx")
    small = flexinfer("run", model, "-p", "x", "--memory", "30MiB")
    assert_one_sentence(small, "too small", "KV cache", "the smallest that would do")


def test_wrong_usage(tiny_model: TinyModel) -> None:
    model = tiny_model("tiny-llama", "q4_0")
    assert_one_sentence(flexinfer("run", model, "--nothing"), "--nothing", code=2)
    assert_one_sentence(flexinfer("run", model, "--memory", "lots"), "lots", code=2)
    assert_one_sentence(flexinfer("run", model, "--strategy", "x", "-p", "x"), "flex", code=2)


@pytest.mark.parametrize(
    ("option", "content", "said"),
    [
        ("--grammar", 'root ::= ("a"', "the grammar does not parse, line 1"),
        ("--grammar", " ", "the grammar is empty"),
        ("--grammar", "\udcff", "is no UTF-8 text: byte 0xff at 0"),
        ("--json-schema", '{"type":', "the JSON schema is no JSON"),
        ("--json-schema", "[" * 100_000, "the JSON schema is no JSON"),
        ("--json-schema", '{"$ref": "#/none"}', "no grammar can be made of the JSON schema"),
        ("--json-schema", "7", "the JSON schema is no object"),
        ("--lora", "no adapter", "file"),
        ("--mmproj", "no projector", "file is text that begins with 'no projector'; "),
    ],
)
def test_files_beside_the_model(
    tiny_model: TinyModel, tmp_path: Path, option: str, content: str, said: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    words = ("-p", "x", "-n", 2, "--weight-memory", "2MiB", "-q")
    done = flexinfer("run", tiny_model("tiny-llama"), *words, option, path)
    assert_one_sentence(done, "flexinfer: ", said)
    assert done.stderr.count("\n") == 1
