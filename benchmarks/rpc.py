"""Layers in other machines' memory: the rate beside the plan's prediction, and llama.cpp's.

    python benchmarks/rpc.py MODEL --budget 2GiB --workers 2 --worker-memory 2560MiB --links 1,10

Each worker runs in a network namespace of its own, over a link of so many Gbit/s that is made here
and taken down again: needs root, `ip` and `tc`. Where the kernel has netem, each link delays by
half of `--latency` in both directions; else it is as fast as it is, which is measured and said.
All processes share this machine's processors, but never compute at the same time.

Rates of processors and links are what a probe says at first: the first run of each link, of
`--learning` tokens, is there to see how far that carries, and for passes to be learned from. What
is remembered is kept in a folder of its own for each link.

Beside it stands llama.cpp with the same layers at the same workers, the others mapped into memory
(mmap), in a group of the same budget. Tokens have to be the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
@click.option("--learning", default=8, show_default=True, help="Tokens of the run before.")
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
    learning: int,
    ctx: int,
    cache: bool,
    plain: bool,
) -> None:
    # Links and workers go as well when it is told to end.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    click.echo(
        f"{model}: {format_size(read_catalogue(model).nbytes)}, {budget} here, {workers} workers "
        f"of {worker_memory}, context {ctx}, {tokens} tokens"
    )
    click.echo("E: milliseconds of a token elsewhere, as planned and as they were.")
    click.echo(
        "| Gbit/s | round trip ms | layers | predicted by the probe, of it | predicted tok/s | "
        "tok/s | of it | E | read a token | llama.cpp tok/s | same tokens |"
    )
    click.echo("|---|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for text in links.split(","):
            with Net(workers, float(text), latency) as net:
                kept = Path(folder) if cache else None
                os.environ["XDG_CACHE_HOME"] = str(Path(folder) / f"remembered-{text}")
                with net.serving(worker_memory, kept) as endpoints:
                    run = Run(model, budget, endpoints, ctx)
                    click.echo(_row(run, text, tokens, learning, plain))


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


@dataclass(frozen=True)
class Run:
    """A model over workers."""

    model: str
    budget: str
    endpoints: list[str]
    ctx: int

    def _words(self, tokens: int) -> list[str]:
        words = [self.model, "-n", str(tokens), "--memory", self.budget, "--ctx", str(self.ctx)]
        words += ["--ubatch", "32", "--rpc", ",".join(self.endpoints)]
        return [*words, "--json", "--no-flash-attn"]

    def plan(self) -> dict[str, Any]:
        """What is planned now."""
        command = [*_FLEXINFER, "plan", *self._words(1)]
        done = subprocess.run(command, check=True, capture_output=True)
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def answer(self, tokens: int) -> dict[str, Any]:
        """What came of so many tokens, in a group of the budget."""
        command = [*_FLEXINFER, "run", *self._words(tokens), "-p", _PROMPT, "--temp", "0"]
        return run_in_group(command, self.model, parse_size(self.budget)).document


def _row(run: Run, gbit: str, tokens: int, learning: int, plain: bool) -> str:
    probed = run.plan()["expected_tok_s"]
    first = run.answer(learning)["speed"]["decode_tok_s"]
    planned = run.plan()
    split = planned["plan"]["request"]["split"]
    counts = [split["here"], *(share["layers"] for share in split["after"])]
    away = sum(share["seconds"] for share in split["after"])
    ours = run.answer(tokens)
    rate, predicted = ours["speed"]["decode_tok_s"], planned["expected_tok_s"]
    cells = [
        gbit,
        f"{1000 * _round_trip(run.endpoints[0]):.2f}",
        " + ".join(map(str, counts)),
        f"{probed:.3f}, {first / probed:.2f}",
        f"{predicted:.3f}",
        f"{rate:.3f}",
        f"{rate / predicted:.2f}",
        f"{1000 * away:.0f}, {ours['speed']['away_ms']:.0f}",
        format_size(ours["speed"]["read_bytes_per_token"]),
        *(_beside(run, split, counts, tokens, ours) if plain else ("-", "-")),
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
    run: Run, split: dict[str, Any], counts: list[int], tokens: int, ours: dict[str, Any]
) -> tuple[str, str]:
    script = str(Path(__file__).with_name("rpc_plain.py"))
    names = ",".join(share["name"] for share in split["after"])
    layers = ",".join(map(str, counts[1:]))
    command = [sys.executable, script, run.model, _PROMPT, str(tokens), str(run.ctx), layers, names]
    plain = run_in_group(command, run.model, parse_size(run.budget)).document
    same = "yes" if plain["token_ids"] == ours["token_ids"] else "NO"
    return f"{plain['decode_tok_s']:.3f}", same


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


if __name__ == "__main__":
    main()
