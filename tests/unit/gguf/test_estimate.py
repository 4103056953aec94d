"""What is estimated from a header, against what opening the model measures."""

from __future__ import annotations

import pytest
from support.tiny_model import TinyModel

from flexinfer.gguf.catalogue import read_catalogue
from flexinfer.gguf.estimate import estimate_costs, estimate_weights
from flexinfer.planning.weights import Use


def test_a_header_gives_uses_experts_and_layers(tiny_model: TinyModel) -> None:
    weights = {w.name: w for w in estimate_weights(read_catalogue(tiny_model("tiny-moe")), 2)}
    assert weights["token_embd.weight"].use is Use.ROWS
    assert weights["blk.0.attn_norm.weight"].use is Use.WHOLE
    assert weights["blk.3.attn_q.weight"].row_step == 32
    up = weights["blk.2.ffn_up_exps.weight"]
    assert (up.use, up.experts, up.used, up.group, up.layer) == (Use.EXPERTS, 16, 4, 2, 2)


def test_a_tied_embedding_is_multiplied(tiny_model: TinyModel) -> None:
    weights = estimate_weights(read_catalogue(tiny_model("tiny-tied")), 2)
    embedding = next(w for w in weights if w.name == "token_embd.weight")
    assert embedding.use is Use.MATMUL


def test_a_quantised_cache_costs_less(tiny_model: TinyModel) -> None:
    catalogue = read_catalogue(tiny_model("tiny-llama"))
    full = estimate_costs(catalogue)(1024, 64)
    small = estimate_costs(catalogue, (8, 8))(1024, 64)
    vocabulary = 2048 * 4
    assert (small.kv - vocabulary) * 32 * 2 == (full.kv - vocabulary) * 34


@pytest.mark.native
def test_logits_of_a_whole_batch_are_in_the_plan(tiny_model: TinyModel) -> None:
    from flexinfer import Llama

    path = str(tiny_model("tiny-llama"))
    with Llama(
        path, memory="400MiB", n_ctx=512, n_batch=256, logits_all=True, verbose=False
    ) as llm:
        llm.eval(list(range(5, 5 + 256)))
        used, planned = llm.memory_use()["kv"], llm.plan.costs.kv
    assert 0.9 * planned < used <= planned


@pytest.mark.native
@pytest.mark.parametrize("flash", [False, True])
@pytest.mark.parametrize("preset", ["tiny-llama", "tiny-tied", "tiny-wide", "tiny-moe"])
def test_the_estimate_is_near_the_measurement(
    preset: str, flash: bool, tiny_model: TinyModel
) -> None:
    from flexinfer import Llama

    path = tiny_model(preset)
    with Llama(
        str(path),
        weight_memory="64MiB",
        n_ctx=1024,
        n_batch=256,
        n_ubatch=256,
        n_threads=2,
        flash_attn=flash,
        verbose=False,
    ) as llm:
        opened = llm.plan
    catalogue = read_catalogue(path)
    expected = {w.name: (w.use, w.row_step, w.experts, w.used, w.group) for w in opened.weights}
    weights = estimate_weights(catalogue, 2)
    assert {w.name: (w.use, w.row_step, w.experts, w.used, w.group) for w in weights} == expected
    costs = estimate_costs(catalogue, flash_attention=flash)(1024, 256)
    assert costs.kv == opened.costs.kv
    assert costs.compute == pytest.approx(opened.costs.compute, rel=0.35)
