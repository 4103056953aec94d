"""`flexinfer.Server`: the server as a child of this process."""

from __future__ import annotations

import copy
import json
import os
import pickle
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import pytest
from support.loaded import loaded_by
from support.served import started

from flexinfer import Server
from flexinfer.errors import (
    BudgetError,
    EngineError,
    FlexInferError,
    ModelFileError,
    ModelNotFoundError,
    RequestError,
    SizeError,
    UnsupportedError,
)
from flexinfer.serve import child

pytestmark = pytest.mark.usefixtures("no_leaks")

MIB = 1 << 20
MODEL = Path(str(files("flexinfer") / "data" / "shakespeare.gguf"))


@pytest.fixture
def server() -> Iterator[Server]:
    with started(MODEL, memory="400MiB", slots=2, ctx=256, api_key="open-sesame") as server:
        yield server


def completed(server: Server) -> str:
    body = json.dumps({"prompt": "ROMEO:", "n_predict": 8, "temperature": 0}).encode()
    headers = {"Authorization": f"Bearer {server.api_key}"}
    asked = urllib.request.Request(f"{server.url}/completion", body, headers)
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return str(json.load(answer)["content"])


def test_it_tells_what_it_does_and_changes_its_budget(server: Server) -> None:
    plan = server.plan()
    assert (plan["server"]["slots"], plan["server"]["slot_ctx"]) == (2, 256)
    text = completed(server)
    assert server.stats()["passes"] >= 8
    assert server.memory == 400 * MIB
    for budget, size in (("300MiB", 300 * MIB), (350 * MIB, 350 * MIB)):
        server.memory = budget
        assert server.memory == size
        assert completed(server) == text
    assert server.stats()["memory"]["locked"] > 0
    server.release()
    assert server.stats()["memory"]["locked"] == 0
    assert completed(server) == text


def test_a_budget_that_cannot_be_is_the_exception_of_the_server(server: Server) -> None:
    with pytest.raises(BudgetError, match="give a larger memory budget"):
        server.memory = "1MiB"
    with pytest.raises(SizeError, match="'lots' is not a size"):
        server.memory = "lots"
    with pytest.raises(RequestError, match="cannot be sent"):
        server.memory = object()  # type: ignore[assignment]
    assert server.memory == 400 * MIB


def test_it_tells_how_it_is_and_waits(server: Server) -> None:
    assert repr(server) == f"<Server {server.url} pid {server.pid}>"
    assert not server.wait(0.01)
    for nonsense in (float("nan"), "soon"):
        with pytest.raises(RequestError, match="are no seconds"):
            server.wait(nonsense)  # type: ignore[arg-type]
    server.close()
    server.close()
    assert server.wait()
    assert repr(server) == f"<Server {server.url} closed>"
    assert not Path(f"/proc/{server.pid}").exists()
    with pytest.raises(EngineError, match="the server is closed"):
        server.stats()


def test_its_key_is_not_among_its_arguments(server: Server) -> None:
    assert "open-sesame" not in Path(f"/proc/{server.pid}/cmdline").read_text()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{server.url}/engine/stats", timeout=60)


def test_its_key_may_have_any_letters() -> None:
    key = "ключ 鍵"
    with started(MODEL, ctx=128, weight_memory="2MiB", api_key=key) as server:
        assert server.stats()["requests"] == 0
        server.api_key = "другой"
        with pytest.raises(EngineError, match="Invalid API Key"):
            server.stats()


def test_it_asks_with_the_first_of_several_keys() -> None:
    with started(MODEL, ctx=128, weight_memory="2MiB", api_key=",one,two") as server:
        assert server.api_key == "one"
        assert server.stats()["requests"] == 0
        server.api_key = "two"
        assert server.stats()["requests"] == 0


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_it_cannot_be_copied(server: Server, copied: Callable[[Server], object]) -> None:
    with pytest.raises(UnsupportedError, match="cannot be copied or pickled"):
        copied(server)
    assert server.stats()["passes"] == 0


def test_threads_may_ask_and_close_it(server: Server) -> None:
    said: list[str] = []

    def ask() -> None:
        for _ in range(2):
            try:
                while True:
                    server.stats()
                    said.append("asked")
            except EngineError as error:
                said.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    threads += [threading.Thread(target=server.wait)]
    for thread in threads:
        thread.start()
    while "asked" not in said:
        time.sleep(0.01)
    closers = [threading.Thread(target=server.close) for _ in range(2)]
    for thread in closers:
        thread.start()
    for thread in (*threads, *closers):
        thread.join()
    assert [one for one in said if one != "asked"] == [
        "the server is closed; start another one"
    ] * 6
    assert not Path(f"/proc/{server.pid}").exists()


def test_one_that_does_not_answer_before_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_END_SECONDS", 0.1)
    with started(MODEL, ctx=128, weight_memory="2MiB") as server, ThreadPoolExecutor() as pool:
        os.kill(server.pid, signal.SIGSTOP)
        asked = pool.submit(server.stats)
        time.sleep(0.3)  # by then it waits for the answer
        server.close()
        with pytest.raises(EngineError, match="the server is closed; start another one"):
            asked.result()


def test_options_are_those_of_the_command() -> None:
    flags = ("--temp", "0.25")
    with started(
        MODEL, ctx=128, weight_memory="2MiB", alias="mine", repack=False, flags=flags
    ) as s:
        with urllib.request.urlopen(f"{s.url}/props", timeout=60) as answer:
            props = json.load(answer)
        assert props["default_generation_settings"]["params"]["temperature"] == 0.25
        assert props["model_alias"] == "mine"
        assert s.plan()["kernels"] == "plain"
        assert s.plan()["request"]["weight_memory"] == 2 * MIB
        assert s.memory == 0


def test_its_start_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    with started(MODEL, weight_memory="2MiB", ctx=256, on_progress=lines.append):
        pass
    assert lines[-1] == "loading 1 slot of 256 tokens"
    with started(MODEL, weight_memory="2MiB", ctx=256) as server:
        # Nothing where nobody looks.
        assert capfd.readouterr() == ("", "")
        assert server.log[-1] == lines[-1]


def test_who_is_told_of_the_start_may_end_it() -> None:
    def told(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        started(MODEL, weight_memory="2MiB", on_progress=told)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"memory": "20MiB"}, BudgetError, "the smallest that would do"),
        ({"memory": "lots"}, SizeError, "'lots' is not a size"),
        ({"memory": True}, RequestError, "'True' is not a size"),
        ({"slots": 0}, RequestError, "--slots"),
        ({"no_such_thing": 1}, RequestError, "No such option '--no-such-thing'"),
        ({"lora": ["nowhere.gguf"]}, ModelNotFoundError, "nowhere.gguf"),
        ({"flags": ("--tools", "all")}, RequestError, "'--tools'"),
        ({"flags": "--temp 1"}, RequestError, "give a list"),
        ({"flags": [1]}, RequestError, "^flags is 1; give a text"),
        ({"flags": 5}, RequestError, "^flags is 5; give a list of texts"),
        ({"api_key": 5}, RequestError, "^api_key is 5; give a text"),
        ({"on_progress": 5}, RequestError, "^on_progress is 5; give a function"),
        ({"api_key": "a\0b"}, RequestError, "cannot be an argument"),
        ({"host": "192.0.2.1"}, RequestError, "192.0.2.1 cannot be listened on"),
    ],
)
def test_what_keeps_it_from_starting_is_the_exception_of_the_server(
    options: dict[str, object], kind: type[FlexInferError], words: str
) -> None:
    with pytest.raises(kind, match=words) as raised:
        started(MODEL, **options)
    assert type(raised.value) is kind
    assert "\n" not in str(raised.value)


def test_a_model_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"nowhere\.gguf"):
        started("nowhere.gguf")
    path = tmp_path / "none.gguf"
    path.write_bytes(b"GGUF but no more")
    with pytest.raises(ModelFileError, match=r"none\.gguf"):
        started(path)


def test_it_loads_no_library() -> None:
    loaded = loaded_by("from flexinfer import Server")
    assert loaded & {"llama_cpp", "numpy", "ctypes", "click", "rich"} == set()
