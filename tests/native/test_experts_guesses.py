"""Experts read before their layer asks: when it pays, what a guess may touch, and equal bits."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.architectures import tiny
from support.decoding import Scenario, decode, decode_plainly
from support.tiny_model import TinyModel
from test_experts import memory

import flexinfer
from flexinfer import Llama
from flexinfer.errors import ReadError
from flexinfer.reading.memory_reader import MemoryReader
from flexinfer.reading.reader import Transfer, Treatment
from flexinfer.reading.waiting import Counters, Waiting
from flexinfer.seam import Batch
from flexinfer.storage.experts.experts import Experts
from flexinfer.storage.experts.guesses import Guess, Guessing
from flexinfer.storage.experts.reads import Matrix, MatrixReads
from flexinfer.storage.experts.store import ExpertStore

# -- when it pays ------------------------------------------------------------------------------


def guess(
    right: bool, arrived: float = 1.0, flying: float = 0.0, rank: int = 0, displaced: float = 0.0
) -> Guess:
    """Of an expert that takes a millisecond to read."""
    return Guess(rank, right, 0.001, arrived, flying, displaced)


def test_a_right_guess_gains_what_was_read_of_it() -> None:
    assert guess(True).gain_s == pytest.approx(0.001)
    assert guess(True, arrived=0.25, flying=0.5).gain_s == pytest.approx(0.0005)
    assert guess(True, arrived=0.0, displaced=0.1).gain_s < 0


def test_a_wrong_guess_costs_the_drive_the_processor_and_a_slot() -> None:
    assert guess(False, arrived=0.0).gain_s == 0
    flying = guess(False, arrived=0.0, flying=0.4).gain_s
    assert flying < guess(False, arrived=0.4).gain_s < 0
    assert guess(False, displaced=0.2).gain_s < guess(False).gain_s


def test_right_guesses_go_on_at_all_ranks() -> None:
    guessing = Guessing(3)
    for _ in range(500):
        depth = guessing.depth()
        guessing.note([guess(True, rank=rank) for rank in range(depth)], 1e-4)
    assert guessing.depth() == 3


def test_wrong_guesses_rest_and_are_tried_again() -> None:
    guessing = Guessing(2)
    depths = []
    for _ in range(1000):
        depths.append(depth := guessing.depth())
        if depth:
            guessing.note([guess(False, rank=rank) for rank in range(depth)], 1e-4)
    assert not guessing.pays
    assert 0 < sum(depth > 0 for depth in depths[500:]) < 32


def test_only_ranks_that_gain_are_guessed() -> None:
    guessing = Guessing(4)
    for _ in range(1000):
        depth = guessing.depth()
        guessing.note([guess(rank < 2, rank=rank) for rank in range(depth)], 1e-4)
    assert [guessing.depth() for _ in range(100)].count(2) > 90


def test_a_guess_that_takes_longer_than_it_saves_rests() -> None:
    guessing = Guessing(2)
    for _ in range(1000):
        depth = guessing.depth()
        if depth:
            guessing.note([guess(True, rank=rank) for rank in range(depth)], cost_s=0.01)
    assert not guessing.pays


def test_guessing_comes_back_when_it_pays_again() -> None:
    guessing = Guessing(2)
    for step in range(10_000):
        depth = guessing.depth()
        if depth:
            guessing.note([guess(step > 1000, rank=rank) for rank in range(depth)], 1e-5)
    assert guessing.pays
    assert guessing.depth() == 2


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1), st.floats(0, 1)), max_size=200))
def test_the_depth_is_within_its_bounds(notes: list[tuple[bool, float, float]]) -> None:
    guessing = Guessing(3)
    for right, arrived, cost in notes:
        depth = guessing.depth()
        assert 0 <= depth <= 3
        guessing.note([guess(right, arrived, 1 - arrived, rank) for rank in range(depth)], cost)


# -- what a guess may touch --------------------------------------------------------------------

EXPERTS, USED, SLOTS = 16, 2, 7
MATRIX = Matrix("up", 0, 0, 4096)
BLOB = b"".join(bytes([expert]) * MATRIX.nbytes for expert in range(EXPERTS))


class PatientReader(MemoryReader):
    """Reads that are not urgent wait until `deliver`."""

    def __init__(self) -> None:
        super().__init__([BLOB])
        self.waiting: list[tuple[Transfer, int, memoryview]] = []

    def start(
        self,
        file: int,
        start: int,
        view: memoryview,
        need: int,
        *,
        urgent: bool = False,
        treat: Treatment | None = None,
    ) -> Transfer:
        if urgent:
            return super().start(file, start, view, need, urgent=True, treat=treat)
        transfer = Transfer()
        self.waiting.append((transfer, start, view))
        return transfer

    def deliver(self, error: ReadError | None = None) -> None:
        for transfer, start, view in self.waiting:
            if error is None:
                view[:] = BLOB[start : start + len(view)]
            transfer.finish(error)
        self.waiting.clear()

    def cancel(self, timeout: float | None = None) -> bool:
        self.deliver(ReadError("the read was cancelled"))
        return True


class Harness:
    """A store with one group, of which each token uses two experts."""

    def __init__(self, slots: int = SLOTS) -> None:
        self.reader = PatientReader()
        self.io = Counters()
        self.experts = Experts()
        reads = MatrixReads(self.reader, self.io, Waiting())
        self.store = ExpertStore([([MATRIX], EXPERTS)], [slots], MATRIX.span, reads, self.experts)

    @property
    def resident(self) -> set[int]:
        return set(self.experts.resident[0])

    def token(self, *experts: int) -> None:
        batch = Batch(0, (0,), (), True, 1, dict.fromkeys(experts, 1))
        seen = []
        for ready in self.store.fetch(batch):
            for expert, (address,) in ready:
                seen.append(expert)
                assert memory(address, MATRIX.nbytes) == bytes([expert]) * MATRIX.nbytes
        assert sorted(seen) == sorted(experts)

    def guess(self, *experts: int) -> None:
        assert self.store.guesses(0, USED) == 4
        self.store.guess(0, experts, 4, cost_s=1e-6)


def test_a_right_guess_is_there_and_counts_as_no_hit() -> None:
    harness = Harness()
    harness.token(0, 1)
    harness.guess(1, 5)
    harness.reader.deliver()
    read = harness.io.read_bytes
    harness.token(1, 5)
    assert harness.io.read_bytes == read
    counters = harness.experts.counters
    assert (counters.wanted, counters.hits) == (4, 1)
    assert (counters.guessed, counters.guessed_right) == (1, 1)


def test_what_was_guessed_wrongly_is_not_read_any_more() -> None:
    harness = Harness()
    harness.guess(8, 9)
    abandoned = harness.reader.waiting[1][0]
    read = harness.io.read_bytes
    batch = Batch(0, (0,), (), True, 1, {8: 1})
    arrivals = harness.store.fetch(batch)
    assert abandoned.error is not None
    assert harness.io.read_bytes == read // 2 == MATRIX.nbytes
    harness.reader.deliver()
    assert [expert for expert, _ in next(arrivals)] == [8]
    harness.token(8, 9)


def test_a_guess_under_way_is_waited_for() -> None:
    harness = Harness()
    harness.guess(5)
    batch = Batch(0, (0,), (), True, 1, {5: 1, 6: 1})
    arrivals = harness.store.fetch(batch)
    assert [expert for expert, _ in next(arrivals)] == [6]
    harness.reader.deliver()
    assert [expert for expert, _ in next(arrivals)] == [5]


def test_the_slot_of_a_read_under_way_goes_to_nobody_else() -> None:
    """Or a late read would write over another expert."""
    harness = Harness()
    harness.guess(8, 9, 10, 11)
    for transfer, _, _ in harness.reader.waiting:
        transfer.begun = True
    for first in range(0, 8, 2):
        harness.token(first, first + 1)
        assert {8, 9, 10, 11} <= harness.resident
    harness.reader.deliver()
    read = harness.io.read_bytes
    harness.token(8, 9)
    assert harness.io.read_bytes == read
    for first in range(0, 8, 2):
        harness.token(first, first + 1)
    assert not {10, 11} & harness.resident


def test_guesses_wait_for_the_ones_before() -> None:
    harness = Harness()
    harness.guess(8, 9)
    assert harness.store.guesses(0, USED) == 0
    harness.reader.deliver()
    assert harness.store.guesses(0, USED) > 0


@pytest.mark.parametrize("spare", [0, 1, 3])
def test_no_more_guesses_than_slots_to_spare(spare: int) -> None:
    harness = Harness(slots=USED + spare)
    assert harness.store.guesses(0, USED) == spare
    harness.store.guess(0, list(range(8, 8 + spare)), spare, cost_s=1e-6)
    for first in range(0, 8, 2):
        harness.token(first, first + 1)


def test_a_guess_does_not_push_out_what_it_expects() -> None:
    harness = Harness(slots=6)
    for experts in ((0, 1), (2, 3), (4, 5)):
        harness.token(*experts)
    harness.guess(0, 9)
    assert {0, 9} <= harness.resident
    harness.reader.deliver()


def test_a_guess_that_failed_is_read_when_it_is_wanted() -> None:
    harness = Harness()
    harness.guess(8)
    harness.reader.deliver(ReadError("the drive failed"))
    harness.token(8, 0)


def test_a_guess_under_way_when_all_stops() -> None:
    harness = Harness()
    harness.guess(8)
    harness.store.stop()
    assert harness.resident == set()
    harness.token(8, 0)
    assert harness.experts.counters.guessed_right == 0


def test_no_slots_are_left_when_all_stops_with_a_guess_under_way() -> None:
    harness = Harness()
    harness.guess(8)
    harness.store.stop()
    harness.store.resize([0], MATRIX.span)
    harness.token(8, 0)


def test_a_wrong_guess_still_under_way_is_read_again_when_it_is_wanted_after_all() -> None:
    harness = Harness()
    harness.guess(8, 9)
    harness.reader.waiting[0][0].begun = True
    harness.token(0, 1)
    assert harness.reader.waiting[0][0].error is None
    assert harness.reader.waiting[1][0].error is not None
    later = threading.Timer(0.05, harness.reader.deliver)
    later.start()
    harness.token(8, 9)
    later.join()


def test_more_experts_than_slots_beside_guesses_under_way() -> None:
    harness = Harness()
    harness.guess(8, 9, 10, 11)
    for transfer, _, _ in harness.reader.waiting:
        transfer.begun = True
    batch = Batch(0, (0,), (), True, 2, dict.fromkeys((0, 1, 2, 3), 1))
    arrived = [expert for ready in harness.store.fetch(batch) for expert, _ in ready]
    assert sorted(arrived) == [0, 1, 2, 3]
    harness.reader.deliver()


def test_an_expert_that_is_named_twice_takes_one_slot() -> None:
    harness = Harness()
    harness.guess(8, 8, 9)
    assert harness.experts.counters.guessed == 2
    harness.reader.deliver()
    for first in range(0, 8, 2):
        harness.token(first, first + 1)
    assert len(harness.resident) == SLOTS


def test_what_was_learned_outlives_a_release() -> None:
    harness = Harness()
    harness.token(0, 1)
    guessing = harness.experts.guessing
    reads = MatrixReads(harness.reader, harness.io, Waiting())
    harness.store = ExpertStore([([MATRIX], EXPERTS)], [SLOTS], MATRIX.span, reads, harness.experts)
    assert harness.resident == set()
    harness.token(0, 1)
    assert harness.experts.counters.wanted == 4
    assert harness.experts.guessing is guessing


# -- against the graph -------------------------------------------------------------------------

_WRITES_NO_TOKENS = {"llada-moe-moe", "rnd1-moe", "nomic-bert-moe-moe"}
MIXTURE = Path(flexinfer.__file__).with_name("data") / "shakespeare-moe.gguf"
# Some slots, not all.
_HALF = int(MIXTURE.stat().st_size * 0.85)
_GROUPED: dict[str, dict[str, tuple[str, int]]] = {
    "deepseek2-moe": {
        "*.expert_group_count": ("UINT32", 2),
        "*.expert_group_used_count": ("UINT32", 1),
    },
    "grovemoe-moe": {"*.experts_per_group": ("UINT32", 2)},
}
_MIXTURES = tuple(
    name for name in tiny.models() if name.endswith("-moe") and name not in _WRITES_NO_TOKENS
)
# Given a router's own input, the copied nodes must choose what the graph chooses.
_OWN_INPUT = """
import json, sys
from flexinfer import Llama
from flexinfer.native.mirror import CGraph
from flexinfer.engine.engine import Engine
from flexinfer.engine.one_pass import OnePass
from flexinfer.native.graph.foresight import Foresight, _experts_read, _Search
from flexinfer.native.graph.nodes import node_addresses

experts, found = OnePass._compute_experts, {}

def compared(self, routed):
    if routed.first and routed.tokens == 1:
        search = _Search(routed.ids, self._source.layouts)
        nodes = node_addresses(CGraph.from_address(current[0]))
        order = {address: at for at, address in enumerate(nodes)}
        equal = None
        if search.complete and _experts_read(routed, search.source):
            own = Foresight(routed.group, search, search.source, order)
            own.aim()
            self._call(self._program.segment_of(own.array, own.count))
            equal = own.experts() == routed.read_ids()[0]
        found[name].append((equal, routed in self._program.foresight))
    return experts(self, routed)

compute, current = Engine.compute, [0]

def noted(self, backend, graph_address):
    current[0] = graph_address
    return compute(self, backend, graph_address)

OnePass._compute_experts, Engine.compute = compared, noted
for path in sys.argv[1:]:
    name = path
    found[name] = []
    with Llama(path, weight_memory="1GiB", n_ctx=64, verbose=False) as llm:
        whole = llm.plan.weight_bytes
    with Llama(path, weight_memory=int(whole * 0.8), n_ctx=64, verbose=False) as llm:
        for token in (4, 5, 6):
            llm.eval([token])
print(json.dumps(found))
"""


def _with_experts(name: str, experts: int, used: int) -> dict[str, Any]:
    """A mixture of the list, which have two experts and use both, with more to choose from."""
    model = copy.deepcopy(tiny.models()[name])
    model["blocks"] = model.get("blocks") or model["metadata"]["*.block_count"][1]
    model["metadata"] |= {
        "*.expert_count": ("UINT32", experts),
        "*.expert_used_count": ("UINT32", used),
        **_GROUPED.get(name, {}),
    }
    together = model["metadata"].get("*.experts_per_group", ("UINT32", 1))[1]
    chunks = experts // max(together, 1)
    for at, line in enumerate(model["tensors"]):
        tensor, kind, sizes, *blocks = line.split()
        if re.search(r"(gate|up|down)_(ch)?exps|ffn_gate_inp(?!_)|exp_probs_b", tensor):
            width = sizes.split("x")[:-1]
            last = str(chunks if "_chexps" in tensor else experts)
            model["tensors"][at] = " ".join([tensor, kind, "x".join([*width, last]), *blocks])
    return model


@pytest.mark.native
def test_copied_routers_choose_as_the_graph_does(tmp_path: Path) -> None:
    paths = [
        tiny.write_model(_with_experts(name, 8, 3), tmp_path / f"{name}.gguf") for name in _MIXTURES
    ]
    done = subprocess.run(
        [sys.executable, "-c", _OWN_INPUT, *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = {Path(path).stem: steps for path, steps in json.loads(done.stdout).items()}
    compared = {name for name, steps in found.items() if any(equal for equal, _ in steps)}
    foreseen = {name for name, steps in found.items() if any(ahead for _, ahead in steps)}
    wrong = {name for name, steps in found.items() if any(equal is False for equal, _ in steps)}
    assert wrong == set()
    # The others are read whole, take other inputs, or have one layer of experts.
    assert len(compared) >= 45
    assert len(foreseen) >= 25


@pytest.mark.native
def test_a_trained_router_names_experts_of_the_next_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four of 16 are right by chance in a quarter of the cases."""
    monkeypatch.setattr(Guessing, "depth", lambda self: 2)
    with Llama(str(MIXTURE), weight_memory=_HALF, n_ctx=256, seed=1, verbose=False) as llm:
        assert llm.experts is not None
        tokens = llm.generate(llm.tokenize(b"ROMEO:\nWhat"), temp=0.8)
        for _ in range(100):
            next(tokens)
        counters = llm.experts.counters
    assert counters.guessed > 100
    assert counters.guessed_right > 0.4 * counters.guessed


@pytest.mark.native
def test_equal_bits_with_guesses(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = tiny_model("tiny-moe")
    scenario = Scenario(prompts=(40, 3), steps=40, threads=2)
    (expected,) = decode_plainly(path, [scenario], tmp_path)
    room = int(path.stat().st_size * 0.8)
    with Llama(str(path), weight_memory=room, **scenario.options()) as llm:
        assert llm.experts is not None
        assert np.array_equal(decode(llm, scenario), expected)
        assert llm.experts.counters.guessed > 0
