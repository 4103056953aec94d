"""Many clients at one server in a group of just its budget: nothing crossed, lost, late or leaked.

    python benchmarks/load.py MODEL --minutes 10 --clients 64 --slots 8 --memory 300MiB

A fifth of the requests are given up on the way, a tenth make no sense. A grammar has each answer
begin with the number of its request and end at a length, so that an answer of another request, a
part of one, or more than one is seen. Memory is sampled from outside every 10 ms; anonymous bytes,
descriptors and threads are looked at after the first tenth and after each third of the rest, with
nobody asking and the weights given back. `overtaken` is by how many requests that were sent at
least a quarter of a second later a stream was overtaken at most; with as many as there are slots
it is first come, first served.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import click

from flexinfer.bench.limits import LimitedGroup, limited
from flexinfer.bench.load import Load, Record
from flexinfer.sizes import format_size, parse_size

# Connections and threads that wait for more requests are gone by then.
_QUIET_SECONDS = 8.0
_END_SECONDS = 10
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


def loaded(process: subprocess.Popen[str], group: LimitedGroup, options: dict[str, Any]) -> Any:
    """The document about one run."""
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    if "address" not in ready:
        raise click.ClickException("the server did not start")
    port = int(ready["address"].rpartition(":")[2])
    seconds = options["minutes"] * 60
    records: list[Record] = []
    states: list[dict[str, Any]] = []
    with group.watch() as seen:
        for number, share in enumerate(_PARTS):
            load = Load(port, options["clients"], options["seed"] + number)
            records.append(load.run(seconds * share))
            states.append(state(process.pid, port))
    counts = sum((record.counts for record in records), Counter[str]())
    return {
        "mode": ready["mode"],
        "slots": ready["slots"],
        "counts": counts,
        "problems": [problem for record in records for problem in record.problems],
        "answers_per_s": counts["answered"] / seconds,
        "overtaken": max(record.overtaken() for record in records),
        "sampled_peak": format_size(seen.peak),
        "samples": seen.samples,
        "over_budget": seen.peak > options["budget"],
        "oom_kills": group.oom_kills,
        **{name: [state[name] for state in states] for name in states[0]},
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
            document = loaded(process, group, {**options, "budget": budget})
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
