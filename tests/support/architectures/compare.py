"""Digests of what models compute, plain or streamed: one JSON line for each model and setting.

    python compare.py plain  MODEL... > plain.jsonl
    python compare.py streamed MODEL... > streamed.jsonl

The two must run in processes of their own: the first never registers the device.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import _internals

from flexinfer.bench.plain import open_plain
from support.plainly import require_plain

PROMPT = 40
DECODED = 4
# Their attention is not causal: a prompt is one ubatch, and no token can follow it.
_DIFFUSION = frozenset({"dream", "llada", "llada-moe", "rnd1"})
# Their output is one vector for each token.
_EMBEDDING = frozenset(
    {
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "llama-embed",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "t5encoder",
        "wavtokenizer-dec",
    }
)


@dataclass(frozen=True)
class Setting:
    """How a model is run."""

    flash: bool
    threads: int


SETTINGS = tuple(Setting(*pair) for pair in itertools.product((False, True), (1, 2)))


def open_streamed(path: str, **options: Any) -> llama_cpp.Llama:
    """The model with the least memory for weights that it can run with."""
    from flexinfer import Llama

    options["verbose"] = False
    with Llama(path, weight_memory="64GiB", **options) as whole:
        plan = whole.plan
    return Llama(path, weight_memory=smallest(plan), **options)


def open_over(path: str, endpoint: str, streamed: bool, **options: Any) -> llama_cpp.Llama:
    """The model with the last half of its layers at a worker, and its output."""
    from flexinfer.gguf.catalogue import read_catalogue

    blocks = read_catalogue(path).parameter("block_count")
    here = blocks // 2
    if not streamed:
        from support.workers import open_split

        del options["repack"]
        return open_split(path, [here, blocks + 1 - here], ["here", endpoint], options)
    import pytest

    from flexinfer import Llama
    from support.workers import lend_layers

    options["repack"] = None
    with pytest.MonkeyPatch.context() as patch:
        lend_layers(patch, {endpoint: blocks + 1 - here})
        llm = Llama(path, weight_memory="1GiB", rpc=endpoint, verbose=False, **options)
    split = llm.plan.request.split
    assert split is not None
    assert split.counts == (here, blocks + 1 - here)
    return llm


def smallest(plan: Any) -> int:
    """The least weight memory, to a page, that the planner takes for the model of `plan`."""
    from flexinfer.errors import BudgetError
    from flexinfer.planning import planner

    low, high = 0, plan.held_bytes
    while high - low > 4096:
        middle = (low + high) // 2
        try:
            planner.refit(plan, middle)
            high = middle
        except BudgetError:
            low = middle
    return int(high)


def outputs(llm: llama_cpp.Llama, embedding: bool, one_ubatch: bool) -> Iterator[bytes]:
    """The bits of all logits of a prompt and of a few tokens that follow it."""
    native, n_vocab = llama_cpp, llm.n_vocab()
    context = llm._ctx
    width = native.llama_model_n_embd_out(llm._model.model) if embedding else n_vocab
    fetch = native.llama_get_embeddings_ith if embedding else native.llama_get_logits_ith
    batch = _internals.LlamaBatch(n_tokens=PROMPT, embd=0, n_seq_max=1, verbose=False)
    tokens = [(7 * i * i + 3 * i + 5) % min(n_vocab, 128) for i in range(PROMPT)]
    batch.set_batch(tokens, 0, True)
    if native.llama_model_has_encoder(llm._model.model):
        context.encode(batch)
    for position in itertools.count(PROMPT):
        context.decode(batch)
        rows = [
            np.ctypeslib.as_array(fetch(context.ctx, i), (width,)) for i in range(batch.n_tokens())
        ]
        yield b"".join(row.tobytes() for row in rows)
        if position == PROMPT + DECODED or one_ubatch:
            return
        batch.set_batch([int(np.nanargmax(rows[-1]))], position, True)


def digest(
    path: str, streamed: bool, setting: Setting, repack: bool, rpc: str | None
) -> dict[str, Any]:
    """One line of the result.

    Attributes of it: the digest, whether all outputs are finite, how many bytes of logits, and
    for a streamed model how much of it was in memory at most.
    """
    name = path.rsplit("/", 1)[-1]
    embedding = name.rsplit("-", 1)[0] in _EMBEDDING
    one_ubatch = embedding or name.rsplit("-", 1)[0] in _DIFFUSION
    opened: Any = open_streamed if streamed else open_plain
    if rpc is not None:
        opened = partial(open_over, endpoint=rpc, streamed=streamed)
    llm = opened(
        path,
        n_ctx=256,
        n_batch=PROMPT,
        n_ubatch=PROMPT if one_ubatch or name.startswith("t5-") else 16,
        n_threads=setting.threads,
        n_threads_batch=setting.threads,
        flash_attn=setting.flash,
        embedding=embedding,
        pooling_type=0 if embedding else -1,
        repack=repack,
    )
    found = b"".join(outputs(llm, embedding, one_ubatch))
    line = {
        "model": name,
        **asdict(setting),
        "bytes": len(found),
        "finite": bool(np.isfinite(np.frombuffer(found, np.float32)).all()),
        "distinct": len(np.unique(np.frombuffer(found, np.float32))),
        "sha256": hashlib.sha256(found).hexdigest(),
    }
    if streamed:
        line |= {
            "weights": llm.plan.weight_bytes,
            "held": llm.plan.held_bytes,
            "passes": llm.stats.passes,
            "read": llm.stats.read_bytes,
        }
    llm.close()
    return line


def make_mistake(kind: str) -> None:
    """Place one weight wrongly from now on: not at all, or one block further."""
    from flexinfer.native.graph.steps import Load

    place = Load.place

    def misplace(self: Load, address: int) -> None:
        if "ffn_down" not in self.part.name or address == self.absent:
            place(self, address)
        elif kind == "shifted":
            place(self, address + 256)

    Load.place = misplace  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=("plain", "streamed"))
    parser.add_argument("models", nargs="+")
    parser.add_argument("--quick", action="store_true", help="with flash attention, 2 threads")
    parser.add_argument("--repack", action="store_true", help="packed weights; plain: stock")
    parser.add_argument("--rpc", help="a worker that has the last half of the layers")
    parser.add_argument("--mistake", choices=("absent", "shifted"))
    arguments = parser.parse_args()
    if arguments.mistake:
        make_mistake(arguments.mistake)
    settings = SETTINGS[-1:] if arguments.quick else SETTINGS
    for path, setting in itertools.product(arguments.models, settings):
        try:
            line = digest(
                path, arguments.mode == "streamed", setting, arguments.repack, arguments.rpc
            )
        except Exception as error:
            line = {"model": path.rsplit("/", 1)[-1], **asdict(setting), "error": str(error)}
        print(json.dumps(line), flush=True)
    if arguments.mode == "plain":
        require_plain()


if __name__ == "__main__":
    main()
