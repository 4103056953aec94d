"""What came of a load: who was overtaken, and by how many."""

from __future__ import annotations

import socket

import pytest

from flexinfer.bench.load import Load, Record


@pytest.mark.parametrize(
    ("times", "overtaken"),
    [
        ([], 0),
        ([(0.0, 5.0), (1.0, 6.0), (2.0, 7.0)], 0),
        ([(0.0, 5.0), (1.0, 4.0), (2.0, 3.0), (4.9, 9.0)], 2),
        # Sent together: there is no order between them.
        ([(0.0, 5.0), (0.2, 4.0), (0.25, 4.5)], 0),
        ([(2.0, 3.0), (0.0, 5.0), (6.0, 7.0)], 1),
    ],
)
def test_overtaken_counts_those_that_came_clearly_later_and_were_first(
    times: list[tuple[float, float]], overtaken: int
) -> None:
    assert Record(times=times).overtaken() == overtaken


def test_what_is_never_answered_is_given_up_and_no_fault() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        load = Load(silent.getsockname()[1], clients=3, seed=1)
        record = load.run(0.05, patience=0.05)
    assert record.counts == {"unfinished": 3}
    assert not record.problems
