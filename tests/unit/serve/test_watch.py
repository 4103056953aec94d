"""The watch: weights go back before the budget is met, and when nobody asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from flexinfer.engine.pass_stats import PassStats
from flexinfer.memory.ledger import Ledger
from flexinfer.serve.watch import ACCOUNT, Watch, guard

MIB = 1 << 20
LIMIT = 1000 * MIB


@dataclass
class Engine:
    """Gives what is asked of it."""

    ledger: Ledger
    stats: PassStats = field(default_factory=PassStats)
    released: int = 0

    def reclaim(self, missing: Callable[[], int]) -> int:
        given = min(missing(), self.charged)
        self.ledger.release("weights", given)
        return given

    @property
    def charged(self) -> int:
        return self.ledger.accounts.get("weights", 0)

    def resize(self, room: int) -> None:
        self.ledger.charge("weights", room - self.charged)

    def release(self) -> None:
        self.released += 1


@dataclass
class Scene:
    """A process with 950 MiB of its budget charged, of which it uses as much as `used` says."""

    used: int = 800 * MIB
    now: float = 0.0
    ledger: Ledger = field(default_factory=lambda: Ledger(LIMIT))

    def __post_init__(self) -> None:
        self.ledger.charge("weights", 900 * MIB)
        self.ledger.charge(ACCOUNT, 50 * MIB)
        self.engine = Engine(self.ledger)
        self.ledger.add_reclaimer(self.engine.reclaim)

    def watch(self, idle_seconds: float = 0.0) -> Watch:
        return Watch(
            self.ledger,
            self.engine,
            idle_seconds=idle_seconds,
            memory=lambda: self.used,
            clock=lambda: self.now,
        )


def test_nothing_happens_within_the_plan() -> None:
    scene = Scene()
    watch = scene.watch()
    watch.look()
    assert scene.ledger.accounts == {"weights": 900 * MIB, ACCOUNT: 50 * MIB}
    assert repr(watch) == "<Watch 0 bytes over the plan>"


def test_weights_go_back_before_the_limit_is_met_and_return_when_memory_is_free() -> None:
    scene = Scene()
    watch = scene.watch()
    scene.used = LIMIT - guard(LIMIT) + 80 * MIB
    watch.look()
    assert scene.ledger.accounts == {"weights": 870 * MIB, ACCOUNT: 130 * MIB}
    assert repr(watch) == f"<Watch {80 * MIB} bytes over the plan>"
    # What was given back is free a little later: no more is taken for the same bytes.
    scene.used -= 100 * MIB
    watch.look()
    for _ in range(40):
        scene.used = 700 * MIB
        watch.look()
    assert scene.ledger.accounts == {"weights": 950 * MIB, ACCOUNT: 50 * MIB}


def test_what_cannot_be_given_is_not_charged() -> None:
    scene = Scene()
    watch = scene.watch()
    scene.used = 3 * LIMIT
    watch.look()
    assert scene.ledger.accounts.get(ACCOUNT) == 50 * MIB


def test_what_a_lowered_budget_is_about_to_get_back_is_not_taken_twice() -> None:
    scene = Scene()

    def end_pass(missing: Callable[[], int] = int) -> int:
        """What the budget was lowered by goes back; then there is as much missing as before."""
        scene.ledger.release("weights", 150 * MIB)
        return scene.engine.reclaim(missing)

    scene.ledger.remove_reclaimer(scene.engine.reclaim)
    scene.ledger.limit = 800 * MIB
    scene.used = 950 * MIB
    scene.ledger.add_reclaimer(end_pass)
    watch = scene.watch()
    watch.look()
    assert scene.ledger.accounts == {"weights": 900 * MIB, ACCOUNT: 50 * MIB}
    end_pass()
    watch.look()
    assert scene.ledger.accounts[ACCOUNT] > 50 * MIB


def test_a_process_without_a_limit_is_left_alone() -> None:
    scene = Scene()
    scene.ledger.limit = None
    scene.used = 3 * LIMIT
    scene.watch().look()
    assert scene.ledger.accounts[ACCOUNT] == 50 * MIB


def test_idle_weights_are_given_back_once_until_a_pass_wants_them() -> None:
    scene = Scene()
    watch = scene.watch(idle_seconds=60)
    for now, released in ((59.0, 0), (60.0, 1), (300.0, 1)):
        scene.now = now
        watch.look()
        assert (scene.engine.released, watch.idle) == (released, released == 1)
    scene.engine.stats = PassStats(passes=3)
    watch.look()
    assert not watch.idle
    scene.now = 359.0
    watch.look()
    assert scene.engine.released == 1
    scene.now = 360.0
    watch.look()
    assert scene.engine.released == 2
