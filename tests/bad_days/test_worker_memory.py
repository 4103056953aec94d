"""A worker's memory, looked at from outside while it holds layers: never above its limit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.sampled import sampling
from support.workers import Running, lend_layers, worker

from flexinfer import Llama
from flexinfer.bench.limits import Peak, limited
from flexinfer.errors import UnsupportedError, WorkerError
from flexinfer.synth.shapes import Shape
from flexinfer.synth.write import write_model

MIB = 1 << 20
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


@contextmanager
def kept(memory: int, *options: str) -> Iterator[tuple[Running, Peak]]:
    """A worker of so many MiB that has no more, whatever is asked of it until the end."""
    try:
        with (
            limited(memory=memory * MIB) as group,
            group.watch(0.005) as seen,
            worker(f"{memory}MiB", *options, group=group) as one,
            sampling(one.process.pid, 0.005) as sampled,
        ):
            yield one, sampled
            assert one.process.poll() is None
            assert group.oom_kills == 0
    except UnsupportedError as error:
        pytest.skip(str(error))
    assert sampled.samples > 20
    assert sampled.peak <= memory * MIB, f"{sampled.peak / MIB:.1f} of {memory} MiB"
    assert seen.peak <= memory * MIB


@pytest.mark.parametrize("cached", [False, True])
def test_the_memory_of_a_worker_is_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    """Of one client after the other, with other contexts and batches."""
    with kept(260, *(("--cache", str(tmp_path)) if cached else ())) as (one, sampled):
        lend_layers(monkeypatch, {one.endpoint: 16})
        held = max(
            ask(model, one.endpoint, ctx, ubatch)
            for ctx, ubatch in ((1024, 32), (2048, 512), (1024, 256))
        )
        assert 100 * MIB < held < sampled.peak


def test_layers_that_do_not_fit_are_not_taken(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with kept(125) as (one, sampled):
        lend_layers(monkeypatch, {one.endpoint: 16})
        for _ in range(2):
            with pytest.raises(WorkerError, match="free, too little for 16 layers"):
                ask(model, one.endpoint, 1024, 32)
        monkeypatch.undo()
        lend_layers(monkeypatch, {one.endpoint: 4})
        assert 20 * MIB < ask(model, one.endpoint, 1024, 32) < sampled.peak
