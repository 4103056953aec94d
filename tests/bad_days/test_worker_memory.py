"""A worker's memory, looked at from outside while it holds layers: never above its limit."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.sampled import sampling
from support.workers import lend_layers, worker

from flexinfer import Llama
from flexinfer.bench.limits import limited
from flexinfer.errors import UnsupportedError
from flexinfer.synth.shapes import Shape
from flexinfer.synth.write import write_model

MIB = 1 << 20
MEMORY = 260
# 130 MB in f16, of which workers get all layers but one.
SHAPE = Shape(16, 512, 2048, 8, 2, 4096, 64, context=2048)
PROMPT = [5 + (7 * at) % 4000 for at in range(600)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lent") / "model.gguf"
    write_model(SHAPE, path, "f16")
    return path


def ask(model: Path, endpoint: str, ctx: int, ubatch: int) -> int:
    """A long prompt and an answer over the worker; returns the bytes that it holds."""
    with Llama(
        str(model),
        rpc=endpoint,
        weight_memory="16MiB",
        n_ctx=ctx,
        n_ubatch=ubatch,
        n_batch=ubatch,
        verbose=False,
    ) as llm:
        split = llm.plan.request.split
        assert split is not None
        llm.eval(PROMPT)
        for token in (11, 12, 13):
            llm.eval([token])
        return split.away_bytes


@pytest.mark.parametrize("cached", [False, True])
def test_the_memory_of_a_worker_is_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    """Of one client after the other, with other contexts and batches."""
    options = ("--cache", str(tmp_path)) if cached else ()
    try:
        with (
            limited(memory=MEMORY * MIB) as group,
            group.watch(0.005) as seen,
            worker(f"{MEMORY}MiB", *options, group=group) as one,
            sampling(one.process.pid, 0.005) as sampled,
        ):
            lend_layers(monkeypatch, {one.endpoint: 16})
            held = max(
                ask(model, one.endpoint, ctx, ubatch)
                for ctx, ubatch in ((1024, 32), (2048, 512), (1024, 256))
            )
            assert one.process.poll() is None
            assert group.oom_kills == 0
    except UnsupportedError as error:
        pytest.skip(str(error))
    assert held > 100 * MIB
    assert sampled.samples > 20
    assert held < sampled.peak <= MEMORY * MIB, f"{sampled.peak / MIB:.1f} of {MEMORY} MiB"
    assert held < seen.peak <= MEMORY * MIB
