from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

DATA = Path(__file__).resolve().parents[2] / "src" / "flexinfer" / "data"
FILES = ("shakespeare.gguf", "shakespeare-moe.gguf")
# From the last twentieth of the text, which training does not see.
UNSEEN = """BAPTISTA:
Not in my house, Lucentio; for, you know,
Pitchers have ears, and I have many servants:
"""


@pytest.mark.parametrize("file", FILES)
def test_tokens_round_trip_any_text(file: str) -> None:
    import llama_cpp

    llm = llama_cpp.Llama(str(DATA / file), vocab_only=True, verbose=False)
    for text in (UNSEEN, "  two  spaces,\ttabs\r\n\n\n1599 o'er 'tis", "Ünïcode 日本語 🎭"):
        ids = llm.tokenize(text.encode(), add_bos=False)
        assert llm.detokenize(ids) == text.encode()
    llm.close()


@pytest.mark.parametrize("file", FILES)
def test_unseen_verse_is_likely(file: str) -> None:
    import llama_cpp

    llm = llama_cpp.Llama(str(DATA / file), n_ctx=128, logits_all=True, verbose=False)
    ids = llm.tokenize(UNSEEN.encode())
    llm.eval(ids)
    logits = np.array(llm.scores[: len(ids) - 1], dtype=np.float64)
    chosen = logits[np.arange(len(ids) - 1), ids[1:]]
    loss = np.mean(np.log(np.exp(logits).sum(axis=1)) - chosen)
    assert loss < 4.5  # the logarithm of 1024 tokens is 6.9
    llm.close()


@pytest.mark.parametrize("file", FILES)
def test_chat_takes_turns_and_stops(file: str) -> None:
    import llama_cpp

    llm = llama_cpp.Llama(str(DATA / file), n_ctx=512, seed=1, verbose=False)
    turn = [{"role": "user", "content": "Good morrow, lady."}]
    answer = llm.create_chat_completion(turn, max_tokens=400, temperature=0.8)["choices"][0]
    assert answer["finish_reason"] == "stop"
    assert answer["message"]["content"].strip()
    llm.close()
