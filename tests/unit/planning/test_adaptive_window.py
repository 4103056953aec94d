"""The window that follows what passes lose."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from flexinfer.planning.adaptive_window import LARGEST, LEAST, AdaptiveWindow
from flexinfer.planning.fitting import HUGE_PAGE, MIB

START = 64 * MIB
# Seconds of a pass that waited and seconds in which the drive rested, at a window of so many bytes.
Machine = Callable[[int], tuple[float, float]]


def settle(machine: Machine, start: int = START, passes: int = 90) -> list[int]:
    """Every size that the window had, the last one where it came to rest."""
    window = AdaptiveWindow(start, LEAST, LARGEST)
    sizes = [start]
    for _ in range(passes):
        waited, idle = machine(window.window)
        size = window.observe(1, 1.0, waited, idle)
        if size is not None:
            sizes.append(size)
    return sizes


def test_a_window_that_loses_nothing_stays() -> None:
    assert settle(lambda window: (0.0, 0.5)) == [START]


def test_it_grows_while_that_saves_time() -> None:
    sizes = settle(lambda window: (0.3, max(0.25 - window / (500 * MIB), 0.03)))
    assert sizes == sorted(sizes)
    assert 96 * MIB <= sizes[-1] <= LARGEST


def test_it_returns_from_growth_that_saves_nothing() -> None:
    assert settle(lambda window: (0.2, 0.2)) == [START, 96 * MIB, START]


def test_it_shrinks_where_the_drive_never_rests() -> None:
    sizes = settle(lambda window: (0.5, 0.0))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == LEAST


def test_it_returns_from_shrinking_that_lets_the_drive_rest() -> None:
    assert settle(lambda window: (0.5, 0.0 if window >= START else 0.1)) == [
        START,
        42 * MIB,
        START,
    ]


def test_it_does_not_shrink_where_the_processor_is_the_limit() -> None:
    assert settle(lambda window: (0.05, 0.0)) == [START]


def test_a_prompt_between_tokens_is_not_counted() -> None:
    window = AdaptiveWindow(START, LEAST, LARGEST)
    for _ in range(30):
        assert [window.observe(1, 1.0, 0.05, 0.0) for _ in range(8)] == 8 * [None]
        assert window.observe(64, 1.0, 0.5, 0.5) is None
    assert window.window == START


def test_tokens_of_several_sequences_decide_as_those_of_one() -> None:
    window = AdaptiveWindow(START, LEAST, LARGEST)
    assert [window.observe(8, 1.0, 0.5, 0.5) for _ in range(3)] == [None, None, 96 * MIB]


def test_a_change_is_judged_by_passes_of_as_many_rows() -> None:
    window = AdaptiveWindow(START, LEAST, LARGEST)
    for _ in range(3):
        window.observe(8, 1.0, 0.2, 0.2)
    assert window.window == 96 * MIB
    # One row loses as much: had eight rows lost it still, the window would go back.
    for _ in range(3):
        window.observe(1, 1.0, 0.2, 0.2)
    assert window.window == 144 * MIB


def test_a_token_that_computed_long_is_counted() -> None:
    """A cold start of the processor's clock must not hide what every token loses."""
    window = AdaptiveWindow(START, LEAST, LARGEST)
    sizes = [window.observe(1, 1.0, waited, 0.3) for waited in (0.9, 0.3, 0.3, 0.3, 0.3)]
    assert any(size is not None and size > START for size in sizes)


@given(
    st.integers(LEAST, LARGEST),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=100),
)
def test_sizes_stay_within_what_was_given(start: int, passes: list[tuple[float, float]]) -> None:
    window = AdaptiveWindow(start, LEAST, LARGEST)
    for waited, idle in passes:
        before = window.window
        size = window.observe(1, 1.0, waited, idle)
        assert size is None or size == window.window != before
        assert LEAST <= window.window <= LARGEST
        assert window.window % HUGE_PAGE == 0 or window.window in (start, LEAST, LARGEST)
