"""Where bytes are: of weights that stay, pass through, or are held expert by expert."""

from __future__ import annotations

from flexinfer.gguf.types import QuantType, TensorInfo
from flexinfer.planning.weights import Use, Weight
from flexinfer.seam import ExpertPlace, Layout
from flexinfer.storage.layouts import Held
from flexinfer.storage.presence import Presence, presence

ROW = 100


def held(number: int, *, experts: int = 1) -> Held:
    name, rows = f"w{number}", 8
    info = TensorInfo(name, QuantType(0, "f32", 1, 4), (25, rows), 0, 0, rows * ROW)
    weight = Weight(name, rows * ROW, rows, Use.MATMUL, experts=experts)
    return Held(number, 0, info, weight)


def test_locked_parts_count_once_they_have_arrived() -> None:
    one = held(1)
    here, coming = one.part(0, 3, locked=True), one.part(3, 2, locked=True)
    streamed = one.part(5, 3, locked=False)
    layouts = {1: Layout("w1", 0, (here, coming, streamed))}
    assert presence([one], layouts, [], ()) == Presence((0,), (0,), (0,))
    here.address = 4096
    assert presence([one], layouts, [], ()) == Presence((3 * ROW,), (0,), (0,))
    assert presence([one], layouts, [("w1", ROW), ("w2", 5), ("w1", ROW)], ()).passing == (2 * ROW,)


def test_experts_count_as_many_as_their_group_has_in_slots() -> None:
    weights = [held(1, experts=4), held(2, experts=4), held(3)]
    layouts = {
        1: Layout("w1", 0, (), experts=ExpertPlace(0, 0)),
        2: Layout("w2", 0, (), experts=ExpertPlace(1, 0)),
        3: Layout("w3", 0, (weights[2].part(0, 8, locked=True),)),
    }
    found = presence(weights, layouts, [], ((0, 2, 3), (1,)))
    assert found.experts == (3 * 2 * ROW, 2 * ROW, 0)
    # Slots of a plan that has just been left.
    assert presence(weights, layouts, [], ()).experts == (0, 0, 0)


def test_a_weight_without_a_layout_is_nowhere() -> None:
    assert presence([held(1)], {}, [], ()) == Presence((0,), (0,), (0,))
