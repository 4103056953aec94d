"""What a request computed, put aside while another one has the context."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llama_cpp.llama import LlamaState

from flexinfer.binding import private, state
from flexinfer.memory.ledger import Ledger


@dataclass(frozen=True)
class Aside:
    """The context's state, and what the class keeps of the request beside it."""

    computed: LlamaState
    sampling: private.Sampling

    def give_back(self, llm: Any) -> None:
        """Have the context be as it was."""
        state.load_state(llm, self.computed)
        self.sampling.give_back(llm)
        llm._rows_are_gone()


def put_aside(llm: Any, ledger: Ledger) -> Aside | None:
    """What `llm` holds; None where not all of it can be copied.

    What an encoder found is not in a state, nor are logits that a draft of the caller's own is
    still to be held against; those of ours are computed again.

    Raises:
        BudgetError: it does not fit.
    """
    if llm._drafted_by_caller or llm.encodes_prompts:
        return None
    return Aside(state.save_state(llm, ledger), private.Sampling(llm))
