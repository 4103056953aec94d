"""What streams reach together in a budget, beside the bound, the plan and llama.cpp's server.

The bound of n streams is ``n / max(C(n), S(n) / B)``: C(n) a pass of n rows in memory with the same
kernels, S(n) what a pass streams beside the caches of n, B our reader with nothing computed.
"""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from flexinfer.bench.cases import DRIVE, Case
from flexinfer.bench.in_group import group_of
from flexinfer.bench.limits import LimitedGroup
from flexinfer.bench.running import Job, drop_cache, run_case
from flexinfer.bench.served import serving
from flexinfer.bench.sides import Sides
from flexinfer.bench.streams import PROMPT, Count, Steady, Streams, ask, counted, decoded, steady
from flexinfer.bench.turns import Worker
from flexinfer.errors import EngineError
from flexinfer.gguf.estimate import KV_TYPES, needs_flash_attention
from flexinfer.own_python import own_module
from flexinfer.planning.pass_time import PassTime
from flexinfer.planning.rates import Rates

_PLAIN = "flexinfer.bench.plain_server"
_DRIVE_SECONDS = 3.0


@dataclass(frozen=True)
class Setup:
    """What all numbers of streams have in common.

    Attributes:
        paths: files of the model, the first one first.
        budget: bytes of the server, and of its group.
        drive: bytes/s the drive is held to; None: as it is.
        ctx: tokens of a stream.
        skip, passes: left out once all streams write, and counted after.
        seconds: counting ends after these.
        packed: a packed copy that ours reads instead of the model.
    """

    paths: Sequence[str]
    budget: int
    drive: int | None
    cores: int
    ctx: int
    sides: Sides
    skip: int
    passes: int
    seconds: float
    packed: str | None = None

    @property
    def model(self) -> str:
        return self.paths[0]

    def plain(self, kv: str) -> Worker:
        """llama.cpp with all weights in memory, for C of any number of rows."""
        threads = {"n_threads": self.cores, "n_threads_batch": self.cores}
        kinds: dict[str, int] = {"type_k": KV_TYPES[kv], "type_v": KV_TYPES[kv]}
        kinds["flash_attn"] = needs_flash_attention(kv)
        sizes = {"n_ctx": self.ctx, "n_batch": 32, "n_ubatch": 32}
        return Worker("plain", self.model, {**threads, **kinds, **sizes, **self.sides.beside})


def measure(setup: Setup, plain: Worker, streams: int, kv: str) -> dict[str, Any]:
    """The figures of `streams` of ours: rates in tokens/s, C in seconds, B in bytes/s, S in bytes.

    Raises:
        EngineError: the server failed.
    """
    compute = statistics.median(plain.ask("rows", streams)["times"])
    before = drive_rate(setup)
    drop_cache([*setup.paths, *filter(None, [setup.packed])])
    with group_of(setup.model, setup.budget, setup.drive) as group:
        predicted = _predicted(setup, streams, kv, group)
        command = own_module("flexinfer", "serve", setup.model, *_asked(setup, streams, kv))
        with serving([*command, "--port", "0", "--json"], group) as served:
            found = written(setup, served.address, streams, counted)
            plan = ask(served.address, "/engine/plan")
    drive = (before + drive_rate(setup)) / 2
    read, rates = plan["streamed_bytes"], Rates.from_json(plan["rates"])
    work = PassTime(compute, read / drive, rates.packing_s(read), rates.asking * read)
    return {
        "compute_s": compute,
        "drive_rate": drive,
        "streamed_bytes": read,
        "bound_tok_s": streams / max(compute, work.read),
        "busy_bound_tok_s": streams / max(work.busy, work.read),
        "predicted_tok_s": predicted,
        "tok_s": found.tok_s,
        "passes": found.passes,
        "ubatch": served.ready["ubatch"],
        "per_pass": dict(found.others),
    }


def measure_plain_server(setup: Setup, streams: int, kv: str, ubatch: int) -> dict[str, Any]:
    """The rate of llama.cpp's server with mmap in the same group; why it has none, if it failed."""
    drop_cache(setup.paths)
    try:
        with (
            group_of(setup.model, setup.budget, setup.drive) as group,
            serving(own_module(_PLAIN, *_plain_asked(setup, streams, kv, ubatch)), group) as served,
        ):
            found = written(setup, served.address, streams, decoded)
    except EngineError as error:
        return {"failed": str(error)}
    return {"tok_s": found.tok_s, "passes": found.passes}


def written(
    setup: Setup,
    address: str,
    streams: int,
    count: Callable[[str], Count],
    asked: Mapping[str, Any] = MappingProxyType({}),
) -> Steady:
    """What `streams` of the server at `address` come to once they are under way."""
    left = setup.ctx - PROMPT - 1
    with Streams(address, streams, left, asked) as writing:
        skip, passes = setup.skip, setup.passes
        return steady(
            writing, partial(count, address), skip=skip, passes=passes, seconds=setup.seconds
        )


def drive_rate(setup: Setup) -> float:
    """Bytes/s of our reader over the model, with nothing computed."""
    job = Job(setup.paths, seconds=_DRIVE_SECONDS)
    result = run_case(Case(DRIVE, 0, setup.drive, setup.cores), job)
    if "failed" in result:
        raise EngineError(f"the drive could not be measured: {result['failed']}")
    return float(result["rate"])


def _asked(setup: Setup, streams: int, kv: str) -> list[str]:
    """Options that `serve` and `plan` share."""
    return [*sizes(setup), "--slots", str(streams), "--kv-type", kv]


def sizes(setup: Setup) -> list[str]:
    """Options of all commands."""
    kernels = next(iter(setup.sides.own.values()))
    words = ["--memory", str(setup.budget), "--ctx", str(setup.ctx)]
    words += ["--mirror", setup.packed] if setup.packed else []
    return [*words, "--threads", str(setup.cores), "--repack" if kernels else "--no-repack"]


def _predicted(setup: Setup, streams: int, kv: str, group: LimitedGroup | None) -> float:
    command = own_module("flexinfer", "plan", setup.model, *_asked(setup, streams, kv), "--json")
    join = None if group is None else group.join
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=join)
    if done.returncode:
        raise EngineError(done.stderr.strip())
    return float(json.loads(done.stdout)["together_tok_s"])


def _plain_asked(setup: Setup, streams: int, kv: str, ubatch: int) -> list[str]:
    """Flags of llama-server, which is not to pack: it would need all weights in memory at once."""
    given = {
        "--model": setup.model,
        "--host": "127.0.0.1",
        "--port": 0,
        "--parallel": streams,
        "--ctx-size": streams * setup.ctx,
        "--batch-size": ubatch,
        "--ubatch-size": ubatch,
        "--threads": setup.cores,
        "--threads-batch": setup.cores,
        "--cache-type-k": kv,
        "--cache-type-v": kv,
        "--cache-ram": 0,
        "--fit": "off",
    }
    switches = ["--kv-unified", "--no-repack", "--no-warmup", "--no-ui", "--offline", "--slots"]
    return [*(str(word) for pair in given.items() for word in pair), *switches]
