"""Limits from outside: groups, `ulimit`, and models that share one process's budget."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.command import FLEXINFER
from support.decoding_bits import answer
from support.tiny_model import TinyModel

from flexinfer import Llama
from flexinfer.bench.limits import LimitedGroup, limited
from flexinfer.errors import BudgetError, UnsupportedError
from flexinfer.machine.machine import process_memory
from flexinfer.sizes import format_size
from flexinfer.synth.write import write_model

MIB = 1 << 20
_OPTIONS: dict[str, Any] = {
    "n_ctx": 256,
    "n_batch": 32,
    "n_threads": 2,
    "logits_all": True,
    "verbose": False,
}
Done = tuple["subprocess.CompletedProcess[str]", LimitedGroup]
InGroup = Callable[..., Done]
_GROW = """
import sys
from flexinfer import Llama
with Llama(sys.argv[1], memory="140MiB", n_ctx=256, n_threads=2, verbose=False) as llm:
    for wish in ("2GiB", "1000%", 2 << 30):
        try:
            llm.memory = wish
        except ValueError:
            continue
        print(llm.memory)
        llm.eval([1, 2, 3])
    llm.memory = "130MiB"
    print(llm.memory)
    llm.eval([1, 2, 3])
"""


@pytest.fixture
def in_group() -> Iterator[InGroup]:
    """Runs Python with arguments in a group of so much memory, without swap."""
    with ExitStack() as stack:

        def run(
            memory: int, *arguments: str
        ) -> tuple[subprocess.CompletedProcess[str], LimitedGroup]:
            try:
                group = stack.enter_context(limited(memory=memory))
            except UnsupportedError as error:
                pytest.skip(str(error))
            done = subprocess.run(
                [sys.executable, *arguments],
                preexec_fn=group.join,
                capture_output=True,
                text=True,
                check=False,
            )
            return done, group

        yield run


@pytest.fixture
def large(tiny_model: TinyModel) -> Path:
    return tiny_model("tiny-wide", "f16")


def test_a_budget_that_is_assigned_is_held_below_the_group(in_group: InGroup, large: Path) -> None:
    done, group = in_group(150 * MIB, "-c", _GROW, str(large))
    assert done.returncode == 0, done.stderr
    first, second, last = map(int, done.stdout.split())
    assert first <= 150 * MIB
    assert second <= 150 * MIB
    assert last == 130 * MIB
    assert group.oom_kills == 0


@pytest.mark.parametrize("budget", [[], ["--memory", "100%"], ["--memory", "64MiB"]])
def test_a_small_group_holds_what_its_size_as_a_budget_does(
    in_group: InGroup, tiny_model: TinyModel, budget: list[str]
) -> None:
    model = str(tiny_model("tiny-llama", "q4_0"))
    command = ["-m", "flexinfer", "run", model, "-p", "one", "-n", "4", *budget]
    done, group = in_group(64 * MIB, *command)
    assert done.returncode == 0, done.stderr
    assert group.oom_kills == 0


@pytest.mark.parametrize(
    ("limit", "option"), [(resource.RLIMIT_AS, "-v"), (resource.RLIMIT_DATA, "-d")]
)
def test_a_limit_on_the_process_is_named_and_ends_nothing_else(
    large: Path, limit: int, option: str
) -> None:
    """From too little for the library to what is enough: it runs, or the limit is named."""
    command = [sys.executable, "-m", "flexinfer", "run", str(large), "-p", "one", "-n", "2", "-q"]
    codes = set()
    for mebibytes in (340, 430, 4000):
        nbytes = mebibytes * MIB
        done = subprocess.run(
            [*command, "--threads", "1"],
            preexec_fn=partial(resource.setrlimit, limit, (nbytes, nbytes)),
            capture_output=True,
            text=True,
            check=False,
        )
        codes.add(done.returncode)
        assert "Traceback" not in done.stderr
        assert "smaller context" not in done.stderr
        if done.returncode:
            assert f"ulimit {option}" in done.stderr or "budget of" in done.stderr, done.stderr
    assert codes <= {0, 1}
    assert 0 in codes


@pytest.mark.parametrize(("which", "code"), [("-n", 1), ("-Sn", 0)])
def test_a_model_of_more_files_than_may_be_open(tmp_path: Path, which: str, code: int) -> None:
    """A limit that this process may raise is raised."""
    files = write_model("tiny-llama", tmp_path / "m.gguf", split=15)
    words = ("run", str(files[0]), "-p", "one", "-n", "2", "-q", "--memory", "1GiB")
    done = subprocess.run(
        ["sh", "-c", f'ulimit {which} 30; exec "$@"', "sh", *FLEXINFER, *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    if code:
        assert "the model has 15 files, but ulimit -n" in done.stderr
    assert "Traceback" not in done.stderr


# -- several models in one process ---------------------------------------------------------------


@pytest.fixture
def first(large: Path) -> Iterator[Llama]:
    budget = process_memory() + 140 * MIB
    with Llama(str(large), memory=budget, **_OPTIONS) as llm:
        yield llm


def test_a_second_model_that_asks_for_more_gets_it(first: Llama, large: Path) -> None:
    alone = answer(first)
    assert first.memory is not None
    more = first.memory + 200 * MIB
    with Llama(str(large), memory=more, **_OPTIONS) as second:
        assert first.memory == second.memory == more
        assert answer(second) == answer(first) == alone


@pytest.mark.parametrize("wish", [None, "auto", "90MiB"])
def test_a_second_model_that_does_not_fit_is_told_what_the_first_holds(
    first: Llama, large: Path, wish: str | None
) -> None:
    budget, before = first.memory, answer(first)
    assert budget is not None
    with pytest.raises(BudgetError) as error:
        Llama(str(large), memory=wish, n_ctx=512, n_batch=512, logits_all=True, verbose=False)
    said = str(error.value)
    assert f"of its budget of {format_size(budget)}: close one" in said
    assert "\n" not in said
    assert first.memory == budget
    assert answer(first) == before
