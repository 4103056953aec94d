"""A model whose vocabulary splits words by expressions of any name, and joins two letters."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from support.architectures import tiny

# Letters and signs, some bytes as they are written, and one token that is joined.
TOKENS = [*map(chr, range(33, 127)), *map(chr, range(161, 194)), "aa"]


def model_of_words(folder: Path, **entries: Any) -> Path:
    """Written in `folder`; `entries` are of its tokenizer's metadata."""
    model = copy.deepcopy(tiny.models()["llama-dense"])
    metadata = model["metadata"]
    metadata.pop("tokens", None)
    metadata |= {
        "tokenizer.ggml.model": ("STRING", "gpt2"),
        "tokenizer.ggml.tokens": ("[STRING", TOKENS),
        "tokenizer.ggml.token_type": ("[INT32", [1] * len(TOKENS)),
        "tokenizer.ggml.merges": ("[STRING", ["a a"]),
    }
    metadata |= {f"tokenizer.ggml.{key}": entry for key, entry in entries.items()}
    return tiny.write_model(model, folder / "words.gguf")
