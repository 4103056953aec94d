"""What is planned from a header is what an open model does: the time of each weight."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexinfer import Llama, plan
from flexinfer.synth.shapes import Shape
from flexinfer.synth.write import write_model

SHAPE = Shape(layers=6, width=1024, ffn=2816, heads=8, kv_heads=8, vocabulary=20000, head_size=128)


def test_a_header_and_an_open_model_give_each_weight_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (path,) = write_model(SHAPE, tmp_path / "m.gguf", "q8_0")
    foretold = plan(path, weight_memory="40MiB", n_ctx=64, n_threads=2)
    with Llama(str(path), weight_memory="40MiB", n_ctx=64, n_threads=2, verbose=False) as llm:
        opened = llm.plan
    times = {weight.name: weight.compute_s for weight in foretold.weights}
    assert {weight.name: weight.compute_s for weight in opened.weights} == times
    assert foretold.rates.source == opened.rates.source == "probe"
    assert foretold.rates.compute_s == pytest.approx(opened.rates.compute_s)
    assert sum(times.values()) == pytest.approx(opened.rates.compute_s)
    # Rows of the embedding are looked up, which takes no time that counts.
    assert {name for name, seconds in times.items() if not seconds} == {"token_embd.weight"}
