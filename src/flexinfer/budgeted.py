"""A model on a budget: what it tells of memory and passes, and how the budget is changed."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

from flexinfer.binding.aside import Aside
from flexinfer.binding.drafting import Drafting, keeps_state, wraps
from flexinfer.binding.turns import Stage, Turns
from flexinfer.engine.engine import Engine
from flexinfer.engine.opening import Opening
from flexinfer.engine.pass_stats import PassStats
from flexinfer.errors import EngineError, UnsupportedError
from flexinfer.gguf.catalogue import Catalogue
from flexinfer.machine.budget import granted_budget
from flexinfer.machine.machine import Machine
from flexinfer.pairing import DraftModel
from flexinfer.planning.drafted import AUTO, OFF
from flexinfer.planning.plan import Plan
from flexinfer.rates.row_times import row_times
from flexinfer.reading.reader import DriveUse
from flexinfer.speculate.choice import check_draftable, drafts_of
from flexinfer.speculate.drafts import Drafts, DraftStats
from flexinfer.storage.experts.experts import Experts
from flexinfer.storage.residency import Residency

# Arguments that a model is opened with and that nothing asks again.
_FIXED = frozenset(
    {"weight_memory", "strategy", "window", "min_ctx", "repack", "rpc", "draft", "mirrors"}
)


class Budgeted(Drafting):
    """A model that was opened inside a memory budget."""

    catalogue: Catalogue
    # None until it was opened, and once it is closed.
    _engine: Engine | None = None
    _opening: Opening | None = None
    _turns: Turns[Aside] | None = None
    # The model that drafts, where one does.
    _beside: DraftModel | None = None
    _threads: int

    def __setattr__(self, name: str, value: object) -> None:
        if name in _FIXED:
            raise AttributeError(
                f"{name} cannot be changed while the model is open; assign memory, or open it anew "
                f"with {name}={value!r}"
            )
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        turns = self._turns
        if turns is None or turns.forked or self._engine is None:
            mode = "of another process" if turns and turns.forked else "closed"
            if turns and turns.without_weights and turns.stage is Stage.OPEN:
                mode = "its vocabulary alone"
        else:
            mode = self._engine.storage.plan.mode
        return f"<flexinfer.Llama {os.path.basename(self.model_path)}: {mode}>"

    @property
    def plan(self) -> Plan:
        """What stays in memory, what streams, and why; changes with `memory`."""
        return self._running().storage.plan

    @property
    def stats(self) -> PassStats:
        """Totals over all passes since the model was opened: seconds, bytes, counts."""
        return self._running().stats

    @property
    def experts(self) -> Experts | None:
        """Slots, hits, policy and recorder of a mixture of experts.

        None for other models, and for one that is in memory as a whole.
        """
        return self._storage().experts

    @property
    def pinned(self) -> bool:
        """Whether the system keeps locked weights out of swap: `ulimit -l` has to allow it."""
        return self._storage().pinned

    @property
    def read_bytes(self) -> int:
        """Bytes read from the drive so far, up to date during a pass."""
        return self._running().storage.traffic.read_bytes

    @property
    def drives(self) -> tuple[DriveUse, ...]:
        """What each drive with a copy of the model did: path, bytes, why it was left aside."""
        return tuple(self._storage().drives)

    @property
    def memory(self) -> int | None:
        """Bytes the process may use; assign a size to change it from the next pass on.

        It is held below what exists, as when the model was opened. Shrinking gives memory back at
        once, growing reads weights when they are next used.

        Raises:
            BudgetError: the new budget does not hold the smallest window.
        """
        return self._ledger.limit

    @memory.setter
    def memory(self, budget: str | int) -> None:
        nbytes = granted_budget(budget, Machine.detect())
        self._running()
        assert self._opening is not None
        self._opening.change_budget(nbytes, self._beside.sharing.take if self._beside else None)

    def release(self) -> None:
        """Give the memory of all weights back; the next request reads them again.

        Context, KV cache and the open files stay, so a conversation goes on where it was.
        """
        self._running().release()
        if self._beside is not None:
            self._beside.release()

    @property
    def drafting(self) -> DraftStats | None:
        """Drafted and accepted tokens, tokens a pass; None where answers are not drafted."""
        return self._drafts.stats if isinstance(self._drafts, Drafts) else None

    def _draft(self, wish: str) -> None:
        """Have answers be drafted as wished.

        Raises:
            UnsupportedError: this model's cannot be.
        """
        if wish == OFF:
            return
        try:
            self._check_draftable()
        except UnsupportedError:
            if wish == AUTO:
                return
            raise
        if self._beside is not None:
            self._beside.give_last()
        source, plan = self._beside.source if self._beside else None, self.plan
        kv = (self.context_params.type_k, self.context_params.type_v)
        times = row_times(plan.weights, self.catalogue.types, plan.rates, self._threads, kv, {})
        self._draft_by(drafts_of(source, plan, times, self.n_ctx(), plan.ubatch))

    def _check_draftable(self) -> None:
        check_draftable(
            self.catalogue.name,
            self.catalogue.architecture,
            recurrent=keeps_state(self),
            wraps=wraps(self),
            elsewhere=self.plan.request.split is not None,
        )

    @property
    def _is_idle(self) -> bool:
        return self._turns is None or self._turns.is_idle

    def _keeping_rows(self) -> AbstractContextManager[None]:
        return self._running().keeping_rows()

    def memory_use(self) -> dict[str, int]:
        """Bytes of this model by purpose: locked, window, kv, compute, overhead.

        ``budget`` is that of the process, which all models share; 0 means no limit. ``draft`` is
        what a model holds that drafts for it.
        """
        self._running()
        assert self._opening is not None
        use = {"budget": self._ledger.limit or 0, **self._opening.memory_use()}
        return use if self._beside is None else {**use, "draft": self._beside.nbytes}

    def _running(self) -> Engine:
        if self._engine is None or self._engine.interrupt.closing:
            raise EngineError("the model is closed; open it again")
        return self._engine

    def _storage(self) -> Residency:
        if self._opening is None or self._opening.storage is None:
            raise EngineError("the model is closed; open it again")
        return self._opening.storage
