"""A model that drafts for another: planned together with it, opened before it, closed with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from flexinfer.binding.drafting import keeps_state
from flexinfer.binding.greedy import Greedy
from flexinfer.engine.engine import Engine
from flexinfer.engine.process_ledger import process_ledger
from flexinfer.engine.sharing import Sharing
from flexinfer.errors import UnsupportedError
from flexinfer.foretell import Arguments, foretell_rows
from flexinfer.gguf.catalogue import Catalogue, read_catalogue
from flexinfer.gguf.estimate import PROCESS
from flexinfer.machine.machine import Machine, process_memory
from flexinfer.memory.ledger import Ledger
from flexinfer.planned import pair
from flexinfer.planning.drafted import BELIEF, MOST
from flexinfer.planning.pair import Believed
from flexinfer.planning.plan import Plan
from flexinfer.speculate.by_model import ByModel


class Opened(Protocol):
    """An open model, as `flexinfer.Llama` is one."""

    @property
    def plan(self) -> Plan:
        """What stays in memory."""

    def close(self) -> None:
        """Free it."""

    def release(self) -> None:
        """Give the memory of its weights back."""

    def memory_use(self) -> dict[str, int]:
        """Bytes by purpose."""

    def _running(self) -> Engine:
        """What computes it."""

    def _stop(self) -> None:
        """End what it computes."""


class DraftModel:
    """An open model that drafts, with its share of the budget.

    Args:
        llm: it, which is closed with this.
        believed: what its share of the budget goes by.
    """

    def __init__(self, llm: Any, believed: Believed) -> None:
        self._llm: Opened = llm
        self._engine = llm._running()
        self.sharing = Sharing(lambda: self._engine, believed)
        self._ledger: Ledger = llm._ledger
        self.source = ByModel(Greedy(llm), round(1e6 / llm.plan.expected_tok_s))

    def __repr__(self) -> str:
        return f"<DraftModel {self._llm!r}>"

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        use = self._llm.memory_use()
        return sum(nbytes for purpose, nbytes in use.items() if purpose != "budget")

    @property
    def displaced(self) -> int:
        """Bytes of it that the model would have without it."""
        use = self._llm.memory_use()
        return self.nbytes - use["overhead"]

    def give_last(self) -> None:
        """Have the process take memory from it only when the model has none to give."""
        self._ledger.remove_reclaimer(self._engine.reclaim)
        self._ledger.add_reclaimer(self._engine.reclaim)

    def release(self) -> None:
        """Give the memory of its weights back until it drafts again."""
        self._llm.release()

    def stop(self) -> None:
        """End what it computes; it can only be closed any more."""
        self._llm._stop()

    def close(self) -> None:
        self._llm.close()


def open_beside(
    path: str,
    catalogue: Catalogue,
    given: Mapping[str, Any],
    budget: int,
    open_model: Callable[..., Any],
) -> DraftModel:
    """Open the model at `path` to draft for that of `catalogue`, in its share of the budget.

    Args:
        given: arguments of the other model.
        budget: of both.
        open_model: as `flexinfer.Llama`.

    Raises:
        ModelFileError, UnsupportedError: it cannot be run, or not draft.
        RequestError: the two do not write the same tokens.
        BudgetError: they do not fit together.
    """
    ledger, draft = process_ledger(), read_catalogue(path)
    if ledger.used and ledger.free is not None:
        budget = min(budget, ledger.free)
    # What this process is beyond what a plan from headers expects of one.
    beyond = max(process_memory() - PROCESS, 0) if not ledger.used else 0
    arguments = Arguments.of({**given, "memory": budget})
    both = pair(catalogue, draft, arguments, Machine.detect(), beyond=beyond)
    llm = open_model(os.fspath(path), catalogue=draft, **_options(both.draft, given))
    try:
        if keeps_state(llm):
            raise UnsupportedError(
                f"{path} keeps a state from which no token can be taken back, so it cannot draft; "
                "give another model as draft"
            )
        times = foretell_rows(catalogue, both.beside, arguments)
        return DraftModel(llm, Believed(times, BELIEF, MOST))
    except BaseException:
        llm.close()
        raise


def _options(plan: Plan, given: Mapping[str, Any]) -> dict[str, Any]:
    """How the draft is opened: as `plan` has it, and else as the model."""
    return {
        # What it costs beside its weights is measured; the model then plans with what is left.
        "weight_memory": plan.room,
        "n_ctx": plan.ctx,
        "n_batch": plan.ubatch,
        "n_ubatch": plan.ubatch,
        "flash_attn": None,
        **{name: given.get(name) for name in ("n_threads", "n_threads_batch", "repack")},
        "verbose": given.get("verbose", True),
    }
