"""Compare llama.cpp with the trained network: `python training/check.py dense`."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np
import torch
from export import export
from model import Network
from numpy.typing import NDArray
from tokens import BEGIN, Corpus
from train import DATA, HERE, RECIPES, Recipe

SAMPLES = (
    "ROMEO:\nBut, soft! what light through yonder window breaks?\n",
    "  Two  spaces,\ttabs\n\n\nand 1599 -- don't we'll O'er 'tis!\n",
    "Ünïcode: 日本語 🎭 \r\n",
)


def same_tokens(llm: llama_cpp.Llama, corpus: Corpus, text: str) -> bool:
    """Whether llama.cpp splits `text` as training did and joins it again."""
    ids: list[int] = llm.tokenize(text.encode(), add_bos=False)
    same: bool = ids == corpus.tokenizer.encode(text).ids
    return same and bytes(llm.detokenize(ids)) == text.encode()


def logits_of(llm: llama_cpp.Llama, tokens: list[int]) -> NDArray[np.float32]:
    """Logits (tokens, vocabulary) after each token, from an empty cache."""
    llm.reset()
    llm.eval(tokens)
    return np.array(llm.scores[: len(tokens)], dtype=np.float32)


def difference(recipe: Recipe, corpus: Corpus, network: Network) -> float:
    """Largest difference of a logit over one row, llama.cpp on f32 weights against torch."""
    row = corpus.measure_rows()[:1, :-1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "exact.gguf"
        export(network, corpus.tokenizer, path, recipe.name, "f32")
        # A cache in f16 rounds enough to tip a router's close choices.
        f32 = llama_cpp.GGML_TYPE_F32
        llm = llama_cpp.Llama(
            str(path), n_ctx=512, logits_all=True, type_k=f32, type_v=f32, verbose=False
        )
        theirs = logits_of(llm, row[0].tolist())
        llm.close()
    with torch.no_grad():
        ours = network(row)[0].numpy()
    return float(np.abs(ours - theirs).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=RECIPES)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--build", type=Path, default=HERE.parent / "build" / "training")
    given = parser.parse_args()
    recipe = RECIPES[given.model]
    corpus = Corpus(HERE / "shakespeare.txt", recipe.shape.vocabulary, recipe.shape.context)
    network = Network(recipe.shape).eval()
    network.load_state_dict(torch.load(given.build / f"{recipe.file}.pt"))
    print("largest logit difference, f32:", difference(recipe, corpus, network))
    llm = llama_cpp.Llama(str(given.data / recipe.file), n_ctx=512, seed=1, verbose=False)
    text = (HERE / "shakespeare.txt").read_text(encoding="utf-8")
    print("same tokens:", all(same_tokens(llm, corpus, each) for each in (*SAMPLES, text[:200000])))
    print("begin:", llm.tokenize(b"") == [corpus.tokenizer.token_to_id(BEGIN)])
    print(llm("JULIET:\n", max_tokens=150, temperature=0.8)["choices"][0]["text"])
    turn = [{"role": "user", "content": "Good morrow, lady. Wilt thou walk with me?"}]
    answer = llm.create_chat_completion(turn, max_tokens=100, temperature=0.8)["choices"][0]
    print("chat:", answer["finish_reason"], repr(answer["message"]["content"]))


if __name__ == "__main__":
    main()
