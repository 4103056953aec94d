"""A mixture of experts in memory limits: budget kept, rate over its bound, mmap beside it.

    python benchmarks/experts.py MODEL --budgets 3GiB,6GiB,12GiB,all --rounds 3

The bound is ``C_dense + max(C_experts, missed bytes / B)``: a layer's experts are known only after
its router, so reading hides behind nothing but other experts. C is the median step of llama.cpp
(``--reference``) with everything in memory, divided by the bytes of weights that a token uses; B
our reads of random experts with nothing computed; missed bytes are those of experts that a token
wanted and that were not in slots, whether they were read then or on a guess. Each run is a process
in a cgroup of exactly the budget, from a cold page cache; the first half of the tokens is warm-up.
A round is C and then each budget; the ratio is the median of the rounds' own. The budget ``all`` is
everything in memory, without a group. `--guesses real,0.7,off` runs each budget with guesses as
they are, with only so many left as they are, and without: random weights change a token's state so
little that the next layer's router is guessed nearly always, a trained model's is not.
`--readahead` sets the drive's readahead for llama.cpp with mmap and restores it.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from sides_options import sides_options

from flexinfer import Llama
from flexinfer.bench.expert_turns import bounds
from flexinfer.bench.in_group import run_in_group
from flexinfer.bench.sides import Sides
from flexinfer.bench.traces import KINDS, Trace, TraceRecorder, made_trace, optimum, simulate
from flexinfer.gguf.catalogue import read_catalogue
from flexinfer.machine.machine import device_of
from flexinfer.planning.kernels import Kernels
from flexinfer.sizes import format_size, parse_size
from flexinfer.storage.experts.guesses import Guessing

_ALL = "all"


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option("--budgets", default="3GiB,6GiB,12GiB", show_default=True)
@click.option("--prompt", default=16, show_default=True)
@click.option("--tokens", default=40, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--memory-step", type=float, help="C in ms; default: measured, needs the memory.")
@click.option("--guesses", default="real", show_default=True, help="Of real, off and shares.")
@sides_options
@click.option("--plain", is_flag=True, help="llama.cpp --no-repack with mmap beside it; slow.")
@click.option("--plain-tokens", default=4, show_default=True)
@click.option("--readahead", default="", help="KiB, as 128,8192; default: as it is.")
@click.option(
    "--policies",
    is_flag=True,
    help="Hit rates of policies on traces, made ones and MODEL's; nothing else.",
)
def main(
    model: str,
    budgets: str,
    prompt: int,
    tokens: int,
    rounds: int,
    memory_step: float | None,
    guesses: str,
    plain: bool,
    plain_tokens: int,
    readahead: str,
    policies: bool,
    sides: Sides,
) -> None:
    if policies:
        _policies(model)
        return
    plans = [
        (text, kind)
        for text in budgets.split(",")
        for kind in (["-"] if text == _ALL else guesses.split(","))
    ]
    found: dict[tuple[str, str], list[dict[str, Any]]] = {plan: [] for plan in plans}
    inside: list[dict[str, Any]] = []
    for _ in range(rounds):
        if memory_step is None:
            inside.append(_run(model, None, "memory", sides.reference, "-", prompt, tokens))
        else:
            inside.append({"token_s": memory_step / 1000, "prompt_s": float("nan")})
        for (text, kind), runs in found.items():
            ours = _ours(model, text, kind, sides, prompt, tokens)
            runs.append(ours | bounds(ours, inside[-1]["token_s"]))
    click.echo(f"{model}: {sides}")
    _table(inside, found, prompt)
    if plain:
        for text in (text for text in budgets.split(",") if text != _ALL):
            _mmap(model, text, readahead.split(","), plain_tokens)


def _table(
    inside: list[dict[str, Any]], found: dict[tuple[str, str], list[dict[str, Any]]], prompt: int
) -> None:
    click.echo(
        f"llama.cpp in memory: {_median(inside, 'token_s') * 1e3:.0f} ms a token, a prompt "
        f"of {prompt} tokens {_median(inside, 'prompt_s'):.1f} s; {len(inside)} rounds"
    )
    click.echo(
        "| cgroup | guesses (a token, right) | slots | hit rate | MB missed, read a token | B GB/s "
        "| bound ms | ours ms | ratio | wait ms | peak | OOM kills | prompt s | max(C, S/B) ms |"
    )
    click.echo("|" + "---|" * 14)
    for (text, kind), runs in found.items():
        click.echo(_row(text, kind, runs))


def _mmap(model: str, text: str, readaheads: list[str], tokens: int) -> None:
    for kib in readaheads:
        with _readahead(model, kib):
            mmap = _run(model, parse_size(text), "plain", Kernels.PLAIN, "-", 2, tokens)
        click.echo(f"mmap in {text}, readahead {kib or 'own'}: {mmap['token_s'] * 1e3:.0f}")


def _ours(
    model: str, text: str, guesses: str, sides: Sides, prompt: int, tokens: int
) -> dict[str, Any]:
    if text == _ALL:
        budget = f"{read_catalogue(model).nbytes + (2 << 30)}"
        return _run(model, None, "ours", sides.ours, budget, prompt, tokens)
    return _run(model, parse_size(text), "ours", sides.ours, text, prompt, tokens, guesses)


def _median(runs: list[dict[str, Any]], name: str) -> float:
    return float(statistics.median(run.get(name, 0.0) for run in runs))


def _row(text: str, guesses: str, runs: list[dict[str, Any]]) -> str:
    slots, ratios = runs[0]["slots"], [run["ratio"] for run in runs]
    peaks = [run["peak"] for run in runs if "peak" in run]
    cells = (
        text,
        f"{guesses} ({_median(runs, 'guesses'):.0f}, {_median(runs, 'right'):.2f})",
        f"{min(slots)}-{max(slots)}" if slots else "all",
        f"{_median(runs, 'hit_rate'):.2f} {runs[0].get('policy', '')}" if slots else "-",
        f"{_median(runs, 'missed_bytes') / 1e6:.0f}, {_median(runs, 'token_bytes') / 1e6:.0f}",
        f"{_median(runs, 'drive') / 1e9:.2f}",
        f"{_median(runs, 'bound') * 1e3:.0f}",
        f"{_median(runs, 'token_s') * 1e3:.0f}",
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
        f"{_median(runs, 'wait_s') * 1e3:.0f}",
        format_size(max(peaks)) if peaks else "-",
        str(sum(run.get("kills", 0) for run in runs)),
        f"{_median(runs, 'prompt_s'):.1f}",
        f"{_median(runs, 'least') * 1e3:.0f}",
    )
    return "| " + " | ".join(cells) + " |"


def _run(
    model: str, memory: int | None, kind: str, kernels: Kernels, *arguments: Any
) -> dict[str, Any]:
    """The worker's figures, with the peak and the OOM kills of its group, from a cold cache."""
    Path("/proc/sys/vm/drop_caches").write_text("3")
    command = [sys.executable, "-m", "flexinfer.bench.expert_turns", kind, kernels.value, model]
    run = run_in_group([*command, *map(str, arguments)], model, memory)
    return run.document | ({} if memory is None else {"peak": run.peak, "kills": run.kills})


@contextmanager
def _readahead(model: str, kib: str) -> Iterator[None]:
    device = device_of(model)
    if not kib or device is None:
        yield
        return
    path = Path(f"/sys/dev/block/{device[0]}:{device[1]}/queue/read_ahead_kb")
    before = path.read_text()
    path.write_text(kib)
    try:
        yield
    finally:
        path.write_text(before)


class _Always(Guessing):
    """Guesses whether it pays or not."""

    def depth(self) -> int:
        return len(self._gains)


def _policies(model: str) -> None:
    """Made traces of 128 experts, 8 used, 4 layers, 600 tokens, and one of MODEL's own."""
    click.echo("| trace (overlap) | slots | lru | lfu | best while running | Belady |")
    click.echo("|" + "---|" * 6)
    for kind in KINDS:
        trace = made_trace(kind, experts=128, used=8, layers=4, tokens=600)
        _compare(trace, (16, 43, 90))
    trace = _recorded(model)
    _compare(trace, sorted({max(trace.experts * share // 8, trace.used) for share in (2, 3, 4, 6)}))


def _compare(trace: Trace, sizes: Sequence[int]) -> None:
    for slots in sizes:
        bound = optimum(trace, slots)
        found = (simulate(trace, policy, slots) for policy in ("lru", "lfu", "best"))
        cells = " | ".join(f"{rate:.3f} ({rate / bound:.2f})" for rate in found)
        click.echo(f"| {trace.label} ({trace.overlap():.2f}) | {slots} | {cells} | {bound:.3f} |")


def _recorded(model: str) -> Trace:
    """Where MODEL sends the tokens of a text of its own."""
    catalogue = read_catalogue(model)
    recorder = TraceRecorder()
    with Llama(model, weight_memory=int(catalogue.nbytes * 0.85), n_ctx=512, verbose=False) as llm:
        known = llm.experts
        if known is None:
            raise click.ClickException(f"{model} has no experts to stream")
        known.recorder, known.guessing = recorder, _Always(2)
        for seed in range(3):
            llm("ROMEO:", max_tokens=400, temperature=0.8, seed=seed)
        counters = known.counters
        if counters.guessed:
            share = counters.guessed_right / counters.guessed
            click.echo(f"{counters.guessed} experts guessed, two a layer: {share:.0%} right")
    return recorder.trace(
        f"{Path(model).name}, 1,200 tokens", catalogue.parameter("expert_count", 0)
    )


if __name__ == "__main__":
    main()
