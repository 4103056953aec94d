"""Streamed logits equal plain llama.cpp's, bit for bit; plain runs in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.decoding import Scenario, decode, decode_all, decode_plainly
from support.tiny_model import TinyModel

from flexinfer import Llama
from flexinfer.native.graph.steps import Load
from flexinfer.planning.expert_slots import Needs

QUANTS = ("q4_0", "q4_K", "q6_K", "q8_0", "f16", "bf16")
EVERYWHERE = (
    Scenario(prompts=(40,), threads=2),
    Scenario(prompts=(40,), threads=1, flash_attn=True),
    Scenario(prompts=(1, 2, 8, 33), ubatch=32),
)
THOROUGH = (
    *EVERYWHERE,
    Scenario(prompts=(300, 200), threads=2, flash_attn=True),
    Scenario(prompts=(512,), steps=8),
    Scenario(prompts=(20,), flash_attn=True, kv_type=8),
)


def least_memory(path: Path) -> int:
    """The fewest bytes for weights that a pass over the model can do with."""
    with Llama(str(path), weight_memory="1GiB", n_ctx=64, verbose=False) as llm:
        return Needs.of(llm.plan.weights).least


def assert_equal(path: Path, scenarios: tuple[Scenario, ...], memory: int, folder: Path) -> None:
    plain = decode_plainly(path, scenarios, folder)

    def ours(options: dict[str, Any]) -> Llama:
        return Llama(str(path), weight_memory=memory, verbose=False, **options)

    for scenario, expected, got in zip(scenarios, plain, decode_all(ours, scenarios), strict=True):
        assert np.isfinite(expected.view(np.float32)).all()
        assert np.array_equal(expected, got), scenario


@pytest.mark.parametrize("quant", QUANTS)
def test_every_quantisation_streamed_hard(
    tiny_model: TinyModel, quant: str, tmp_path: Path
) -> None:
    path = tiny_model("tiny-llama", quant)
    assert_equal(path, EVERYWHERE, least_memory(path), tmp_path)


def test_prompts_threads_caches_and_attention(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = tiny_model("tiny-llama", "q4_K")
    assert_equal(path, THOROUGH, least_memory(path), tmp_path)


@pytest.mark.parametrize("preset", ["tiny-tied", "tiny-wide", "tiny-moe"])
@pytest.mark.parametrize("quant", ["q4_0", "q6_K", "bf16"])
def test_shapes(tiny_model: TinyModel, preset: str, quant: str, tmp_path: Path) -> None:
    path = tiny_model(preset, quant)
    assert_equal(path, EVERYWHERE, least_memory(path), tmp_path)


def test_every_share_of_locked_weights(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = tiny_model("tiny-llama", "q4_0")
    scenario = Scenario()
    (expected,) = decode_plainly(path, [scenario], tmp_path)
    least, whole = least_memory(path), path.stat().st_size
    for share in (0, 20, 40, 60, 80, 100, 200):
        memory = least + whole * share // 100
        with Llama(str(path), weight_memory=memory, verbose=False, **scenario.options()) as llm:
            assert np.array_equal(decode(llm, scenario), expected), llm.plan.mode
            resident = llm.plan.resident
    assert resident, "the last share holds everything"


def test_the_window_is_smaller_than_the_largest_weight(tiny_model: TinyModel) -> None:
    path = tiny_model("tiny-wide", "q4_0")
    with Llama(str(path), weight_memory=least_memory(path), n_ctx=64, verbose=False) as llm:
        assert llm.plan.window < max(weight.nbytes for weight in llm.plan.weights)


def test_a_wrong_slot_is_seen(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison fails when one weight's pointer is off by one row."""
    path = tiny_model("tiny-llama", "q4_0")
    scenario = Scenario()
    (expected,) = decode_plainly(path, [scenario], tmp_path)
    place = Load.place

    def off_by_one(self: Load, address: int) -> None:
        moved = address != self.absent and self.part.name == "blk.1.ffn_up.weight"
        place(self, address + (self.part.nbytes // self.part.rows if moved else 0))

    monkeypatch.setattr(Load, "place", off_by_one)
    with Llama(
        str(path), weight_memory=least_memory(path), verbose=False, **scenario.options()
    ) as llm:
        assert not np.array_equal(decode(llm, scenario), expected)


def test_streamed_weights_point_nowhere_between_passes(tiny_model: TinyModel) -> None:
    from flexinfer.native.mirror import Tensor

    path = tiny_model("tiny-llama", "q4_0")
    with Llama(str(path), weight_memory=least_memory(path), n_ctx=64, verbose=False) as llm:
        llm.eval([5, 6, 7])
        llm.eval([8])
        layouts = llm._running().storage.layouts
        streamed = {a: x for a, x in layouts.items() if not any(p.locked for p in x.parts)}
        assert streamed
        for address, layout in streamed.items():
            assert Tensor.from_address(address).data == layout.absent, layout.name


def test_one_graph_for_each_ubatch(tiny_model: TinyModel) -> None:
    from flexinfer.native.device.device import device

    path = tiny_model("tiny-llama", "q4_0")
    with Llama(str(path), weight_memory=least_memory(path), n_ctx=256, verbose=False) as llm:
        before = device().graphs_entered
        llm.eval(list(range(3, 43)))
        assert device().graphs_entered == before + 1
        llm.eval([3])
        assert device().graphs_entered == before + 2


def test_models_and_contexts_side_by_side(tiny_model: TinyModel, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    paths = [tiny_model("tiny-llama", "q4_0"), tiny_model("tiny-tied", "q8_0")]
    scenario = Scenario(prompts=(30, 5), steps=6)
    expected = [decode_plainly(path, [scenario], tmp_path)[0] for path in paths]
    models = [
        Llama(str(path), weight_memory=least_memory(path), verbose=False, **scenario.options())
        for path in (*paths, *paths)
    ]
    with ThreadPoolExecutor(len(models)) as pool:
        got = list(pool.map(lambda llm: decode(llm, scenario), models))
    for bits, wanted in zip(got, [*expected, *expected], strict=True):
        assert np.array_equal(bits, wanted)
    for llm in models:
        llm.close()


def test_plain_models_never_enter_the_device(tiny_model: TinyModel) -> None:
    import llama_cpp

    from flexinfer.native.device.device import device

    path = tiny_model("tiny-llama", "q4_0")
    Llama(str(path), weight_memory=least_memory(path), n_ctx=64, verbose=False).close()
    entered = device().graphs_entered
    plain = llama_cpp.Llama(str(path), n_ctx=64, verbose=False)
    plain.eval([5, 6, 7])
    assert device().graphs_entered == entered
    assert not device().buffers()
    plain.close()


def test_split_files_load(tmp_path: Path) -> None:
    from flexinfer.synth.write import write_model

    whole = tmp_path / "whole.gguf"
    write_model("tiny-llama", whole, "q8_0")
    parts = write_model("tiny-llama", tmp_path / "parts.gguf", "q8_0", split=3)
    scenario = Scenario()
    (expected,) = decode_plainly(whole, [scenario], tmp_path)
    first = parts[0] if isinstance(parts, (list, tuple)) else parts
    with Llama(
        str(first), weight_memory=least_memory(Path(str(first))), **scenario.options()
    ) as llm:
        assert len(llm.catalogue.paths) > 1
        assert np.array_equal(decode(llm, scenario), expected)
