"""What is estimated from a header, against what opening the model measures."""

from __future__ import annotations

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
