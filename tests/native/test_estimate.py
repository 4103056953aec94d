"""What is estimated from a header, against what opening the model measures."""

from __future__ import annotations

from itertools import islice, product
from pathlib import Path

import pytest
from support.long_words import model_of_words
from support.tiny_model import TinyModel

from flexinfer.gguf.catalogue import read_catalogue
from flexinfer.gguf.estimate import estimate_costs, estimate_weights
from flexinfer.machine.machine import process_memory


def test_logits_of_a_whole_batch_are_in_the_plan(tiny_model: TinyModel) -> None:
    from flexinfer import Llama

    path = str(tiny_model("tiny-llama"))
    memory = process_memory() + (300 << 20)
    with Llama(path, memory=memory, n_ctx=512, n_batch=256, logits_all=True, verbose=False) as llm:
        llm.eval(list(range(5, 5 + 256)))
        used, planned = llm.memory_use()["kv"], llm.plan.costs.kv
    assert 0.9 * planned < used <= planned


@pytest.mark.parametrize("outputs", [None, 5])
@pytest.mark.parametrize("flash", [False, True])
@pytest.mark.parametrize("preset", ["tiny-llama", "tiny-tied", "tiny-wide", "tiny-moe"])
def test_the_estimate_is_near_the_measurement(
    preset: str,
    flash: bool,
    outputs: int | None,
    tiny_model: TinyModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import llama_cpp.llama_cpp as binding

    from flexinfer import Llama

    sequences = 1 if outputs is None else 3

    def params() -> binding.llama_context_params:
        """As llama.cpp's server has them."""
        params = default()
        params.n_outputs_max, params.n_seq_max = outputs or 0, sequences
        params.kv_unified = True
        return params

    default = binding.llama_context_default_params
    monkeypatch.setattr(binding, "llama_context_default_params", params)
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
    costs = estimate_costs(catalogue, flash_attention=flash, sequences=sequences, outputs=outputs)(
        1024, 256
    )
    assert costs.kv == opened.costs.kv
    assert costs.compute == pytest.approx(opened.costs.compute, rel=0.35)


@pytest.mark.own_process
def test_merges_of_a_vocabulary_are_in_the_plan(tmp_path: Path) -> None:
    from flexinfer import Llama

    words = ["".join(letters) for letters in product("abcdefghijklmnopqrstuvwxyz", repeat=3)]
    merges = [" ".join(pair) for pair in islice(product(words, words), 150_000)]
    sizes = []
    for entries in ({}, {"merges": ("[STRING", merges)}):
        path = model_of_words(tmp_path, **entries)
        before = process_memory()
        with Llama(str(path), vocab_only=True, verbose=False):
            # The first one begins what all have.
            taken = process_memory() - before
        sizes.append(estimate_costs(read_catalogue(path))(32, 32).overhead)
    planned = sizes[1] - sizes[0]
    assert planned / 2 < taken <= planned
