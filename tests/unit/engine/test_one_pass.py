"""One pass over weights in memory: what is placed, computed and given back, and in which order."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
from support.computing import Computing, run
from support.memory_source import PART_BYTES, HandMade, MemorySource

from flexinfer.engine.interrupts import Interrupt
from flexinfer.errors import ReadError
from flexinfer.native.mirror import STATUS_ABORTED, STATUS_FAILED, STATUS_SUCCESS, Tensor

ABSENT = 8


@pytest.fixture
def program() -> HandMade:
    """Three steps with one weight each."""
    made = HandMade()
    for name in ("a", "b", "c"):
        made.dense(name)
    return made


def test_each_step_has_its_weights_and_gives_them_back(program: HandMade) -> None:
    source, compute = MemorySource(), Computing(program)
    assert run(program, source, compute) == STATUS_SUCCESS
    assert compute.segments == [(0,), (1,), (2,)]
    assert source.log == [
        *("begin", "acquire 0", "release 1", "acquire 1", "release 2", "acquire 2", "release 3"),
        "end",
    ]
    assert [cell.value for cell in program.cells] == [ABSENT] * 3


def test_steps_whose_weights_are_there_are_computed_together(program: HandMade) -> None:
    source, compute = MemorySource(arrived=(1, 2)), Computing(program)
    assert run(program, source, compute, merge_bytes=2 * PART_BYTES) == STATUS_SUCCESS
    assert compute.segments == [(0, 1), (2,)], "no more than may be held back"
    assert source.log[1:4] == ["acquire 0", "acquire 1", "release 2"]


def test_a_step_that_is_not_there_is_not_waited_for_early(program: HandMade) -> None:
    source, compute = MemorySource(arrived=(2,)), Computing(program)
    assert run(program, source, compute, merge_bytes=99 * PART_BYTES) == STATUS_SUCCESS
    assert compute.segments == [(0,), (1, 2)]


def test_another_part_of_the_same_weight_needs_a_segment_of_its_own() -> None:
    """Both parts are pointed at by one field."""
    program = HandMade()
    program.dense("a")
    program.dense("a")
    compute = Computing(program)
    assert run(program, MemorySource(arrived=(1,)), compute, merge_bytes=1 << 20) == 0
    assert compute.segments == [(0,), (1,)]


def test_what_is_locked_stays_where_it_is() -> None:
    program = HandMade()
    program.dense("a", locked=True)
    assert run(program, MemorySource(), Computing(program)) == STATUS_SUCCESS
    assert program.cells[0].value != ABSENT


def test_a_segment_that_fails_ends_the_pass(program: HandMade) -> None:
    source = MemorySource()
    compute = Computing(program, lambda number: STATUS_FAILED if number == 2 else 0)
    assert run(program, source, compute) == STATUS_FAILED
    assert compute.segments == [(0,), (1,)]
    assert source.log[-2:] == ["acquire 1", "stop"]


def test_a_read_that_fails_ends_the_pass(program: HandMade) -> None:
    source, compute = MemorySource(fails_at=1), Computing(program)
    with pytest.raises(ReadError, match="b: the drive failed"):
        run(program, source, compute)
    assert compute.segments == [(0,)]
    assert source.log[-1] == "stop"


def test_an_interrupt_ends_the_pass_between_segments(program: HandMade) -> None:
    source, interrupt = MemorySource(), Interrupt()

    def press(number: int) -> int:
        if number == 2:
            interrupt.set()
        return STATUS_SUCCESS

    compute = Computing(program, press)
    assert run(program, source, compute, check=interrupt.check) == STATUS_ABORTED
    assert compute.segments == [(0,), (1,)]
    assert source.log[-1] == "stop"
    assert repr(interrupt) == "<Interrupt set>"
    interrupt.clear()
    assert repr(interrupt) == "<Interrupt clear>"
    assert run(program, source, Computing(program), check=interrupt.check) == STATUS_SUCCESS


def test_nothing_runs_any_more_while_the_model_closes(program: HandMade) -> None:
    interrupt, compute = Interrupt(), Computing(program)
    interrupt.close()
    interrupt.clear()
    assert run(program, MemorySource(), compute, check=interrupt.check) == STATUS_ABORTED
    assert compute.segments == []
    assert repr(interrupt) == "<Interrupt closing>"


def test_a_routed_step_computes_each_expert_as_it_arrives() -> None:
    program = HandMade()
    program.dense("router")
    program.routed([5, 2], matrices=2)
    program.dense("after")
    source, compute = MemorySource(), Computing(program)
    assert run(program, source, compute) == STATUS_SUCCESS
    places = {key: ctypes.addressof(memory) for key, memory in source.expert_bytes.items()}
    assert compute.segments == [
        (0,),
        (places[5, 0], places[5, 1]),
        (places[2, 0], places[2, 1]),
        (2,),
    ]
    assert source.log[3:6] == ["experts [2, 5]", "acquire 1", "release 2"]


def test_an_expert_that_fails_ends_the_pass() -> None:
    program = HandMade()
    program.routed([5, 2])
    source = MemorySource()
    compute = Computing(program, lambda number: STATUS_FAILED)
    assert run(program, source, compute) == STATUS_FAILED
    assert len(compute.segments) == 1
    assert source.log == ["begin", "experts [2, 5]", "stop"]


class Foreseen:
    """Guesses experts 7 and 9 with one node, the copy of which reads a weight at 4096."""

    group, used, count = 1, 2, 1

    def __init__(self) -> None:
        self.aimed = 0
        self._weight = Tensor(data=4096)
        self._node = Tensor()
        self._node.src[0] = ctypes.addressof(self._weight)
        self.array = (ctypes.c_uint64 * 1)(ctypes.addressof(self._node))

    def aim(self) -> None:
        self.aimed += 1

    def experts(self) -> list[int]:
        return [7, 9]


@pytest.mark.parametrize("most", [0, 1])
def test_the_next_routing_is_guessed_while_experts_arrive(most: int) -> None:
    program, foreseen = HandMade(), Foreseen()
    program.foresight[program.routed([5])] = foreseen  # type: ignore[assignment]
    source, compute = MemorySource(most=most), Computing(program)
    assert run(program, source, compute) == STATUS_SUCCESS
    assert foreseen.aimed == most
    assert source.guessed == [7, 9][:most]
    assert compute.segments[:-1] == [(4096,)] * most


def test_no_library_is_needed() -> None:
    code = (
        "from support.computing import Computing, run\n"
        "from support.memory_source import HandMade, MemorySource\n"
        "made = HandMade(); made.dense('a'); made.routed([1, 0])\n"
        "assert run(made, MemorySource(), Computing(made)) == 0\n"
        "print('ggml' in open('/proc/self/maps').read())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr
