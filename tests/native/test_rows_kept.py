"""Several tokens of one sequence in a pass have the logits of single passes, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.architectures import tiny
from support.quantised import quantised
from support.real_model import instruct_model, real_model
from support.rows import one_by_one, open_rows, some_tokens, together
from support.tiny_model import TinyModel

from flexinfer import Llama
from flexinfer.binding.private import compute_rows
from flexinfer.native.graph import routing
from flexinfer.native.graph.program import Program
from flexinfer.native.graph.rows_kept import RowsKept
from flexinfer.planning.expert_slots import Needs

# Known tokens before the batch: up to and over a multiple of 256 cells, and past 512.
LENGTHS = (245, 505)
COUNTS = (2, 5, 9, 17)
FEW = (17,)


def least_memory(path: Path) -> int:
    with Llama(str(path), weight_memory="1GiB", n_ctx=64, verbose=False) as llm:
        return Needs.of(llm.plan.weights).least


def assert_kept(
    llm: Llama, lengths: tuple[int, ...] = LENGTHS, counts: tuple[int, ...] = COUNTS
) -> None:
    """Rows that are kept equal single ones; without that they do not, so the test can fail."""
    changed = False
    for known in lengths:
        tokens = some_tokens(llm, max(counts), 77)
        single = one_by_one(llm, known, tokens)
        assert np.isfinite(single.view(np.float32)).all()
        for count in counts:
            kept = together(llm, known, tokens[:count])
            assert np.array_equal(kept, single[:count]), (known, count)
        loose = together(llm, known, tokens, kept=False)
        changed |= not np.array_equal(loose, single)
    assert changed, "llama.cpp's own rows would have been the same"


@pytest.mark.parametrize("quant", ["q4_0", "q4_K", "q6_K", "f16", "bf16"])
@pytest.mark.parametrize("preset", ["tiny-llama", "tiny-moe"])
def test_types_streamed_hard(tiny_model: TinyModel, preset: str, quant: str) -> None:
    path = tiny_model(preset, quant)
    with open_rows(path, least_memory(path)) as llm:
        assert not llm.plan.resident
        assert_kept(llm, counts=FEW if preset == "tiny-moe" else COUNTS)


@pytest.mark.parametrize("quant", ["q4_0", "q4_K", "q6_K"])
@pytest.mark.parametrize("preset", ["tiny-llama", "tiny-moe"])
def test_packed_weights(tiny_model: TinyModel, preset: str, quant: str) -> None:
    path = tiny_model(preset, quant)
    for memory in (least_memory(path), "1GiB"):
        with open_rows(path, memory, repack=True) as llm:
            assert_kept(llm, (505,), FEW)


@pytest.mark.parametrize("options", [{"flash_attn": False}, {"type_k": 8, "type_v": 8}])
def test_attention_of_other_kinds(tiny_model: TinyModel, options: dict[str, int]) -> None:
    path = tiny_model("tiny-llama", "q4_K")
    with open_rows(path, least_memory(path), **options) as llm:
        assert_kept(llm)


def test_a_mixed_file(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = quantised(tiny_model("tiny-llama", "f16"), "q4_K_M", tmp_path)
    with open_rows(path, least_memory(path)) as llm:
        assert_kept(llm, (505,), FEW)


@pytest.mark.parametrize(
    "name", ["gemma3-dense", "gemma2-dense", "gpt-oss-moe", "cohere2-dense", "deepseek2-moe"]
)
@pytest.mark.parametrize("flash_attn", [True, False])
def test_sliding_windows_and_other_architectures(
    name: str, flash_attn: bool, tmp_path: Path
) -> None:
    """The cache of a window is used again and again, so its last cell says nothing."""
    path = tiny.write(name, tmp_path)
    with open_rows(path, "8MiB", flash_attn=flash_attn, swa_full=False) as llm:
        assert_kept(llm, (505,), FEW)


@pytest.mark.parametrize("fetched", [real_model, instruct_model])
def test_a_real_model(fetched: Callable[[], Path | None]) -> None:
    path = fetched()
    if path is None:
        pytest.skip("the real model is not here; fetch it with: python -m support.real_model")
    for repack in (False, True):
        with open_rows(path, "64MiB", repack=repack) as llm:
            assert_kept(llm, (505,), FEW)


def test_what_follows_a_batch_that_is_taken_back(tiny_model: TinyModel) -> None:
    path = tiny_model("tiny-llama", "q4_K")
    with open_rows(path, least_memory(path)) as llm:
        tokens = some_tokens(llm, 12, 77)
        single = one_by_one(llm, 505, tokens)
        together(llm, 505, [*tokens[:4], *some_tokens(llm, 8, 300)])
        llm.n_tokens += 4
        llm.eval([])
        with llm._running().keeping_rows():
            rest = compute_rows(llm, tokens[4:]).copy().view(np.uint32)
        assert np.array_equal(rest, single[4:])


@pytest.mark.parametrize("part", ["_product", "_attention"])
def test_each_cut_is_needed(
    tiny_model: TinyModel, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leaving out one of them is seen by the comparison above."""
    path = tiny_model("tiny-llama", "q4_K")
    monkeypatch.setattr(RowsKept, part, lambda self, node, address, *_: (address,))
    with open_rows(path, least_memory(path)) as llm:
        tokens = some_tokens(llm, 17, 77)
        single = one_by_one(llm, 600, tokens)
        assert not np.array_equal(together(llm, 600, tokens), single)


def test_each_row_needs_its_own_cells(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_model("tiny-llama", "q4_K")
    monkeypatch.setattr(RowsKept, "begin", lambda self: None)
    with open_rows(path, least_memory(path)) as llm:
        tokens = some_tokens(llm, 17, 77)
        single = one_by_one(llm, 500, tokens)
        assert not np.array_equal(together(llm, 500, tokens), single)
        single = one_by_one(llm, 540, tokens)
        assert np.array_equal(together(llm, 540, tokens), single), "no border within the batch"


def test_experts_need_rows_of_their_own(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_model("tiny-moe", "q4_K")
    monkeypatch.setattr(routing, "AloneRouting", routing.BatchRouting)
    with open_rows(path, least_memory(path)) as llm:
        tokens = some_tokens(llm, 32, 77)
        assert not np.array_equal(together(llm, 21, tokens), one_by_one(llm, 21, tokens))


def test_a_pass_that_keeps_nothing_is_cut_nowhere(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_model("tiny-llama", "q4_K")
    cut: list[Program] = []
    build = Program.__init__

    def building(self: Program, *arguments: object) -> None:
        build(self, *arguments)  # type: ignore[arg-type]
        if self._rows_kept is not None:
            cut.append(self)

    monkeypatch.setattr(Program, "__init__", building)
    with open_rows(path, least_memory(path)) as llm:
        tokens = some_tokens(llm, 4, 77)
        together(llm, 21, tokens, kept=False)
        assert cut == []
        together(llm, 21, tokens)
        assert len(cut) == 1
