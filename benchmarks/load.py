"""Many clients at one server in a group of just its budget: nothing crossed, lost, late or leaked.

    python benchmarks/load.py MODEL --minutes 10 --clients 64 --slots 8 --memory 300MiB

A fifth of the requests are given up on the way, a tenth make no sense. A grammar has each answer
begin with the number of its request and end at a length, so that an answer of another request, a
part of one, or more than one is seen. Memory is sampled from outside every 10 ms; anonymous bytes,
descriptors and threads are looked at after the first tenth and after each third of the rest, with
nobody asking and the weights given back. `overtaken` is by how many requests that were sent at
least a quarter of a second later a stream was overtaken at most; with as many as there are slots
it is first come, first served.

Beside `--minutes` of asking, each of the four parts waits until what is under way is answered, at
most `--patience` seconds: with weights that stream that may take as long as the asking. After
`--limit` minutes, or when it is told to end, it prints what it has seen by then.
"""

from __future__ import annotations

import json
import signal
import statistics
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from flexinfer.bench.limits import limited
from flexinfer.bench.load import Load, Record
from flexinfer.bench.served import Served, serving
from flexinfer.sizes import format_size, parse_size

# Connections and threads that wait for more requests are gone by then.
_QUIET_SECONDS = 8.0
_PARTS = (0.1, 0.3, 0.3, 0.3)


def state(pid: int, port: int) -> dict[str, Any]:
    """What the server holds while nobody asks."""
    time.sleep(_QUIET_SECONDS)
    address = f"http://127.0.0.1:{port}"
    urllib.request.urlopen(f"{address}/engine/release", b"{}", timeout=60).close()
    with urllib.request.urlopen(f"{address}/slots", timeout=60) as answer:
        busy = sum(slot["is_processing"] for slot in json.load(answer))
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return {
        "anonymous": int(status["RssAnon"].split()[0]) << 10,
        "threads": int(status["Threads"]),
        "descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "busy_slots": busy,
    }


class Cut(Exception):
    """The time is over, or somebody ends the run."""


@dataclass
class Seen:
    """One run as far as it has come; `states` after each of its parts."""

    served: Served | None = None
    records: list[Record] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    cut: bool = True
    alive: bool = False

    def document(self) -> dict[str, Any]:
        counts = sum((record.counts for record in self.records), Counter[str]())
        waits = [wait for record in self.records for wait in record.waits]
        ready = self.served.ready if self.served else {}
        return {
            "mode": ready.get("mode"),
            "slots": ready.get("slots"),
            "cut_off": self.cut,
            "counts": counts,
            "problems": [problem for record in self.records for problem in record.problems],
            "answers_per_s": counts["answered"] / (self.seconds or 1.0),
            "first_token_s": {
                "median": statistics.median(waits) if waits else None,
                "most": max(waits, default=None),
            },
            "overtaken": max((record.overtaken() for record in self.records), default=0),
            "alive": self.alive,
            "ended": self.served.status if self.served else None,
            **{name: [state[name] for state in self.states] for name in (self.states or [{}])[0]},
        }


def loaded(served: Served, seen: Seen, options: dict[str, Any]) -> None:
    """Load the server until its time is over; what came of it is added to `seen`."""
    seen.served = served
    port = int(served.address.rpartition(":")[2])
    try:
        for number, share in enumerate(_PARTS):
            load = Load(port, options["clients"], options["seed"] + number)
            seen.records.append(load.record)
            began = time.monotonic()
            try:
                load.run(options["minutes"] * 60 * share, options["patience"])
            finally:
                seen.seconds += time.monotonic() - began
            seen.states.append(state(served.pid, port))
    finally:
        seen.alive = served.status is None


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """While entered, `Cut` comes after so long, or with a signal that ends the process; once."""

    def cut(number: int, frame: object) -> None:
        # Nothing interrupts the end of the server.
        leave_alone()
        raise Cut

    def leave_alone() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, cut)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        leave_alone()


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option("--minutes", default=1.0, show_default=True, help="Of asking.")
@click.option("--clients", default=64, show_default=True)
@click.option("--slots", default=8, show_default=True)
@click.option("--ctx", default=256, show_default=True)
@click.option("--memory", default="300MiB", show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--patience", default=60.0, show_default=True, help="Seconds after each part.")
@click.option("--limit", type=float, help="Minutes of it all; by default those of asking and 6.")
def main(
    model: str, memory: str, slots: int, ctx: int, limit: float | None, **options: Any
) -> None:
    budget = parse_size(memory)
    command = [sys.executable, "-m", "flexinfer", "serve", model, "--port", "0", "--json"]
    command += ["--memory", f"{budget}B", "--slots", str(slots), "--ctx", str(ctx)]
    seconds = (options["minutes"] + 6 if limit is None else limit) * 60
    seen = Seen()
    with limited(memory=budget) as group:
        with group.watch() as sampled, suppress(Cut), within(seconds):
            with serving([*command, "--", "-lv", "1"], group) as served:
                loaded(served, seen, options)
            seen.cut = False
        document = {
            **seen.document(),
            "sampled_peak": format_size(sampled.peak),
            "samples": sampled.samples,
            "over_budget": sampled.peak > budget,
            "oom_kills": group.oom_kills,
        }
    click.echo(json.dumps({"model": Path(model).name, "memory": memory, **document}, indent=1))


if __name__ == "__main__":
    main()
