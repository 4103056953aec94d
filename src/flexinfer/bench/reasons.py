"""Why a technique earns here what it earns: sentences made of the counters of the runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flexinfer.bench.cases import MMAP
from flexinfer.bench.spread import Spread
from flexinfer.bench.summary import Setting, Summary, case_of
from flexinfer.sizes import format_size


def why(summary: Summary, setting: Setting, readahead: int | None) -> list[str]:
    """One sentence a technique that these runs can explain; `readahead` in KiB."""
    counted = _Counters(summary, setting)
    reasons = (
        _direct_reads(counted, readahead),
        _prefetching(counted),
        _balance(counted),
        _exact_fill(counted),
    )
    return [reason for reason in reasons if reason]


class _Counters:
    """What one step of a system counts, as medians by budget."""

    def __init__(self, summary: Summary, setting: Setting) -> None:
        self._summary = summary
        self._setting = setting
        self.budgets = summary.budgets(setting)
        compute = summary.compute_step(setting)
        self.compute_s = compute.median if compute else None
        drive = summary.drive_rate(setting)
        self.drive = drive.median if drive else None

    def per_token(self, system: str, name: str) -> list[float]:
        return self._each(system, _counter(name))

    def read_rate(self, system: str, name: str | None) -> list[float]:
        """Bytes read over the seconds of a counter, or of the whole step."""

        def rate(run: dict[str, Any]) -> float:
            seconds = run["per_token"].get(name, 0) if name else run["step_s"]
            return float(run["per_token"]["drive_bytes"] / seconds) if seconds else 0.0

        return self._each(system, rate)

    def gain(self, system: str, other: str) -> list[Spread | None]:
        """The rate of a system over another's, by budget."""
        return [
            self._summary.over(
                case_of(self._setting, system, budget), case_of(self._setting, other, budget)
            )
            for budget in self.budgets
        ]

    def at(self, budget: int, system: str, name: str) -> float:
        case = case_of(self._setting, system, budget)
        found = self._summary.figure(case, _counter(name))
        return found.median if found else 0.0

    def _each(self, system: str, value: Callable[[dict[str, Any]], float]) -> list[float]:
        cases = (case_of(self._setting, system, budget) for budget in self.budgets)
        spreads = (self._summary.figure(case, value) for case in cases)
        return [spread.median for spread in spreads if spread is not None]


def _counter(name: str) -> Callable[[dict[str, Any]], float]:
    return lambda run: float(run["per_token"].get(name, 0))


def _direct_reads(counted: _Counters, readahead: int | None) -> str | None:
    read, rate = counted.per_token(MMAP, "drive_bytes"), counted.read_rate(MMAP, None)
    ours, waiting = counted.per_token("sync", "drive_bytes"), counted.read_rate("sync", "wait_s")
    if not (rate and waiting):
        return None
    pages = f" with {readahead} KiB of readahead" if readahead is not None else ""
    return (
        f"Direct reads: mmap{pages} reads {_sizes(read)} a token, at {_gigabytes(rate)} of the "
        f"whole step; `sync` reads {_sizes(ours)} whatever the budget, keeps none of it, and gets "
        f"{_gigabytes(waiting)} while it waits. It gains where mmap faults page by page, and loses "
        "where the page cache holds a part of the model."
    )


def _prefetching(counted: _Counters) -> str | None:
    read = counted.per_token("prefetch", "drive_bytes")
    if not read or counted.compute_s is None or not counted.drive:
        return None
    compute, reading = counted.compute_s, max(read) / counted.drive
    most = (compute + reading) / max(compute, reading)
    return (
        f"Prefetching hides the shorter of computing ({1000 * compute:.0f} ms) and reading "
        f"({1000 * reading:.0f} ms) behind the longer: on this machine at most {most:.2f}x, and "
        "the more, the nearer the two are to each other. What is measured above that is the better "
        "rate of reads that never pause."
    )


def _balance(counted: _Counters) -> str | None:
    best = _best(counted, "algorithm1", "layers")
    if best is None:
        return None
    before, after = (1000 * counted.at(best, name, "wait_s") for name in ("layers", "algorithm1"))
    return (
        f"Balanced locking gains most at {format_size(best)}, where its passes wait "
        f"{after:.0f} ms a token and those with whole layers locked {before:.0f} ms: while layers "
        "in memory are computed, a window is full and the drive rests. Where reading takes longer "
        "than computing at every layer there is nothing to balance."
    )


def _exact_fill(counted: _Counters) -> str | None:
    best = _best(counted, "flex", "algorithm1")
    if best is None:
        return None
    ours, theirs = (int(counted.at(best, each, "drive_bytes")) for each in ("flex", "algorithm1"))
    return (
        f"Exact fill gains most at {format_size(best)}: `flex` locks rows of tensors until the "
        f"budget is full and takes the window that the drive needs, so it reads "
        f"{format_size(ours)} a token where `algorithm1`, which locks whole tensors beside a "
        f"window of layers, reads {format_size(theirs)}."
    )


def _best(counted: _Counters, system: str, other: str) -> int | None:
    """The budget at which a system gains most over another; None where it does at none."""
    gains = zip(counted.gain(system, other), counted.budgets, strict=True)
    known = [(gain.median, budget) for gain, budget in gains if gain is not None]
    most, budget = max(known, default=(0.0, 0))
    return budget if most > 1 else None


def _sizes(values: Sequence[float]) -> str:
    return _span(format_size(int(each)) for each in (min(values), max(values)))


def _gigabytes(rates: Sequence[float]) -> str:
    return f"{_span(f'{each / 1e9:.2g}' for each in (min(rates), max(rates)))} GB/s"


def _span(shown: Iterator[str]) -> str:
    least, most = shown
    return least if least == most else f"{least} to {most}"
