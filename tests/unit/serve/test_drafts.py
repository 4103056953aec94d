"""How long the server's drafts may be: asked before each pass, told what came of it."""

from __future__ import annotations

from flexinfer.engine.pass_stats import PassStats
from flexinfer.planning.many import RowTimes
from flexinfer.serve.drafts import ServedDrafts
from flexinfer.speculate.drafts import DraftStats
from flexinfer.speculate.policy import PassTimes, Policy

# Rows cost next to nothing while a pass reads for a second.
READING = RowTimes(((1, 0.1), (16, 0.2)))


class Passes:
    """Of a model, as they come to be."""

    def __init__(self) -> None:
        self.stats = PassStats()

    def __call__(self) -> PassStats:
        return self.stats

    def compute(self, rows: int, seconds: float) -> None:
        self.stats += PassStats(passes=1, tokens=rows, wait_s=seconds)


def policy(token_us: int = 0) -> Policy:
    return Policy(PassTimes(1_000_000, READING), 15, token_us)


def test_tokens_of_all_slots_count_for_a_pass() -> None:
    drafts = ServedDrafts(policy(), Passes(), lambda: 77)
    assert drafts.length(2, 0, 0) > 3
    drafts.verified(5, 3)
    drafts.verified(5, 0)
    assert drafts.stats == DraftStats(drafted=10, accepted=3, passes=1, tokens=5)
    assert drafts.document == {
        "drafted": 10,
        "accepted": 3,
        "passes": 1,
        "tokens": 5,
        "tokens_per_pass": 5.0,
        "bytes": 77,
    }


def test_only_passes_over_answers_teach_what_rows_take() -> None:
    passes, asked = Passes(), policy()
    drafts = ServedDrafts(asked, passes)
    drafts.length(1, 0, 0)
    passes.compute(8, 9.0)
    drafts.length(1, 7, 0)
    assert asked.times.of(8) == 9e6
    drafts.length(1, 0, 0)
    passes.compute(64, 5.0)  # a prompt
    drafts.length(1, 3, 0)
    assert asked.times.of(64) > 5e6
    passes.compute(4, 1.0)
    passes.compute(4, 1.0)  # two at once are not told apart
    drafts.length(1, 3, 0)
    assert asked.times.of(4) > 2e6


def test_what_drafting_a_token_takes_is_learned() -> None:
    asked = policy(token_us=1000)
    drafts = ServedDrafts(asked, Passes())
    drafts.length(2, 0, 0)
    drafts.length(2, 8, 80_000)
    # Four tokens for each of two slots, side by side, of 20 ms.
    assert asked.token_us == round(0.7 * 1000 + 0.3 * 20_000)
    free = policy()
    drafts = ServedDrafts(free, Passes())
    drafts.length(1, 0, 0)
    drafts.length(1, 8, 900)
    assert free.token_us == 0, "looking something up takes no time"


def test_drafts_that_are_wrong_are_given_up() -> None:
    drafts = ServedDrafts(policy(), passes := Passes())
    lengths: list[int] = []
    for _ in range(60):
        lengths.append(drafts.length(1, lengths[-1] if lengths else 0, 0))
        passes.compute(1 + lengths[-1], 1.0 + lengths[-1])
        if lengths[-1]:
            drafts.verified(lengths[-1], 0)
    assert lengths[0] > 3
    assert lengths[30:].count(0) > 25
    assert drafts.stats.tokens == drafts.stats.passes == 60


def test_flags_given_by_hand_prevail() -> None:
    drafts = ServedDrafts(None, Passes())
    drafts.verified(5, 0)
    assert drafts.length(1, 5, 100) > 1000
