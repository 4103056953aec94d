"""A budget that follows the machine: limits that change, memory that others need or give back.

`AutoBudget` decides, from plain numbers; `Follower` looks and acts once a second in a thread of its
own, so that memory also goes back while no request runs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flexinfer.errors import FlexInferError
from flexinfer.machine.cgroups import PROC
from flexinfer.machine.machine import Machine
from flexinfer.sizes import format_size

EVERY_SECONDS = 1.0
# Room below this share of the budget takes effect at once, room above that only after a while:
# reading weights back costs more than it brings when the room goes again.
_SHRINK_BELOW = 0.97
_GROW_ABOVE = 1.10
_GROW_AFTER_SECONDS = 10.0
# Share of time, in percent over 10 s, in which some task waited for memory (PSI, "some avg10").
_PRESSED = 10.0
_CALM = 1.0
_PRESSED_STEP = 7 / 8
_PRESSED_SECONDS = 5.0


@dataclass(frozen=True)
class Look:
    """The machine at one moment: bytes this process could use, and memory pressure in percent."""

    room: int
    pressure: float


@dataclass(frozen=True)
class Move:
    """A change of the budget, in bytes."""

    before: int
    after: int
    reason: str

    def __str__(self) -> str:
        return (
            f"memory budget {format_size(self.before)} -> {format_size(self.after)}: {self.reason}"
        )


class AutoBudget:
    """When to move a budget, with hysteresis. Pure policy: takes numbers and a clock's time."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._calm_since: float | None = None
        self._pressed_at = float("-inf")

    def __repr__(self) -> str:
        return f"<AutoBudget {format_size(self.budget)}>"

    def decide(self, look: Look, now: float) -> Move | None:
        """The move that `look` asks for at `now` (seconds), already noted; None to stay."""
        if look.room < self.budget * _SHRINK_BELOW:
            return self._move(look.room, "less memory is available")
        if look.pressure > _PRESSED and now - self._pressed_at >= _PRESSED_SECONDS:
            self._pressed_at = now
            wanted = int(self.budget * _PRESSED_STEP)
            return self._move(wanted, f"memory is under pressure ({look.pressure:.0f} %)")
        if look.room <= self.budget * _GROW_ABOVE or look.pressure > _CALM:
            self._calm_since = None
            return None
        if self._calm_since is None:
            self._calm_since = now
        if now - self._calm_since < _GROW_AFTER_SECONDS:
            return None
        return self._move(look.room, "more memory is available")

    def refused(self, move: Move) -> None:
        """`move` could not be carried out: the budget is what it was."""
        self.budget = move.before

    def _move(self, wanted: int, reason: str) -> Move:
        move = Move(self.budget, wanted, reason)
        self.budget = wanted
        self._calm_since = None
        return move


class Budgeted(Protocol):
    """What follows: `flexinfer.Llama`, for one."""

    @property
    def memory(self) -> int | None: ...

    @memory.setter
    def memory(self, budget: int) -> None: ...


class Follower:
    """Moves the budget of `target` with the machine until it is closed.

    Args:
        target: must have a budget.
        moved: is told each move that took effect, from the follower's thread.
        look: at the machine; replaced by tests.
        every: seconds between two looks.
    """

    def __init__(
        self,
        target: Budgeted,
        *,
        moved: Callable[[Move], None] = lambda move: None,
        look: Callable[[], Look] | None = None,
        every: float = EVERY_SECONDS,
    ) -> None:
        self._target = target
        self._policy = AutoBudget(target.memory or 0)
        self._moved = moved
        self._look = look or look_at_machine
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flexinfer-budget", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Follower {self._policy!r} every {self._every} s>"

    def close(self) -> None:
        """Stop following; the budget stays where it is."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def step(self, now: float) -> Move | None:
        """Look once and act; the move that took effect."""
        move = self._policy.decide(self._look(), now)
        if move is None:
            return None
        try:
            self._target.memory = move.after
        except FlexInferError:
            self._policy.refused(move)
            return None
        self._moved(move)
        return move

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            try:
                self.step(time.monotonic())
            except ReferenceError:  # the target was forgotten without being closed
                return


def look_at_machine() -> Look:
    """Room and pressure now; takes about a millisecond."""
    return Look(Machine.detect().default_budget, pressure())


def pressure(proc: Path = PROC) -> float:
    """Percent of the last 10 s in which some task waited for memory; 0 where there is no PSI."""
    try:
        text = (proc / "pressure/memory").read_text()
    except OSError:
        return 0.0
    for field in text.partition("\n")[0].split():
        if field.startswith("avg10="):
            return float(field[len("avg10=") :])
    return 0.0
