"""Layers in other machines' memory: the rate beside the plan's prediction, and llama.cpp's.

    python benchmarks/rpc.py MODEL --budget 2GiB --workers 2 --worker-memory 2560MiB --links 1,10

Each worker runs in a network namespace of its own, over a link of so many Gbit/s that is made here
and taken down again: needs root, `ip` and `tc`. Where the kernel has netem, each link delays by
half of `--latency` in both directions; else it is as fast as it is, which is measured and said.
All processes share this machine's processors, but never compute at the same time.

Beside it stands llama.cpp with the same layers at the same workers, the others mapped into memory
(mmap), in a group of the same budget. Tokens have to be the same.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from flexinfer.bench.in_group import run_in_group
from flexinfer.gguf.catalogue import read_catalogue
from flexinfer.sizes import format_size, parse_size
from flexinfer.workers.greeting import greet

_PORT = 50052
# As the vocabulary of `flexinfer synth` has it: one token begins a text, one is a space.
_PROMPT = 14 * "a"
_FLEXINFER = [sys.executable, "-m", "flexinfer"]


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option("--budget", default="2GiB", show_default=True, help="Of this machine.")
@click.option("--workers", default=2, show_default=True)
@click.option("--worker-memory", default="2560MiB", show_default=True)
@click.option("--links", default="1,10", show_default=True, help="Gbit/s, one run each.")
@click.option("--latency", default=200, show_default=True, help="Microseconds, there and back.")
@click.option("--tokens", default=16, show_default=True)
@click.option("--ctx", default=512, show_default=True)
@click.option("--cache", is_flag=True, help="Workers keep tensors, and are not sent them again.")
@click.option("--plain/--no-plain", default=True, help="llama.cpp beside it.")
def main(
    model: str,
    budget: str,
    workers: int,
    worker_memory: str,
    links: str,
    latency: int,
    tokens: int,
    ctx: int,
    cache: bool,
    plain: bool,
) -> None:
    click.echo(
        f"{model}: {format_size(read_catalogue(model).nbytes)}, {budget} here, {workers} workers "
        f"of {worker_memory}, context {ctx}, {tokens} tokens"
    )
    click.echo(
        "| Gbit/s | round trip ms | layers | predicted tok/s | tok/s | of it | read a token | "
        "llama.cpp tok/s | same tokens |"
    )
    click.echo("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for text in links.split(","):
            with Net(workers, float(text), latency) as net:
                kept = Path(folder) if cache else None
                with net.serving(worker_memory, kept) as endpoints:
                    click.echo(_row(model, budget, text, endpoints, tokens, ctx, plain))


class Net:
    """Namespaces with a link to each, as long as it is entered."""

    def __init__(self, count: int, gbit: float, latency_us: int) -> None:
        self._count = count
        self._gbit = gbit
        self._latency = latency_us
        self._names = [f"fxw{number}" for number in range(count)]

    def __enter__(self) -> Net:
        for number, name in enumerate(self._names):
            near, far = f"{name}a", f"{name}b"
            _ip("netns", "add", name)
            _ip("link", "add", near, "type", "veth", "peer", "name", far)
            _ip("link", "set", far, "netns", name)
            _ip("addr", "add", f"10.213.{number}.1/30", "dev", near)
            _ip("link", "set", near, "up")
            _ip("-n", name, "addr", "add", f"10.213.{number}.2/30", "dev", far)
            _ip("-n", name, "link", "set", far, "up")
            _ip("-n", name, "link", "set", "lo", "up")
            self._shape(["tc"], near)
            self._shape(["ip", "netns", "exec", name, "tc"], far)
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._names:
            subprocess.run(["ip", "link", "del", f"{name}a"], check=False)
            subprocess.run(["ip", "netns", "del", name], check=False)

    def _shape(self, tc: Sequence[str], device: str) -> None:
        rate = f"{round(self._gbit * 1000)}mbit"
        add = [*tc, "qdisc", "add", "dev", device, "root"]
        netem = [*add, "netem", "delay", f"{self._latency // 2}us", "rate", rate, "limit", "100000"]
        if subprocess.run(netem, check=False, capture_output=True).returncode:
            burst = f"{max(round(self._gbit * 125), 128)}k"
            subprocess.run(
                [*add, "tbf", "rate", rate, "burst", burst, "latency", "50ms"], check=True
            )

    @contextlib.contextmanager
    def serving(self, memory: str, cache: Path | None) -> Iterator[list[str]]:
        """A worker in each namespace; yields their endpoints."""
        processes, endpoints = [], []
        try:
            for number, name in enumerate(self._names):
                host = f"10.213.{number}.2"
                command = ["ip", "netns", "exec", name, *_FLEXINFER, "worker", "--memory", memory]
                command += ["--host", host, "--port", str(_PORT), "--json"]
                if cache is not None:
                    command += ["--cache", str(cache / name)]
                process = subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                )
                processes.append(process)
                assert process.stdout is not None
                endpoints.append(json.loads(process.stdout.readline())["endpoint"])
            yield endpoints
        finally:
            for process in processes:
                process.terminate()
                process.communicate()


def _row(
    model: str, budget: str, gbit: str, endpoints: list[str], tokens: int, ctx: int, plain: bool
) -> str:
    words = [model, "-n", str(tokens), "--memory", budget, "--ctx", str(ctx), "--ubatch", "32"]
    words += ["--rpc", ",".join(endpoints), "--json", "--no-flash-attn"]
    planned = json.loads(
        subprocess.run([*_FLEXINFER, "plan", *words], check=True, capture_output=True).stdout
    )
    split = planned["plan"]["request"]["split"]
    counts = [split["here"], *(share["layers"] for share in split["after"])]
    run = [*_FLEXINFER, "run", *words, "-p", _PROMPT, "--temp", "0"]
    ours = run_in_group(run, model, parse_size(budget)).document
    rate, predicted = ours["speed"]["decode_tok_s"], planned["expected_tok_s"]
    cells = [
        gbit,
        f"{1000 * _round_trip(endpoints[0]):.2f}",
        " + ".join(map(str, counts)),
        f"{predicted:.3f}",
        f"{rate:.3f}",
        f"{rate / predicted:.2f}",
        format_size(ours["speed"]["read_bytes_per_token"]),
        *(_beside(model, budget, split, counts, tokens, ctx, ours) if plain else ("-", "-")),
    ]
    return f"| {' | '.join(cells)} |"


def _round_trip(endpoint: str) -> float:
    """Seconds of the fastest of some greetings, which are four questions each and a connection."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        greet(endpoint)
        times.append((time.perf_counter() - began) / 4)
    return min(times)


def _beside(
    model: str,
    budget: str,
    split: dict[str, Any],
    counts: list[int],
    tokens: int,
    ctx: int,
    ours: dict[str, Any],
) -> tuple[str, str]:
    script = str(Path(__file__).with_name("rpc_plain.py"))
    names = ",".join(share["name"] for share in split["after"])
    asked = [model, _PROMPT, str(tokens), str(ctx), ",".join(map(str, counts[1:])), names]
    plain = run_in_group([sys.executable, script, *asked], model, parse_size(budget)).document
    same = "yes" if plain["token_ids"] == ours["token_ids"] else "NO"
    return f"{plain['decode_tok_s']:.3f}", same


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


if __name__ == "__main__":
    main()
