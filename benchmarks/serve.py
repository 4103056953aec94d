"""What `flexinfer serve` costs one client: time to its first answer, and its rate, over `run`'s.

    python benchmarks/serve.py MODEL --memory 2GiB

Each round runs `flexinfer run`, `flexinfer serve` and `run` again, each from its start: a process
of its own, the model's file not in the page cache, the same prompt, memory and context. The first
answer is one token, at the client: from the start of the command until `run` has written it and
until the server's answer is there, for a client that was there before. The rate is that of the
tokens after it. Figures are medians of the rounds: seconds that `serve` takes beyond the mean of
its two neighbours, and its rate over theirs; beside it what each reaches of the bound of its own
plan, since `serve` keeps memory for requests, caches and larger batches that `run` gives to
weights. `--phases` says when the server wrote each line of its log.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import click
import httpx

from flexinfer.bench.running import drop_cache
from flexinfer.gguf.catalogue import read_catalogue

_PROMPT = "The sea"
_MOST_SECONDS = 0.5
_LEAST_RATE = 0.97


@dataclass(frozen=True)
class Seen:
    """Seconds to the first answer, tokens a second after it, and the bound that the plan names."""

    first: float
    rate: float
    bound: float


def run(model: str, sizes: list[str], tokens: int) -> Seen:
    """`flexinfer run` from its start, which says itself when its first token was there."""
    command = [sys.executable, "-m", "flexinfer", "run", model, "-p", _PROMPT, "-n", str(tokens)]
    done = subprocess.run(
        [*command, "--temp", "0", "--json", *sizes], stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise click.ClickException(f"run ended with status {done.returncode}")
    speed = json.loads(done.stdout)["speed"]
    return Seen(speed["first_token_s"], speed["decode_tok_s"], speed["bound_tok_s"])


def serve(model: str, sizes: list[str], tokens: int, *, phases: bool) -> Seen:
    """`flexinfer serve` from its start until a stream of as many tokens is over."""
    client = httpx.Client(timeout=600)
    command = [sys.executable, "-m", "flexinfer", "serve", model, "--port", "0", "--json", *sizes]
    began = time.monotonic()
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    listening = threading.Thread(target=_listen, args=(server, began, phases))
    listening.start()
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line:
            raise click.ClickException(f"the server ended with status {server.wait()}")
        if phases:
            click.echo(f"{time.monotonic() - began:8.3f} s  ready", err=True)
        address = json.loads(line)["address"]
        times = stream(client, address, tokens)
        plan = client.get(f"{address}/engine/plan").raise_for_status().json()
    finally:
        client.close()
        server.terminate()
        server.wait()
        listening.join()
    rate = (len(times) - 1) / (times[-1] - times[0])
    return Seen(times[0] - began, rate, bound_of(plan))


def _listen(server: subprocess.Popen[str], began: float, phases: bool) -> None:
    assert server.stderr is not None
    for line in server.stderr:
        if phases:
            click.echo(f"{time.monotonic() - began:8.3f} s  {line.rstrip()[:110]}", err=True)


def stream(client: httpx.Client, address: str, tokens: int) -> list[float]:
    """When each token of one answer was there."""
    asked: dict[str, Any] = {"prompt": _PROMPT, "n_predict": tokens, "temperature": 0}
    asked |= {"stream": True, "ignore_eos": True}
    times = []
    with client.stream("POST", f"{address}/completion", json=asked) as answer:
        for line in answer.iter_lines():
            event = json.loads(line.removeprefix("data: ")) if line.startswith("data: {") else {}
            if event.get("tokens"):
                times.append(time.monotonic())
    if len(times) < 2:
        raise click.ClickException(f"the answer has {len(times)} tokens")
    return times


def bound_of(plan: dict[str, Any]) -> float:
    return float(plan["bound_tok_s"])


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option("--memory", default="2GiB", show_default=True)
@click.option("--ctx", default=512, show_default=True)
@click.option("--tokens", default=12, show_default=True, help="Of each answer.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--phases", is_flag=True, help="Say what the server wrote when.")
def main(model: str, memory: str, ctx: int, tokens: int, rounds: int, phases: bool) -> None:
    paths = read_catalogue(model).paths
    sizes = ["--memory", memory, "--ctx", str(ctx)]
    click.echo(f"{model} in {memory}, {ctx} tokens of context, file not cached")
    run(model, sizes, 2)  # drive and processor are measured once
    click.echo(
        "| run: bound, of it | serve: bound, of it | serve of run | first answer: run | serve |"
    )
    click.echo("|---|---|---|---|---|")
    late, ratios = [], []
    for _ in range(rounds):
        seen = []
        for one in (run, serve, run):
            drop_cache(paths)
            if one is run:
                seen.append(run(model, sizes, tokens))
            else:
                seen.append(serve(model, sizes, tokens, phases=phases))
        before, served, after = seen
        rate = statistics.mean((before.rate, after.rate))
        first = statistics.mean((before.first, after.first))
        late.append(served.first - first)
        ratios.append(served.rate / rate)
        click.echo(
            f"| {before.bound:.3g}, {rate / before.bound:.3f} "
            f"| {served.bound:.3g}, {served.rate / served.bound:.3f} | {ratios[-1]:.3f} "
            f"| {first:.2f} s | {served.first:.2f} s |"
        )
    click.echo(f"rate: {_spread(ratios)} of run's, asked {_LEAST_RATE}")
    click.echo(f"first answer: {_spread(late)} s beyond run's, asked at most {_MOST_SECONDS}")


def _spread(found: list[float]) -> str:
    return f"{statistics.median(found):.3f} ({min(found):.3f} to {max(found):.3f})"


if __name__ == "__main__":
    main()
