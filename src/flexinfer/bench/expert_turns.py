"""One engine decoding random tokens of a mixture of experts; one JSON document of figures.

    python -m flexinfer.bench.expert_turns KIND packed|plain MODEL BUDGET|- PROMPT TOKENS [GUESSES]

KIND is ``ours``, ``plain`` for llama.cpp with mmap, or ``memory`` for it without: mapped pages cost
faults when touched first. Then come the kernels.
GUESSES is ``real``, ``off`` or a number: the share of guessed experts that are left as guessed, the
others being replaced by random ones.

Random tokens, because a random-weight model routes evenly only when its tokens differ. Opening and
warm-up are outside all timing.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from dataclasses import replace
from typing import Any

from flexinfer.bench.turns import open_model
from flexinfer.storage.experts.guesses import Guessing

OPTIONS = {"n_ctx": 1024, "n_batch": 512, "n_ubatch": 512, "n_threads": 2, "n_threads_batch": 2}


def main(
    kind: str,
    kernels: str,
    model: str,
    budget: str,
    prompt: int,
    tokens: int,
    guesses: str = "real",
) -> dict[str, Any]:
    options: dict[str, Any] = OPTIONS | ({} if budget == "-" else {"memory": budget})
    options |= {"repack": kernels == "packed"}
    if kind == "memory":
        options |= {"use_mmap": False}
    llm = open_model("ours" if kind == "ours" else "plain", model, options)
    if kind == "ours" and guesses != "real":
        _spoil(llm, guesses)
    figures: dict[str, Any] = {"prompt_s": _prompt(llm, prompt)}
    half = max(tokens // 2, 1)
    _decode(llm, half)
    if kind != "ours":
        return figures | {"token_s": statistics.median(_decode(llm, tokens - half))}
    return figures | _ours(llm, tokens - half)


def bounds(figures: dict[str, Any], compute: float) -> dict[str, float]:
    """What a run of ours is held against; `compute` is a token's seconds with all in memory.

    `bound`: experts are known only after their router, so their reads hide behind nothing but
    other experts; `least`: as if everything hid behind reading. `ratio` is of the first.
    """
    missed = figures["missed_bytes"] / figures["drive"] if "drive" in figures else 0.0
    experts = compute * figures["expert_share"]
    bound = compute - experts + max(experts, missed)
    return {
        "bound": bound,
        "least": max(compute, missed),
        "ratio": bound / figures["token_s"],
    }


def _ours(llm: Any, tokens: int) -> dict[str, Any]:
    known = llm.experts
    before = llm.stats
    counted = replace(known.counters) if known else None
    seconds = statistics.median(_decode(llm, tokens))
    done = llm.stats - before
    figures = {
        "token_s": seconds,
        "mode": llm.plan.mode,
        "slots": list(llm.plan.slots),
        "wait_s": done.wait_s / tokens,
        "segments": done.segments / tokens,
        "token_bytes": done.read_bytes / tokens,
        "expert_share": _expert_share(llm.plan),
    }
    if counted:
        now = known.counters
        wanted, hits = now.wanted - counted.wanted, now.hits - counted.hits
        guessed = now.guessed - counted.guessed
        figures |= {
            "hit_rate": hits / wanted,
            "missed_bytes": (wanted - hits) / tokens * _expert_bytes(llm.plan),
            "guesses": guessed / tokens,
            "right": (now.guessed_right - counted.guessed_right) / guessed if guessed else 0.0,
            "policy": known.policy,
            "drive": _drive(llm._engine.storage._experts),
        }
    return figures


def _spoil(llm: Any, guesses: str) -> None:
    """Let guessing rest, or go wrong as often as it would with another model."""
    if guesses == "off":
        llm.experts.guessing = Guessing(0)
        return
    storage = llm._engine.storage
    rng, share, guess = random.Random(3), float(guesses), storage.guess_experts
    count = max(weight.experts for weight in llm.plan.weights)

    def spoiled(group: int, experts: list[int], most: int, cost_s: float) -> None:
        mixed = [e if rng.random() < share else rng.randrange(count) for e in experts]
        guess(group, list(dict.fromkeys(mixed)), most, cost_s)

    storage.guess_experts = spoiled


def _expert_bytes(plan: Any) -> float:
    """Of one expert of a layer, on average."""
    sizes: dict[int, int] = {}
    for weight in plan.weights:
        if weight.group is not None:
            sizes[weight.group] = sizes.get(weight.group, 0) + weight.nbytes // weight.experts
    return float(statistics.mean(sizes.values()))


def _expert_share(plan: Any) -> float:
    work = sum(weight.token_bytes for weight in plan.weights if weight.use.value != "rows")
    experts = sum(weight.token_bytes for weight in plan.weights if weight.group is not None)
    return float(experts / work)


def _drive(store: Any) -> float:
    """Bytes/s of the store's own reads of random experts with nothing computed."""
    rng = random.Random(2)
    window, groups = store.window, store._groups
    nbytes, began = 0, time.perf_counter()
    for _ in range(48):
        group = rng.choice(groups)
        experts = rng.sample(range(len(group.table.held) or 16), 8)
        queue = window.begin(group.matrices, experts)
        for ready in window.arrivals(group.matrices, queue):
            nbytes += len(ready) * sum(matrix.nbytes for matrix in group.matrices)
    return nbytes / (time.perf_counter() - began)


def _prompt(llm: Any, count: int) -> float:
    began = time.perf_counter()
    llm.eval(_tokens(llm, count))
    return time.perf_counter() - began


def _decode(llm: Any, count: int) -> list[float]:
    times = []
    for token in _tokens(llm, count):
        began = time.perf_counter()
        llm.eval([token])
        times.append(time.perf_counter() - began)
    return times


def _tokens(llm: Any, count: int) -> list[int]:
    rng = random.Random(llm.n_tokens)
    return [rng.randrange(300, llm.n_vocab()) for _ in range(count)]


if __name__ == "__main__":
    kind_, kernels_, model_, budget_, prompt_, tokens_ = sys.argv[1:7]
    done = main(kind_, kernels_, model_, budget_, int(prompt_), int(tokens_), *sys.argv[7:])
    sys.stdout.write(json.dumps(done) + "\n")
