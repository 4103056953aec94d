"""The budget kept, and the time to the first token: one process in a cgroup of exactly that size.

    python benchmarks/budget.py MODEL --budgets 600MiB,1GiB,2GiB,3GiB --plain

Each run is `flexinfer run` from a cold page cache, in a cgroup whose limit is the budget, without
swap; anonymous and kernel bytes of the group are sampled every 10 ms from outside. With `--plain`,
llama.cpp --no-repack with mmap decodes the same prompt in the same group. Times count from the
start of the process.

The bound on the first token is ``max(P, W / B)``: P the prompt's seconds in llama.cpp
(``--reference``) with all weights in memory, W the bytes of the weights, all of which have to be
read once, B our reader with nothing computed.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import click
from sides_options import sides_options

from flexinfer.bench.cold_start import cold_start
from flexinfer.bench.in_group import GroupRun, run_in_group
from flexinfer.bench.sides import Sides
from flexinfer.bench.turns import Worker
from flexinfer.gguf.catalogue import read_catalogue
from flexinfer.machine.machine import device_of
from flexinfer.sizes import format_size, parse_size

# As the vocabulary of `flexinfer synth` has it: one token begins a text, one is a space.
PROMPT = 14 * "a"
PROMPT_TOKENS = 16


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option("--budgets", default="600MiB,1GiB,2GiB,3GiB", show_default=True)
@click.option("--drive", help="Throttle of the drive, as 500MB/s.")
@click.option("--tokens", default=8, show_default=True)
@click.option("--ctx", default=512, show_default=True)
@click.option("--rounds", default=1, show_default=True)
@click.option("--bound/--no-bound", default=True, help="Needs memory for all weights.")
@sides_options
@click.option("--plain", is_flag=True, help="llama.cpp with mmap beside it; slow.")
@click.option("--plain-tokens", default=2, show_default=True)
def main(
    model: str,
    budgets: str,
    drive: str | None,
    tokens: int,
    ctx: int,
    rounds: int,
    bound: bool,
    plain: bool,
    plain_tokens: int,
    sides: Sides,
) -> None:
    rate = parse_size(drive.removesuffix("/s")) if drive else None
    click.echo(
        f"drive {drive or 'as it is'}, readahead {_readahead(model)} KiB, {tokens} tokens; {sides}"
    )
    if bound:
        click.echo(_bound(model, rate, ctx, sides))
    click.echo(
        "| budget | accounted | sampled peak | OOM kills | load s | first token s | tok/s | plan's "
        "bound | mmap first token s | mmap tok/s |"
    )
    click.echo("|---|---|---|---|---|---|---|---|---|---|")
    for text in budgets.split(",") * rounds:
        beside = ["-", "-"]
        if plain:
            script = [sys.executable, __file__.replace("budget.py", "plain.py"), model]
            script += [PROMPT, str(plain_tokens), str(ctx)]
            reference = _cold(script, model, parse_size(text), rate).document
            beside = [f"{reference['first_token_s']:.1f}", f"{reference['decode_tok_s']:.3f}"]
        click.echo(_row(text, model, rate, tokens, ctx, sides) + " | ".join(beside) + " |")


def _cold(command: list[str], model: str, memory: int, rate: int | None) -> GroupRun:
    return run_in_group(command, model, memory, rate, while_loading=cold_start(memory))


def _row(text: str, model: str, rate: int | None, tokens: int, ctx: int, sides: Sides) -> str:
    """All columns of one budget but those of llama.cpp with mmap."""
    budget = parse_size(text)
    command = [sys.executable, "-m", "flexinfer", "run", model, "--memory", text, "-q"]
    command += ["-p", PROMPT, "-n", str(tokens), "--ctx", str(ctx), "--temp", "0", "--json"]
    command += ["--repack" if sides.own["repack"] else "--no-repack"]
    run = _cold(command, model, budget, rate)
    if run.document["prompt_tokens"] != PROMPT_TOKENS:
        raise click.ClickException(f"the prompt has {run.document['prompt_tokens']} tokens here")
    memory, speed = run.document["memory"], run.document["speed"]
    accounted = sum(memory[k] for k in ("locked", "window", "kv", "compute", "overhead"))
    return (
        f"| {text} | {accounted / budget:.1%} "
        f"| {format_size(run.peak)} ({run.peak / budget:.1%}) | {run.kills} "
        f"| {speed['load_s']} | {speed['first_token_s']} "
        f"| {speed['decode_tok_s']} | {speed['bound_tok_s']} | "
    )


def _bound(model: str, rate: int | None, ctx: int, sides: Sides) -> str:
    """What no process can beat to its first token, in words."""
    options = {"n_ctx": ctx, "n_batch": 32, "n_ubatch": 32, "n_threads": 2, "n_threads_batch": 2}
    with Worker("plain", model, options | sides.beside) as plain:
        prompt = statistics.median(plain.ask("prompt", PROMPT_TOKENS)["times"][0] for _ in range(3))
    job = {"system": "drive", "model": model, "cores": 2, "seconds": 600}
    command = [sys.executable, "-m", "flexinfer.bench.worker", json.dumps(job)]
    drive = run_in_group(command, model, None, rate).document["rate"]
    weights = read_catalogue(model).nbytes
    bound = max(prompt, weights / drive)
    return (
        f"first token: P {prompt:.2f} s, W {format_size(weights)}, B {drive / 1e9:.2f} GB/s, "
        f"bound {bound:.2f} s, 1.1 x bound + 1.5 s = {1.1 * bound + 1.5:.2f} s\n"
    )


def _readahead(model: str) -> str:
    device = device_of(model)
    if device is None:
        return "?"
    path = Path(f"/sys/dev/block/{device[0]}:{device[1]}/queue/read_ahead_kb")
    return path.read_text().strip() if path.exists() else "?"


if __name__ == "__main__":
    main()
