"""Which layers leave this machine: as many as pays and fits, whole and one after the other."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace

import pytest

from flexinfer.planning.split import Layer, Payload, Place, Share, Split, divide

MIB = 1 << 20
# Ten layers and the output, which has no cache.
LAYERS = [*[Layer(40 * MIB, 4 * MIB, 20 * MIB)] * 10, Layer(60 * MIB, 0, 60 * MIB)]
PAYLOAD = Payload(hidden=16 << 10, logits=128 << 10, compute=8 * MIB)
FAST = Place("fast:1", 1 << 40, rate=4e9, link=1e9, latency=1e-4)
SLOW = replace(FAST, name="slow:1", rate=1e9)


def counts(split: Split) -> tuple[int, ...]:
    assert sum(split.counts) == len(LAYERS) == split.layers
    return split.counts


def more_here_takes(seconds: float) -> Callable[[Split], float]:
    """A machine on which each layer takes so long."""
    return lambda split: split.here * seconds + split.away_s


def test_all_layers_go_where_they_are_faster() -> None:
    split = divide(LAYERS, [FAST], PAYLOAD, more_here_takes(1.0))
    assert counts(split) == (0, 11)
    assert split.after == (Share("fast:1", 0, 11, 460 * MIB, split.away_s, needs=536 * MIB),)
    assert split.away_s == pytest.approx(460 * MIB / 4e9 + 1e-4 + (144 << 10) / 1e9)


def test_none_go_where_they_are_slower() -> None:
    split = divide(LAYERS, [SLOW], PAYLOAD, more_here_takes(0.001))
    assert counts(split) == (11,)
    assert split.away == split.part == ""
    assert split.notes == ("worker slow:1 has no layer",)


def test_as_many_as_its_memory_holds() -> None:
    # Three layers and the output, 180 MiB; the output once more while it is sent; and slack.
    held = replace(FAST, free=256 * MIB)
    assert counts(divide(LAYERS, [held], PAYLOAD, more_here_takes(1.0))) == (7, 4)
    less = replace(FAST, free=256 * MIB - 1)
    assert counts(divide(LAYERS, [less], PAYLOAD, more_here_takes(1.0))) == (8, 3)


def test_what_is_sent_is_held_twice() -> None:
    # The output alone: its 60 MiB, and as much while it is sent.
    assert counts(
        divide(LAYERS, [replace(FAST, free=136 * MIB)], PAYLOAD, more_here_takes(1.0))
    ) == (10, 1)
    nothing = divide(LAYERS, [replace(FAST, free=136 * MIB - 1)], PAYLOAD, more_here_takes(1.0))
    assert counts(nothing) == (11,)


def test_the_faster_worker_gets_the_most() -> None:
    places = [SLOW, replace(FAST, free=216 * MIB)]
    split = divide(LAYERS, places, PAYLOAD, more_here_takes(1.0))
    assert [share.name for share in split.after] == ["fast:1", "slow:1"]
    # Of plain layers it holds four: 160 MiB, 16 of cache, 8 and 16.
    assert counts(split) == (0, 4, 7)
    assert [share.first for share in split.after] == [0, 4]


def test_no_workers_leave_everything_here() -> None:
    assert divide(LAYERS, [], PAYLOAD, more_here_takes(1.0)) == Split(11)


def test_where_each_layer_lives() -> None:
    card, worker = Share("card", 0, 2, 80, 0.0), Share("fast:1", 5, 6, 200, 0.0)
    split = Split(3, (card,), (worker,))
    assert [layer for layer in range(11) if split.is_here(layer)] == [2, 3, 4]
    assert split.part == ", 3 of 11 layers"
    assert replace(split, after=(replace(worker, seconds=0.5),)).longer(3.0).away_s == 1.5
    assert Split.from_json(json.loads(json.dumps(asdict(split)))) == split
