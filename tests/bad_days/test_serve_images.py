"""Images and long texts beside a projector, in a group of just the budget."""

from __future__ import annotations

import base64
import io
import json
import socket
import time
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.long_words import model_of_words
from support.projector import write_projector
from support.served import Served, serving
from support.tiny_model import TinyModel

from flexinfer.bench.limits import LimitedGroup, Peak, limited
from flexinfer.errors import UnsupportedError
from flexinfer.gguf.catalogue import read_catalogue

MIB = 1 << 20
BUDGET = 540 * MIB
_WIDTH = 256  # of tiny-wide


@pytest.fixture
def group() -> Iterator[tuple[LimitedGroup, Peak]]:
    with ExitStack() as stack:
        try:
            made = stack.enter_context(limited(memory=BUDGET))
        except UnsupportedError as error:
            pytest.skip(str(error))
        yield made, stack.enter_context(made.watch(0.005))


@pytest.fixture
def server(
    tiny_model: TinyModel, tmp_path: Path, group: tuple[LimitedGroup, Peak]
) -> Iterator[Served]:
    projector = write_projector(tmp_path / "mmproj.gguf", _WIDTH)
    sizes = ("--memory", f"{BUDGET}B", "--slots", 2, "--ctx", 512, "--mmproj", projector)
    with serving(tiny_model("tiny-wide", "f16"), *sizes, group=group[0]) as served:
        yield served


def question(pixels: Any, text: str = "What is in this picture?") -> dict[str, Any]:
    image = io.BytesIO()
    Image.fromarray(pixels).save(image, "PNG")
    url = "data:image/png;base64," + base64.b64encode(image.getvalue()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": text},
    ]
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 6, "temperature": 0}


def noise(width: int, height: int, seed: int = 7) -> Any:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def text_of(answer: Any) -> str:
    return str(answer["choices"][0]["message"]["content"])


def test_images_and_texts_share_what_was_kept_for_each(
    server: Served, group: tuple[LimitedGroup, Peak]
) -> None:
    small = question(noise(56, 56))
    status, first = server.post("/v1/chat/completions", small)
    assert status == 200, first
    other = server.post("/v1/chat/completions", question(noise(56, 56, seed=8)))[1]
    assert first["usage"]["prompt_tokens"] == other["usage"]["prompt_tokens"] > 16
    asked = [
        # Incompressible, so that the body is as large as its pixels; and a text beside it.
        question(noise(1500, 1000, seed=number), "word " * 20)
        for number in range(6)
    ] + [small] * 4
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda body: server.post("/v1/chat/completions", body), asked))
    for status, answer in answers:
        assert status == 200, answer
    assert text_of(answers[-1][1]) == text_of(first)
    assert group[0].oom_kills == 0
    assert group[1].samples > 20
    assert group[1].peak <= BUDGET


def test_what_is_too_large_is_refused_for_what_it_is(
    server: Served, group: tuple[LimitedGroup, Peak]
) -> None:
    """A few bytes that unpack to many pixels; and a text as long as an image may be."""
    bomb = question(np.zeros((9000, 9000, 3), np.uint8))
    long = question(noise(56, 56), "word " * 400_000)
    plain = {"prompt": "word " * 400_000, "n_predict": 2}
    for path, body, words in (
        ("/v1/chat/completions", bomb, "an image of 9000 x 9000 pixels takes 1296000000 bytes"),
        ("/v1/chat/completions", long, "reading this text takes 2"),
        ("/completion", plain, "reading this text takes 2"),
    ):
        status, answer = server.post(path, body)
        assert status == 400, answer
        assert words in answer["error"]["message"]
        assert "send less" in answer["error"]["message"]
    assert server.post("/v1/chat/completions", question(noise(56, 56)))[0] == 200
    assert group[0].oom_kills == 0
    assert group[1].peak <= BUDGET


def test_a_word_that_no_stack_holds_beside_an_image(tmp_path: Path) -> None:
    """libmtmd makes tokens of the text by itself; 26,000 characters of a word end a usual stack."""
    model = model_of_words(tmp_path, pre=("STRING", "tekken"))
    width = read_catalogue(model).parameter("embedding_length")
    projector = write_projector(tmp_path / "mmproj.gguf", int(width))
    sizes = ("--memory", f"{BUDGET}B", "--slots", 1, "--ctx", 512, "--mmproj", projector)
    with serving(model, *sizes) as server:
        for length, words in ((34_000, "context size"), (50_000, "50,000 characters of the text")):
            asked = question(noise(56, 56), "a" * length)
            status, answer = server.post("/v1/chat/completions", asked)
            assert status == 400, answer
            assert words in answer["error"]["message"]
        assert server.post("/v1/chat/completions", question(noise(56, 56)))[0] == 200


def _wav(seconds: int) -> bytes:
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setparams((1, 1, 8000, 0, "NONE", ""))
        file.writeframes(bytes(8000 * seconds))
    return sound.getvalue()


def _webp() -> bytes:
    image = io.BytesIO()
    Image.fromarray(noise(56, 56)).save(image, "WEBP")
    return image.getvalue()


def _asking(url: str) -> dict[str, Any]:
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}]
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 2}


def _inline(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def test_what_nobody_counts_is_not_taken(server: Served, tmp_path: Path) -> None:
    """URLs, of which the server would fetch what is there; what unpacks to an unknown size."""
    image = tmp_path / "image.png"
    Image.fromarray(noise(56, 56)).save(image)
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(0)
        host = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/image.png"
        for url, words in (
            (host, "images are read from no URL"),
            (host.replace("http", "https"), "images are read from no URL"),
            (image.as_uri(), "images are read from no URL"),
            (_inline(_wav(2)), "only images are taken"),
            (_inline(b"ID3" + bytes(100)), "only images are taken"),
            (_inline(_webp()), "only images are taken"),
            (_inline(bytes(100)), "only images are taken"),
        ):
            status, answer = server.post("/v1/chat/completions", _asking(url))
            assert status == 400, answer
            assert words in answer["error"]["message"]
            assert "send " in answer["error"]["message"]
        with pytest.raises(BlockingIOError):
            elsewhere.accept()
    assert server.post("/v1/chat/completions", _asking(_inline(image.read_bytes())))[0] == 200


def _slowly(server: Served, body: bytes) -> int:
    """The status of a request whose last byte comes late."""
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        head = f"POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body[:-1])
        time.sleep(0.5)
        client.sendall(body[-1:])
        return int(client.makefile("rb").readline().split()[1])


def test_large_bodies_are_received_a_few_at_a_time(
    server: Served, group: tuple[LimitedGroup, Peak]
) -> None:
    body = json.dumps({"prompt": "a" * (15 * MIB)}).encode()
    with ThreadPoolExecutor(18) as pool:
        assert set(pool.map(lambda number: _slowly(server, body), range(18))) == {400}
        # A client that leaves in the middle takes nobody's place.
        for _ in range(6):
            with socket.create_connection(("127.0.0.1", server.port)) as leaving:
                leaving.sendall(b"POST /completion HTTP/1.1\r\nContent-Length: 15000000\r\n\r\n{")
        assert _slowly(server, body) == 400
    assert group[0].oom_kills == 0
    assert group[1].peak <= BUDGET
