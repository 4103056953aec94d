"""Equal bits however few experts are in memory, and routing that is recorded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.decoding import Scenario, decode, decode_plainly
from support.tiny_model import TinyModel

from flexinfer import Llama
from flexinfer.bench.traces import TraceRecorder
from flexinfer.planning.expert_slots import Needs
from flexinfer.storage.experts.reads import MatrixReads

SCENARIOS = (
    Scenario(prompts=(40, 3), steps=6, threads=1),
    Scenario(prompts=(150,), steps=3, threads=2),
    Scenario(prompts=(33,), steps=2, threads=1, ubatch=8),
)


def least_memory(path: Path) -> int:
    with Llama(str(path), weight_memory="1GiB", n_ctx=64, verbose=False) as llm:
        return Needs.of(llm.plan.weights).least


@pytest.mark.parametrize("quant", ["q4_0", "q4_K", "q6_K", "f16"])
def test_equal_bits_with_few_slots(tiny_model: TinyModel, quant: str, tmp_path: Path) -> None:
    path = tiny_model("tiny-moe", quant)
    least = least_memory(path)
    plain = decode_plainly(path, SCENARIOS, tmp_path)
    whole = path.stat().st_size
    for memory_ in (least, least + whole // 5, least + whole // 2):
        for scenario, expected in zip(SCENARIOS, plain, strict=True):
            with Llama(str(path), weight_memory=memory_, **scenario.options()) as llm:
                assert llm.plan.expert_window
                assert np.array_equal(decode(llm, scenario), expected), llm.plan.mode


def test_a_wrong_expert_is_seen(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison fails when the matrices of two experts are exchanged."""
    path = tiny_model("tiny-moe")
    scenario = SCENARIOS[0]
    (expected,) = decode_plainly(path, [scenario], tmp_path)
    start = MatrixReads.start

    def exchanged(self, matrix, expert, arena, place, **how):  # type: ignore[no-untyped-def]
        other = expert ^ (matrix.name == "blk.2.ffn_up_exps.weight")
        return start(self, matrix, other, arena, place, **how)

    monkeypatch.setattr(MatrixReads, "start", exchanged)
    with Llama(str(path), weight_memory=least_memory(path), **scenario.options()) as llm:
        assert not np.array_equal(decode(llm, scenario), expected)


def test_slots_follow_the_budget_while_the_model_is_open(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    path = tiny_model("tiny-moe")
    scenario = Scenario(prompts=(20,), steps=3, threads=1)
    (expected,) = decode_plainly(path, [scenario], tmp_path)
    least = least_memory(path)
    with Llama(str(path), weight_memory=2 * least, **scenario.options()) as llm:
        engine = llm._running()
        for room in (least, 3 * least, 2 * least):
            engine.resize(room)
            llm.reset()
            assert np.array_equal(decode(llm, scenario), expected)
        llm.release()
        llm.reset()
        assert np.array_equal(decode(llm, scenario), expected)


def test_the_routing_of_a_model_is_recorded(tiny_model: TinyModel) -> None:
    path = tiny_model("tiny-moe")
    recorder = TraceRecorder()
    with Llama(str(path), weight_memory=least_memory(path), n_ctx=64, verbose=False) as llm:
        assert llm.experts is not None
        llm.experts.recorder = recorder
        llm.eval([5, 6, 7])
        llm.eval([8])
    trace = recorder.trace("tiny-moe", 16)
    # The last layer computes only tokens whose logits are asked for.
    assert [len(layer) for layer in trace.layers[:-1]] == [4, 4, 4]
    assert all(len(set(token)) == 4 for layer in trace.layers for token in layer)
