"""What happens to the process: Ctrl-C, kill, fork, threads, closing early, exit, no memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import median

import llama_cpp
import pytest
from support.decoding_bits import answer, open_tiny
from support.tiny_model import TinyModel
from support.victims.starting import Start, ends

from flexinfer import Llama
from flexinfer.errors import BudgetError, EngineError, ReadError
from flexinfer.machine.machine import process_memory


def test_control_c_at_random_moments(start: Start) -> None:
    """Each ends one request with KeyboardInterrupt; the next one gives the same bits."""
    output = ends(start("interrupt.py", "12", "1"))
    interrupted, wrong = map(int, output.split())
    assert wrong == 0
    assert interrupted >= 3


@pytest.mark.parametrize("when", ["reading", "idle", "failed", "forked"])
def test_the_interpreter_ends_with_an_open_model(start: Start, when: str) -> None:
    assert ends(start("leave.py", when)) == "leaving\n"


def test_kill_leaves_nothing_behind(start: Start) -> None:
    before = _traces()
    process = start("endless.py")
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    children = _children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert children == []
    assert _traces() - before == set()


def test_control_c_in_the_command_line(tiny_model: TinyModel) -> None:
    command = [sys.executable, "-m", "flexinfer", "run", str(tiny_model("tiny-llama", "q4_0"))]
    command += ["-p", "once", "-n", "100000", "--ctx", "512"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.read(1)  # it answers
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    assert process.returncode in (0, 130)


def test_threads_that_call_at_the_same_time(tiny_model: TinyModel) -> None:
    """Each with a model of its own on one file; contexts of one model take turns by themselves."""
    path = tiny_model("tiny-llama", "q4_0")
    models = [open_tiny(path) for _ in range(3)]
    expected = answer(models[0])
    answers: list[bytes] = []

    def call(llm: Llama) -> None:
        answers.extend(answer(llm) for _ in range(3))

    threads = [threading.Thread(target=call, args=(llm,)) for llm in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for llm in models:
        llm.close()
    assert answers == [expected] * 9


def test_two_contexts_of_one_model_take_turns(tiny_model: TinyModel) -> None:
    with open_tiny(tiny_model("tiny-llama", "q4_0")) as llm:
        model = llm._model.model
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx, parameters.n_batch, parameters.n_ubatch = 256, 32, 32
        parameters.n_threads = parameters.n_threads_batch = 1
        contexts = [llama_cpp.llama_init_from_model(model, parameters) for _ in range(2)]
        found: dict[int, list[bytes]] = {}

        def decode(number: int) -> None:
            found[number] = [_decode(contexts[number], [5 + n, 9, 2]) for n in range(20)]

        threads = [threading.Thread(target=decode, args=(n,)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for context in contexts:
            llama_cpp.llama_free(context)
    assert found[0] == found[1]
    assert len(set(found[0])) == 20


def test_closing_during_an_answer(tiny_model: TinyModel) -> None:
    """The thread that answers gets one clear error, or had finished."""
    path = tiny_model("tiny-llama", "q4_0")
    for delay in (0.0, 0.01, 0.05, 0.1, 0.2):
        llm = open_tiny(path)
        ended: list[BaseException | None] = []

        def call(llm: Llama = llm, ended: list[BaseException | None] = ended) -> None:
            try:
                for _ in range(50):
                    answer(llm)
            except (EngineError, ReadError) as error:
                ended.append(error)
            else:
                ended.append(None)

        thread = threading.Thread(target=call)
        thread.start()
        time.sleep(delay)
        llm.close()
        thread.join(60)
        assert len(ended) == 1, f"after {delay} s"
        assert ended[0] is None or "\n" not in str(ended[0])
    with open_tiny(path) as llm:
        answer(llm)


def test_a_closed_model_says_so(tiny_model: TinyModel) -> None:
    llm = open_tiny(tiny_model("tiny-llama", "q4_0"))
    llm.close()
    llm.close()
    with pytest.raises(EngineError, match="closed"):
        llm.release()


def test_memory_that_is_refused_when_opening(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_model("tiny-llama", "q4_0")
    with open_tiny(path) as llm:
        expected = answer(llm)
    before = threading.active_count()
    with monkeypatch.context() as patch:
        patch.setattr("flexinfer.memory.pages.mmap.mmap", _no_memory)
        with pytest.raises((MemoryError, OSError)):
            open_tiny(path)
    assert threading.active_count() == before
    with open_tiny(path) as llm:
        assert answer(llm) == expected


def test_a_context_that_the_budget_refuses(tiny_model: TinyModel) -> None:
    """A second context of a limited model is refused with the arithmetic; the first goes on."""
    path = str(tiny_model("tiny-llama", "q4_0"))
    memory = process_memory() + (200 << 20)
    with Llama(path, memory=memory, n_ctx=256, logits_all=True, verbose=False) as llm:
        expected = answer(llm)
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = 1 << 22
        assert not llama_cpp.llama_init_from_model(llm._model.model, parameters)
        assert answer(llm) == expected
        with pytest.raises(BudgetError):
            llm.memory = "1MiB"
        assert answer(llm) == expected


def _decode(context: int, tokens: list[int]) -> bytes:
    memory = llama_cpp.llama_get_memory(context)
    llama_cpp.llama_memory_clear(memory, True)
    array = (llama_cpp.llama_token * len(tokens))(*tokens)
    assert llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(tokens))) == 0
    logits = llama_cpp.llama_get_logits_ith(context, -1)
    return bytes(memoryview((llama_cpp.ctypes.c_float * 64).from_address(_address(logits))))


def _address(pointer: object) -> int:
    return int(llama_cpp.ctypes.cast(pointer, llama_cpp.ctypes.c_void_p).value or 0)


def _no_memory(*_: object, **__: object) -> None:
    raise OSError(12, "Cannot allocate memory")


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _traces() -> set[str]:
    """What a process could leave: shared memory, control groups, files beside the model."""
    places = ["/dev/shm", "/tmp"]
    return {f"{p}/{name}" for p in places for name in os.listdir(p) if "flexinfer" in name}


@pytest.mark.usefixtures("no_leaks")
def test_opening_and_closing_50_times_leaves_nothing(tiny_model: TinyModel) -> None:
    path = tiny_model("tiny-llama", "q4_0")
    maps = []
    for _ in range(50):
        with open_tiny(path) as llm:
            llm.eval([1, 2, 3])
        maps.append(len(Path("/proc/self/maps").read_text().splitlines()))
    # The heap comes and goes by a few maps; one left behind at each opening would be 25 more.
    assert median(maps[40:]) - median(maps[15:25]) < 15
