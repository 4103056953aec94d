"""Many clients at once, some of which leave or make no sense: each gets its own whole answer."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from support.abused import abused, plain
from support.served import Served

from flexinfer.bench.load import Load
from flexinfer.errors import UnsupportedError

CLIENTS = 24


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    model = Path(str(files("flexinfer") / "data" / "shakespeare.gguf"))
    try:
        with abused(model, ctx=256) as served:
            yield served
    except UnsupportedError as error:
        pytest.skip(str(error))


def test_no_answer_is_crossed_cut_or_lost(server: Served) -> None:
    record = Load(server.port, CLIENTS, seed=5, key=server.key).run(4.0)
    assert not record.problems
    assert min(record.counts[kind] for kind in ("answered", "cancelled", "refused")) > 0
    slots = server.get("/slots")[1]
    assert record.overtaken() <= len(slots)
    plain(server)
