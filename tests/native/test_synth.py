"""Synthetic models in llama.cpp: computed, tokenised, and going on with their answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flexinfer.synth.blocks import QUANTS
from flexinfer.synth.shapes import PRESETS
from flexinfer.synth.write import write_model

TINY = [name for name in PRESETS if name.startswith("tiny-")]


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Any]:
    """Opens a model in llama.cpp as it is, without repacked weights."""
    import llama_cpp

    defaults = llama_cpp.llama_model_default_params

    def without_repacking() -> Any:
        parameters = defaults()
        parameters.use_extra_bufts = False
        return parameters

    monkeypatch.setattr(llama_cpp.llama_cpp, "llama_model_default_params", without_repacking)
    monkeypatch.setattr(llama_cpp, "llama_model_default_params", without_repacking)

    def load(path: Path) -> Any:
        return llama_cpp.Llama(str(path), n_ctx=256, n_threads=2, verbose=False, logits_all=True)

    return load


def require_sensible_logits(model: Any) -> None:
    tokens = model.tokenize(b"Hello world: 1 + 2 = 3")
    model.eval(tokens)
    logits = np.array(model.scores[: len(tokens)])
    assert np.isfinite(logits).all()
    assert 0.2 < logits.std() < 5.0
    assert len(set(logits.argmax(axis=1).tolist())) > len(tokens) // 4
    model.close()


@pytest.mark.parametrize("quant", QUANTS)
@pytest.mark.parametrize("preset", TINY)
def test_llama_cpp_computes_it(preset: str, quant: str, plain: Any, tiny_model: Any) -> None:
    require_sensible_logits(plain(tiny_model(preset, quant)))


def test_llama_cpp_loads_the_shards(plain: Any, tmp_path: Path) -> None:
    require_sensible_logits(plain(write_model("tiny-moe", tmp_path / "m.gguf", split=4)[0]))


@pytest.mark.parametrize(
    "text", ["Hello world", "a  b\n\tc", "Grüße, 世界 🌍", "tete nana #!?", "x" * 100]
)
def test_text_survives_the_tokenizer(text: str, plain: Any, tiny_model: Any) -> None:
    model = plain(tiny_model("tiny-llama", "q4_0"))
    tokens = model.tokenize(text.encode(), add_bos=False)
    assert model.detokenize(tokens).decode().removeprefix(" ") == text
    model.close()


def test_answers_do_not_end_by_themselves(plain: Any, tiny_model: Any) -> None:
    model = plain(tiny_model("tiny-llama", "q4_0"))
    answer = model("Hello", max_tokens=100, temperature=0)
    assert answer["usage"]["completion_tokens"] == 100
    model.close()
