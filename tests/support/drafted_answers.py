"""Answers of a server that are compared with and without drafts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flexinfer.synth.shapes import Shape
from flexinfer.synth.write import write_model
from support.served import Served

# From before a multiple of 256 cells over it, where attention is divided among threads.
PROMPT, TOKENS = 496, 40
# llama.cpp's own lengths, whatever drafts bring: tiny models take no time to read.
BY_MODEL = ("--spec-type", "draft-simple", "--spec-draft-n-max", 5)
_SHAPE = Shape(layers=2, width=256, ffn=768, heads=4, kv_heads=4, vocabulary=2000, head_size=64)


def write_small(path: Path, quant: str = "q4_K", seed: int = 0) -> Path:
    """A model of which others of its vocabulary, with another seed, know little."""
    (path,) = write_model(_SHAPE, path, quant, seed=seed)
    return path


def asked(**more: Any) -> dict[str, Any]:
    """Tokens that come again, so that what followed them can be drafted."""
    prompt = [3 + number * 7 % 31 for number in range(PROMPT)]
    fixed = {"ignore_eos": True, "return_tokens": True, "seed": 7, "cache_prompt": True}
    return {"prompt": prompt, "n_predict": TOKENS, "temperature": 0.0, **fixed, **more}


def answered(served: Served, prompt: int = PROMPT) -> list[Any]:
    """Tokens of two answers; then logits that hang on all cells that those filled."""
    found: list[Any] = []
    for temperature in (0.0, 0.8):
        told = asked()["prompt"][:prompt]
        tokens = served.complete(**asked(prompt=told, temperature=temperature))["tokens"]
        assert len(tokens) == TOKENS
        known = [*told, *tokens]
        last = served.complete(**asked(prompt=known, n_predict=4, n_probs=20))
        assert last["timings"]["cache_n"] >= len(known) - 2
        found += [tokens, last["tokens"], last["completion_probabilities"]]
    return found
