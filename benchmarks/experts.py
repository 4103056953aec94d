"""A mixture of experts in memory limits: budget kept, rate over its bound, mmap beside it.

    python benchmarks/experts.py MODEL --budgets 3GiB,6GiB,12GiB --plain

The bound is ``C_dense + max(C_experts, missed bytes / B)``: a layer's experts are known only after
its router, so reading hides behind nothing but other experts. C is the median step of plain
llama.cpp with everything in memory, divided by the bytes of weights that a token uses; B our reads
of random experts with nothing computed; missed bytes are what was really read. Each run is a
process in a cgroup of exactly the budget, from a cold page cache; the first half of the tokens is
warm-up. `--readahead` sets the drive's readahead for llama.cpp with mmap and restores it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click

from flexinfer.cgroup import limited
from flexinfer.machine import device_of
from flexinfer.routing import KINDS, made_trace, optimum, simulate
from flexinfer.sizes import format_size, parse_size

WORKER = str(Path(__file__).with_name("experts_worker.py"))


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option("--budgets", default="3GiB,6GiB,12GiB", show_default=True)
@click.option("--prompt", default=16, show_default=True)
@click.option("--tokens", default=40, show_default=True)
@click.option("--memory-step", type=float, help="C in ms; default: measured, needs the memory.")
@click.option("--plain", is_flag=True, help="llama.cpp with mmap beside it; slow.")
@click.option("--plain-tokens", default=4, show_default=True)
@click.option("--readahead", default="", help="KiB, as 128,8192; default: as it is.")
@click.option("--policies", is_flag=True, help="Hit rates of policies on made traces.")
def main(
    model: str,
    budgets: str,
    prompt: int,
    tokens: int,
    memory_step: float | None,
    plain: bool,
    plain_tokens: int,
    readahead: str,
    policies: bool,
) -> None:
    if policies:
        _policies()
    if memory_step is None:
        compute = _run(None, "plain", model, "-", prompt, 12)["token_s"]
    else:
        compute = memory_step / 1000
    click.echo(f"C = {compute * 1000:.0f} ms a token in memory")
    click.echo(
        "| cgroup | slots | hit rate | MB a token | B GB/s | bound ms | ours ms | ratio | wait ms "
        "| peak | OOM kills | prompt s | max(C, S/B) ms | mmap ms (readahead KiB) |"
    )
    click.echo("|" + "---|" * 14)
    for text in budgets.split(","):
        click.echo(_row(model, text, prompt, tokens, compute))
        if plain:
            for kib in readahead.split(",") if readahead else [""]:
                with _readahead(model, kib):
                    mmap = _run(parse_size(text), "plain", model, "-", 2, plain_tokens)
                click.echo(f"mmap in {text}, readahead {kib or 'own'}: {mmap['token_s'] * 1e3:.0f}")


def _row(model: str, text: str, prompt: int, tokens: int, compute: float) -> str:
    ours = _run(parse_size(text), "ours", model, text, prompt, tokens)
    missed = ours["token_bytes"] / ours.get("drive", float("inf"))
    experts = compute * ours["expert_share"]
    bound = compute - experts + max(experts, missed)
    slots = ours["slots"]
    cells = (
        text,
        f"{min(slots)}-{max(slots)}" if slots else "all",
        f"{ours.get('hit_rate', 1.0):.2f} {ours.get('policy', '')}",
        f"{ours['token_bytes'] / 1e6:.0f}",
        f"{ours.get('drive', 0) / 1e9:.2f}",
        f"{bound * 1e3:.0f}",
        f"{ours['token_s'] * 1e3:.0f}",
        f"{bound / ours['token_s']:.2f}",
        f"{ours['wait_s'] * 1e3:.0f}",
        format_size(ours["peak"]),
        str(ours["kills"]),
        f"{ours['prompt_s']:.1f}",
        f"{max(compute, missed) * 1e3:.0f}",
    )
    return "| " + " | ".join(cells) + " | |"


def _run(memory: int | None, *arguments: Any) -> dict[str, Any]:
    """The worker's figures, with the peak and the OOM kills of its group."""
    Path("/proc/sys/vm/drop_caches").write_text("3")
    command = [sys.executable, WORKER, *map(str, arguments)]
    with nullcontext() if memory is None else limited(memory=memory) as group:
        join = group.join if group is not None else None
        with group.watch() if group is not None else nullcontext() as seen:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=join)
            out, _ = process.communicate(timeout=3000)
        if process.returncode:
            raise click.ClickException(f"{arguments} ended with {process.returncode}")
        figures: dict[str, Any] = json.loads(out)
        if group is not None and seen is not None:
            figures |= {"peak": seen.peak, "kills": group.oom_kills}
    return figures


@contextmanager
def _readahead(model: str, kib: str) -> Iterator[None]:
    device = device_of(model)
    if not kib or device is None:
        yield
        return
    path = Path(f"/sys/dev/block/{device[0]}:{device[1]}/queue/read_ahead_kb")
    before = path.read_text()
    path.write_text(kib)
    try:
        yield
    finally:
        path.write_text(before)


def _policies() -> None:
    """128 experts, 8 used, 4 layers of 600 tokens; as fractions of Belady's hit rate."""
    click.echo("| trace (overlap) | slots | lru | lfu | best while running | Belady |")
    click.echo("|" + "---|" * 6)
    for kind in KINDS:
        trace = made_trace(kind, experts=128, used=8, layers=4, tokens=600)
        for slots in (16, 43, 90):
            bound = optimum(trace, slots)
            found = (simulate(trace, policy, slots) for policy in ("lru", "lfu", "best"))
            cells = " | ".join(f"{rate:.3f} ({rate / bound:.2f})" for rate in found)
            click.echo(f"| {kind} ({trace.overlap():.2f}) | {slots} | {cells} | {bound:.3f} |")


if __name__ == "__main__":
    main()
