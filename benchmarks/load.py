"""Many clients at one server in a group of just its budget: nothing crossed, lost, late or leaked.

    python benchmarks/load.py MODEL --minutes 10 --clients 64 --slots 8 --memory 300MiB

A fifth of the requests are given up on the way, a tenth make no sense. A grammar has each answer
begin with the number of its request and end at a length, so that an answer of another request, a
part of one, or more than one is seen. Memory is sampled from outside every 10 ms; anonymous bytes,
descriptors and threads stand there after the first tenth and at the end, each time with nobody
asking and the weights given back. `overtaken` is by how many requests that were sent at least a
quarter of a second later a stream was overtaken at most; with as many as there are slots it is
first come, first served.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import click

from flexinfer.bench.limits import LimitedGroup, limited
from flexinfer.bench.load import Load
from flexinfer.sizes import format_size, parse_size

# Connections and threads that wait for more requests are gone by then.
_QUIET_SECONDS = 8.0
_END_SECONDS = 10


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


def load(process: subprocess.Popen[str], group: LimitedGroup, options: dict[str, Any]) -> Any:
    """The document about one run."""
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    port = int(ready["address"].rpartition(":")[2])
    seconds = options["minutes"] * 60
    with group.watch() as seen:
        Load(port, options["clients"], options["seed"]).run(seconds / 10)
        settled = state(process.pid, port)
        record = Load(port, options["clients"], options["seed"] + 1).run(seconds * 9 / 10)
        last = state(process.pid, port)
    return {
        "mode": ready["mode"],
        "slots": ready["slots"],
        "counts": record.counts,
        "problems": record.problems,
        "answers_per_s": record.counts["answered"] / (seconds * 9 / 10),
        "overtaken": record.overtaken(),
        "sampled_peak": format_size(seen.peak),
        "samples": seen.samples,
        "over_budget": seen.peak > options["budget"],
        "oom_kills": group.oom_kills,
        "settled": settled,
        "last": last,
        "alive": process.poll() is None,
    }


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option("--minutes", default=1.0, show_default=True)
@click.option("--clients", default=64, show_default=True)
@click.option("--slots", default=8, show_default=True)
@click.option("--ctx", default=256, show_default=True)
@click.option("--memory", default="300MiB", show_default=True)
@click.option("--seed", default=1, show_default=True)
def main(model: str, memory: str, slots: int, ctx: int, **options: Any) -> None:
    budget = parse_size(memory)
    command = [sys.executable, "-m", "flexinfer", "serve", model, "--port", "0", "--json"]
    command += ["--memory", f"{budget}B", "--slots", str(slots), "--ctx", str(ctx)]
    with limited(memory=budget) as group:
        process = subprocess.Popen(
            [*command, "--", "-lv", "1"],
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=group.join,
        )
        try:
            document = load(process, group, {**options, "budget": budget})
        finally:
            process.terminate()
            try:
                process.wait(_END_SECONDS)
            finally:
                process.kill()
                process.wait()
    document["ended"] = process.returncode
    click.echo(json.dumps({"model": Path(model).name, "memory": memory, **document}, indent=1))


if __name__ == "__main__":
    main()
