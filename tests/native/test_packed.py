"""Packed weights give the bits of stock llama.cpp, which runs in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.architectures import tiny
from support.architectures.comparing import compare, groups
from support.decoding import Logits, Scenario, decode, decode_all, decode_plainly
from support.packed import require_packed_kernels
from support.quantised import FTYPES, quantised
from support.real_model import real_model
from support.tiny_model import TinyModel

from flexinfer import Llama
from flexinfer.errors import ReadError
from flexinfer.native.packing import Packing, other_buffer_types
from flexinfer.planning.expert_slots import Needs

SCENARIOS = (
    Scenario(prompts=(40,)),
    Scenario(prompts=(1, 2, 8, 33), ubatch=32, flash_attn=True),
    Scenario(prompts=(300,), threads=1, steps=1),
)
SHORT = SCENARIOS[0]
# Latent attention, recurrent layers beside a mixture, per-layer embeddings, an encoder with a
# decoder, and one that sees a prompt at once.
_KINDS = ("deepseek2-moe", "qwen3next-moe", "gemma3n-dense", "t5-dense", "dream-dense")


@pytest.fixture(scope="module", autouse=True)
def packs() -> None:
    require_packed_kernels()
    if others := other_buffer_types():
        pytest.skip(f"stock llama.cpp computes in {', '.join(others)} here, which is never used")


def least_memory(path: Path) -> int:
    """The fewest bytes for weights that a pass over the model can do with."""
    with Llama(str(path), weight_memory="1GiB", n_ctx=64, verbose=False) as llm:
        return Needs.of(llm.plan.weights).least


def opener(path: Path, memory: int | str, repack: bool = True) -> Callable[[dict[str, Any]], Llama]:
    def ours(options: dict[str, Any]) -> Llama:
        return Llama(str(path), weight_memory=memory, repack=repack, verbose=False, **options)

    return ours


def assert_stock_bits(path: Path, folder: Path, *memories: int | str) -> None:
    stock = decode_plainly(path, SCENARIOS, folder, repack=True)
    for memory in memories:
        got = decode_all(opener(path, memory), SCENARIOS)
        for scenario, expected, bits in zip(SCENARIOS, stock, got, strict=True):
            assert np.isfinite(expected.view(np.float32)).all()
            assert np.array_equal(expected, bits), (scenario, memory)


@pytest.mark.parametrize("ftype", FTYPES)
def test_types_and_mixed_files(tiny_model: TinyModel, ftype: str, tmp_path: Path) -> None:
    path = quantised(tiny_model("tiny-llama", "f16"), ftype, tmp_path)
    assert_stock_bits(path, tmp_path, least_memory(path), "1GiB")


@pytest.mark.parametrize("preset", ["tiny-tied", "tiny-wide", "tiny-moe", "tiny-qwen"])
@pytest.mark.parametrize("quant", ["q4_0", "q4_K"])
def test_shapes(tiny_model: TinyModel, preset: str, quant: str, tmp_path: Path) -> None:
    path = tiny_model(preset, quant)
    assert_stock_bits(path, tmp_path, least_memory(path), path.stat().st_size * 2 // 3, "1GiB")


@pytest.mark.parametrize("ftype", ["q4_0", "mxfp4"])
@pytest.mark.parametrize("name", ["gpt-oss-moe", "qwen3moe-moe", "qwen3next-moe"])
def test_mixtures_biased_fused_and_shared(name: str, ftype: str, tmp_path: Path) -> None:
    path = quantised(tiny.write(name, tmp_path), ftype, tmp_path)
    (stock,) = decode_plainly(path, [SHORT], tmp_path, repack=True)
    for memory in (least_memory(path), "1GiB"):
        (got,) = decode_all(opener(path, memory), [SHORT])
        assert np.array_equal(stock, got), memory


@pytest.mark.parametrize("names", groups(_KINDS), ids=lambda names: names[0])
def test_architectures(names: tuple[str, ...], tmp_path: Path) -> None:
    compare(names, tmp_path, "--quick", "--repack", ftype="q4_0")


@pytest.mark.parametrize("repack", [True, False])
def test_a_real_file_of_mixed_types(repack: bool, tmp_path: Path) -> None:
    """K-quants as they are published, tied embeddings, sliding windows."""
    path = real_model()
    if path is None:
        pytest.skip("the real model is not here; fetch it with: python -m support.real_model")
    expected = decode_plainly(path, SCENARIOS[:2], tmp_path, repack=repack)
    for memory in (least_memory(path), "1GiB"):
        for got, bits in zip(
            decode_all(opener(path, memory, repack), SCENARIOS[:2]), expected, strict=True
        ):
            assert np.array_equal(got, bits), memory


@pytest.fixture(scope="module", params=["tiny-llama", "tiny-moe"])
def model(tiny_model: TinyModel, request: pytest.FixtureRequest) -> Path:
    return tiny_model(request.param, "q4_0")


@pytest.fixture(scope="module")
def stock(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Logits:
    folder = tmp_path_factory.mktemp("stock")
    (bits,) = decode_plainly(model, [SHORT], folder, repack=True)
    return bits


@pytest.fixture
def llm(model: Path) -> Iterator[Llama]:
    with opener(model, least_memory(model))(SHORT.options()) as llm:
        yield llm


def again(llm: Llama) -> Logits:
    llm.reset()
    return decode(llm, SHORT)


def test_stock_differs_from_plain(model: Path, stock: Logits, tmp_path: Path) -> None:
    (plain,) = decode_plainly(model, [SHORT], tmp_path)
    assert not np.array_equal(plain, stock), "the comparison could not tell the kernels apart"


def test_budgets_that_change_while_it_is_open(llm: Llama, stock: Logits) -> None:
    engine, least = llm._running(), llm.plan.held_bytes
    for share in (0, 30, 100, 55, 0, 200):
        engine.resize(least + llm.plan.weight_bytes * share // 100)
        assert np.array_equal(again(llm), stock), share
    llm.release()
    assert np.array_equal(again(llm), stock)


def test_a_read_that_fails_between_pieces_that_are_packed(
    llm: Llama, stock: Logits, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = Packing.pack
    calls = 0

    def failing(self: Packing, address: int, nbytes: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise ReadError("the drive is gone")
        pack(self, address, nbytes)

    monkeypatch.setattr(Packing, "pack", failing)
    with pytest.raises(ReadError, match="the drive is gone"):
        again(llm)
    assert np.array_equal(again(llm), stock)


def _one_group_less(self: Packing, address: int, nbytes: int) -> None:
    _PACK(self, address, nbytes - 16 * self.row_bytes)


def _twice(self: Packing, address: int, nbytes: int) -> None:
    _PACK(self, address, nbytes)
    _PACK(self, address, nbytes)


_PACK = Packing.pack


@pytest.mark.parametrize("wrong", [_one_group_less, _twice])
def test_a_mistake_in_packing_is_seen(
    wrong: Callable[[Packing, int, int], None],
    model: Path,
    stock: Logits,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Packing, "pack", wrong)
    with opener(model, "1GiB")(SHORT.options()) as llm:
        assert not np.array_equal(decode(llm, SHORT), stock)


def test_what_was_packed_is_packed_once(
    model: Path, stock: Logits, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: list[int] = []

    def counted(self: Packing, address: int, nbytes: int) -> None:
        packed.append(nbytes)
        _PACK(self, address, nbytes)

    monkeypatch.setattr(Packing, "pack", counted)
    with opener(model, "1GiB")(SHORT.options()) as llm:
        decode(llm, SHORT)
        once = list(packed)
        again(llm)
    assert once
    assert packed == once
