"""The budget kept, and the time to the first token: one process in a cgroup of exactly that size.

    python benchmarks/budget.py MODEL --budgets 600MiB,1GiB,2GiB,3GiB

Each run is `flexinfer run` from a cold page cache, in a cgroup whose limit is the budget, without
swap; anonymous and kernel bytes of the group are sampled every 10 ms from outside. With `--plain`,
llama.cpp with mmap decodes the same prompt in the same group. Times count from the start of the
process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from flexinfer.cgroup import limited
from flexinfer.machine import device_of
from flexinfer.sizes import format_size, parse_size

PROMPT = "w300w301w302w303w304w305w306w307w308w309w310"


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option("--budgets", default="600MiB,1GiB,2GiB,3GiB", show_default=True)
@click.option("--drive", help="Throttle of the drive, as 500MB/s.")
@click.option("--tokens", default=8, show_default=True)
@click.option("--ctx", default=512, show_default=True)
@click.option("--plain", is_flag=True, help="llama.cpp with mmap beside it; slow.")
@click.option("--plain-tokens", default=2, show_default=True)
def main(
    model: str,
    budgets: str,
    drive: str | None,
    tokens: int,
    ctx: int,
    plain: bool,
    plain_tokens: int,
) -> None:
    rate = parse_size(drive.removesuffix("/s")) if drive else None
    readahead = _readahead(model)
    click.echo(f"drive {drive or 'as it is'}, readahead {readahead} KiB, {tokens} tokens")
    click.echo(
        "| budget | accounted | sampled peak | OOM kills | load s | first token s | tok/s | bound "
        "| mmap first token s | mmap tok/s |"
    )
    click.echo("|---|---|---|---|---|---|---|---|---|---|")
    for text in budgets.split(","):
        budget = parse_size(text)
        command = [sys.executable, "-m", "flexinfer", "run", model, "--memory", text]
        command += ["-p", PROMPT, "-n", str(tokens), "--ctx", str(ctx), "--temp", "0", "--json"]
        ours, peak, kills = _run(command, model, budget, rate)
        memory, speed = ours["memory"], ours["speed"]
        accounted = sum(memory[k] for k in ("locked", "window", "kv", "compute", "overhead"))
        beside = ["-", "-"]
        if plain:
            script = [sys.executable, __file__.replace("budget.py", "plain.py"), model]
            reference, _, _ = _run(
                [*script, PROMPT, str(plain_tokens), str(ctx)], model, budget, rate
            )
            beside = [f"{reference['first_token_s']:.1f}", f"{reference['decode_tok_s']:.3f}"]
        click.echo(
            f"| {text} | {accounted / budget:.1%} | {format_size(peak)} ({peak / budget:.1%}) "
            f"| {kills} | {speed['load_s']} | {speed['first_token_s']} "
            f"| {speed['decode_tok_s']} | {speed['bound_tok_s']} | {' | '.join(beside)} |"
        )


def _run(
    command: list[str], model: str, memory: int, rate: int | None
) -> tuple[dict[str, Any], int, int]:
    """The command's JSON document, the group's sampled peak in bytes, and its OOM kills."""
    Path("/proc/sys/vm/drop_caches").write_text("3")
    device = device_of(model)
    reads = (device, rate) if rate and device else None
    with limited(memory=memory, read_bps=reads) as group, group.watch() as seen:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, preexec_fn=group.join
        )
        out, _ = process.communicate(timeout=3000)
        kills = group.oom_kills
    if process.returncode:
        raise click.ClickException(f"{command[2:5]} ended with {process.returncode}")
    return json.loads(out), seen.peak, kills


def _readahead(model: str) -> str:
    device = device_of(model)
    if device is None:
        return "?"
    path = Path(f"/sys/dev/block/{device[0]}:{device[1]}/queue/read_ahead_kb")
    return path.read_text().strip() if path.exists() else "?"


if __name__ == "__main__":
    main()
