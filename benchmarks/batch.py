"""Many short requests through `flexinfer batch`, killed in the middle and started again.

    python benchmarks/batch.py MODEL --share 50 --requests 1000

Requests of `--beginnings` beginnings alternate. The first run is killed with SIGKILL once half of
the requests are answered, the second one goes on. Every request has to have one answer, under its
own name; the prompt tokens that were computed are counted beside those that were asked.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from flexinfer.gguf.catalogue import read_catalogue

_LOOK_SECONDS = 0.05
_WORDS = "the river ran past the old mill and the children counted the stones on its bank "


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option("--share", default=50, show_default=True, help="Budget, % of the weights.")
@click.option("--slots", default="auto", show_default=True)
@click.option("--ctx", default=256, show_default=True)
@click.option("--requests", default=1000, show_default=True)
@click.option("--tokens", default=8, show_default=True, help="Of each answer.")
@click.option("--beginnings", default=2, show_default=True)
@click.option("--alike", default=6, show_default=True, help="Sentences that requests share.")
def main(
    model: str,
    share: int,
    slots: str,
    ctx: int,
    requests: int,
    tokens: int,
    beginnings: int,
    alike: int,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "in.jsonl"), Path(folder, "out.jsonl")
        _write(source, requests, tokens, beginnings, alike)
        command = [sys.executable, "-m", "flexinfer", "batch", str(source), str(out), model]
        budget = read_catalogue(model).nbytes * share // 100
        command += ["--memory", str(budget), "--slots", slots, "--ctx", str(ctx), "--json"]
        began = time.monotonic()
        kept = _killed(command, out, requests // 2)
        click.echo(f"killed after {time.monotonic() - began:.0f} s with {kept} answers")
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        said = json.loads(done.stdout)
        click.echo(f"the second run: {json.dumps(said)}; {time.monotonic() - began:.0f} s in all")
        _check(out, requests)


def _write(source: Path, requests: int, tokens: int, beginnings: int, alike: int) -> None:
    with source.open("w") as file:
        for number in range(requests):
            prompt = f"{number % beginnings} {_WORDS * alike}{number}"
            fixed = {"max_tokens": tokens, "temperature": 0, "ignore_eos": True}
            line = {"custom_id": f"r{number}", "url": "/v1/completions"}
            file.write(json.dumps({**line, "body": {"prompt": prompt, **fixed}}) + "\n")


def _killed(command: list[str], out: Path, after: int) -> int:
    """How many answers there are once the run was killed, `after` of them or more."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None and _answers(out) < after:
        time.sleep(_LOOK_SECONDS)
    process.kill()
    process.wait()
    return _answers(out)


def _answers(out: Path) -> int:
    return out.read_bytes().count(b"\n") if out.exists() else 0


def _check(out: Path, requests: int) -> None:
    records: list[dict[str, Any]] = [json.loads(line) for line in out.read_text().splitlines()]
    names = [record["custom_id"] for record in records]
    bodies = [record["response"]["body"] for record in records]
    right = sorted(names) == sorted(f"r{number}" for number in range(requests))
    asked = sum(body["usage"]["prompt_tokens"] for body in bodies)
    computed = sum(body["timings"]["prompt_n"] for body in bodies)
    click.echo(
        f"{len(records)} records, {len(set(names))} requests, "
        f"{'each once' if right else 'NOT EACH ONCE'}; of {asked} prompt tokens {computed} computed"
    )
    if not right:
        sys.exit(1)


if __name__ == "__main__":
    main()
