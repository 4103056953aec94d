"""One stream with drafts and without, of the server and of `run`: rates, and where time goes.

The bound without drafts is ``1 / max(C(1), S / B)``; with n drafted tokens, where passes bring t
tokens, ``t / (max(C(1 + n), S' / B) + n D)``: C(n) a pass of n rows in memory, S and S' what the
two plans stream, B our reader with nothing computed, D a token of the draft in memory.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flexinfer.bench.in_group import group_of, run_in_group
from flexinfer.bench.running import drop_cache
from flexinfer.bench.served import serving
from flexinfer.bench.streams import ask, drafted
from flexinfer.bench.together import Setup, sizes, written
from flexinfer.bench.turns import Worker
from flexinfer.own_python import own_module

# Each token of the vocabulary is nearly as likely as another: nothing comes again.
RANDOM = {"temperature": 2.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 7}


@dataclass(frozen=True)
class Stream:
    """Of one stream: seconds of a pass, and of it what was computed and waited for.

    Attributes:
        pass_s: from one pass to the next.
        tokens: that a pass brought.
        streamed: bytes that the plan streams in a pass.
    """

    pass_s: float
    tokens: float
    computed_s: float
    waited_s: float
    streamed: int

    @property
    def rate(self) -> float:
        return self.tokens / self.pass_s

    @property
    def between_s(self) -> float:
        """Between passes: drafting, sampling, the server."""
        return self.pass_s - self.computed_s - self.waited_s


def served(setup: Setup, words: Sequence[str], asked: Mapping[str, Any]) -> Stream:
    """A stream of `flexinfer serve` with `words` more, once it is under way.

    Raises:
        EngineError: the server failed.
    """
    drop_cache(setup.paths)
    with group_of(setup.model, setup.budget, setup.drive) as group:
        command = own_module("flexinfer", "serve", setup.model, *sizes(setup), "--slots", "1")
        with serving([*command, "--port", "0", "--json", *words], group) as server:
            found = written(setup, server.address, 1, drafted, asked)
            streamed = ask(server.address, "/engine/plan")["streamed_bytes"]
    return Stream(
        pass_s=found.seconds / found.passes,
        tokens=found.tokens / found.passes,
        computed_s=found.others["compute_s"],
        waited_s=found.others["wait_s"],
        streamed=streamed,
    )


def ran(setup: Setup, words: Sequence[str], tokens: int, source: str | None = None) -> float:
    """Tokens a second of `flexinfer run` after its first; `source` is another tree of the package.

    Raises:
        EngineError: it failed.
    """
    drop_cache(setup.paths)
    likely = [f"--{name.replace('_', '-')}={value}" for name, value in RANDOM.items()]
    likely[0] = f"--temp={RANDOM['temperature']}"
    command = own_module(
        "flexinfer", "run", setup.model, "-p", "The sea", "-n", str(tokens), "--json"
    )
    command += [*sizes(setup), *likely, *words]
    if source is not None:
        command = ["env", f"PYTHONPATH={source}", *command]
    found = run_in_group(command, setup.model, setup.budget, setup.drive)
    return float(found.document["speed"]["decode_tok_s"])


def computing(setup: Setup, rows: Sequence[int]) -> list[float]:
    """Seconds of a pass of so many rows by llama.cpp with all weights in memory."""
    with setup.plain("f16") as plain:
        return [statistics.median(plain.ask("rows", number)["times"]) for number in rows]


def keeping(setup: Setup, rows: Sequence[int]) -> dict[str, Any]:
    """Medians of passes over so many tokens, as a batch and with the bits of single ones.

    ``step`` are seconds of one token, ``together`` and ``kept`` those for each number of `rows`,
    ``memory`` bytes by purpose.
    """
    drop_cache(setup.paths)
    threads = {"n_threads": setup.cores, "n_threads_batch": setup.cores}
    batch = {"n_ctx": setup.ctx, "n_batch": 32, "n_ubatch": 32}
    asked = {**threads, **batch, "memory": setup.budget, "draft": "ngram", **setup.sides.own}
    with (
        group_of(setup.model, rate=setup.drive) as group,
        Worker("ours", setup.model, asked, group) as ours,
    ):
        found: dict[str, Any] = {"memory": ours.facts["memory"]}
        found["step"] = statistics.median(ours.ask("step", 3)["times"])
        for command in ("together", "kept"):
            found[command] = [statistics.median(ours.ask(command, n)["times"]) for n in rows]
    return found
