"""What a head reads and what the model reads, by the names in a header."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.architectures import headed, tiny

from flexinfer.errors import UnsupportedError
from flexinfer.gguf.catalogue import read_catalogue
from flexinfer.gguf.estimate import estimate_costs, estimate_weights
from flexinfer.gguf.heads import head_of, heads_of, trunk_of


def test_model_and_head_share_what_is_in_no_block(tmp_path: Path) -> None:
    catalogue = read_catalogue(headed.write("hy_v3-moe", tmp_path, 2))
    trunk, head = trunk_of(catalogue), head_of(catalogue)
    assert heads_of(catalogue) == 2
    shared = {"token_embd.weight", "output_norm.weight", "output.weight"}
    assert trunk.types.keys() & head.types.keys() == shared
    assert trunk.types.keys() | head.types.keys() == catalogue.types.keys()
    numbers = {name.split(".")[1] for name in head.types.keys() - shared}
    assert numbers == {"2", "3"}
    assert trunk_of(head) is head


def test_a_plan_counts_each_by_itself(tmp_path: Path) -> None:
    catalogue = read_catalogue(headed.write("hy_v3-moe", tmp_path))
    names = {weight.name for weight in estimate_weights(catalogue, 2)}
    assert names == trunk_of(catalogue).types.keys()
    costs, bare = estimate_costs(catalogue), estimate_costs(trunk_of(catalogue))
    head = estimate_costs(head_of(catalogue))
    assert costs(1024, 64) == bare(1024, 64)
    logits = 4 * 128
    assert head(1024, 64).kv - logits == (bare(1024, 64).kv - logits) // 2


@pytest.mark.parametrize(
    ("name", "heads", "why"),
    [
        ("glm4moe-moe", 1, "more rows of a prompt in its last layer"),
        ("cohere2moe-moe", 2, "has 2 trained heads, of which llama.cpp takes 1"),
        ("exaone-moe-moe", 1, "only those of cohere2moe, hy_v3, step35 are drafted with"),
    ],
)
def test_other_heads_are_refused(name: str, heads: int, why: str, tmp_path: Path) -> None:
    catalogue = read_catalogue(headed.write(name, tmp_path, heads))
    with pytest.raises(UnsupportedError, match=why):
        head_of(catalogue)


def test_a_model_without_a_head_says_so(tmp_path: Path) -> None:
    catalogue = read_catalogue(tiny.write("hy_v3-moe", tmp_path))
    assert trunk_of(catalogue) is catalogue
    with pytest.raises(UnsupportedError, match=r"has no trained head.*ngram, auto or the file"):
        head_of(catalogue)
