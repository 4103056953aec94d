"""The budget that `flexinfer serve` keeps, seen from outside: in a cgroup of exactly that size.

    python benchmarks/serve_budget.py MODEL --memory 2GiB --slots 1,8

For each number of slots a server of its own starts in a group whose limit is the budget, without
swap. As many clients as there are slots then send a long prompt each, all at once, every one
another, and let a few tokens be written. Anonymous and kernel bytes of the group are sampled every
10 ms, from the start of the process until it has ended.
"""

from __future__ import annotations

import random
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import click
import httpx

from flexinfer.bench.limits import limited
from flexinfer.bench.served import serving
from flexinfer.sizes import format_size, parse_size

# Token ids that each vocabulary has, none of which ends a text.
_FIRST, _LAST = 3, 250
_ANSWER_SECONDS = 900.0


def answered(address: str, prompt: int, tokens: int, seed: int) -> int:
    """How many tokens of a long prompt were computed for an answer."""
    draw = random.Random(seed)
    ids = [draw.randint(_FIRST, _LAST) for _ in range(prompt)]
    asked = {"prompt": ids, "n_predict": tokens, "ignore_eos": True, "temperature": 0}
    answer = httpx.post(f"{address}/completion", json=asked, timeout=_ANSWER_SECONDS)
    timings = answer.raise_for_status().json()["timings"]
    if timings["predicted_n"] != tokens:
        raise click.ClickException(f"an answer has {timings['predicted_n']} tokens, not {tokens}")
    return int(timings["prompt_n"])


def row(model: str, memory: str, slots: int, ctx: int, prompt: int, tokens: int) -> str:
    """What was seen of a server with so many slots."""
    budget = parse_size(memory)
    command = [sys.executable, "-m", "flexinfer", "serve", model, "--port", "0", "--json"]
    command += ["--memory", f"{budget}B", "--slots", str(slots), "--ctx", str(ctx)]
    with limited(memory=budget) as group:
        with (
            group.watch(limit=budget) as seen,
            serving([*command, "--", "-lv", "1"], group) as served,
            ThreadPoolExecutor(slots) as clients,
        ):
            asked = partial(answered, served.address, prompt, tokens)
            computed = list(clients.map(asked, range(slots)))
        kills = group.oom_kills
    return (
        f"| {slots} | {sum(computed)} | {served.ready['ubatch']} | {served.ready['mode']} "
        f"| {format_size(seen.peak)} ({seen.peak / budget:.1%}) "
        f"| {seen.samples} | {seen.over} | {kills} | {served.status} |"
    )


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option("--memory", default="2GiB", show_default=True)
@click.option("--slots", default="1,8", show_default=True)
@click.option("--ctx", default=512, show_default=True, help="Tokens of a slot.")
@click.option("--prompt", default=384, show_default=True, help="Tokens of each prompt.")
@click.option("--tokens", default=8, show_default=True, help="Of each answer.")
def main(model: str, memory: str, slots: str, ctx: int, prompt: int, tokens: int) -> None:
    click.echo(f"{model} in {memory}, prompts of {prompt} tokens, {tokens} tokens of each answer\n")
    click.echo(
        "| slots | tokens of prompts | batch | mode | sampled peak | samples | over the limit "
        "| OOM kills | ended |"
    )
    click.echo("|---|---|---|---|---|---|---|---|---|")
    for number in slots.split(","):
        click.echo(row(model, memory, int(number), ctx, prompt, tokens))


if __name__ == "__main__":
    main()
