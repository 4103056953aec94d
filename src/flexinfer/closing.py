"""How an open model ends: closed, opened anew, left to the process before a fork, or copied."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from flexinfer.binding.arguments import state_of
from flexinfer.binding.private import abandon
from flexinfer.binding.projector import ACCOUNT
from flexinfer.budgeted import Budgeted
from flexinfer.engine.elsewhere import Elsewhere
from flexinfer.machine.auto_budget import Follower
from flexinfer.planning.kernels import Kernels
from flexinfer.rates.drives import CopyRates
from flexinfer.rates.rates import remember
from flexinfer.workers.endpoint import read_endpoints
from flexinfer.workers.links import learn


class Closing(Budgeted):
    """A model on a budget that can be closed, however far its constructor came."""

    _follower: Follower | None = None
    _projector = 0
    _elsewhere: Elsewhere | None = None
    _asked: dict[str, Any]
    _listeners: dict[str, Callable[[Any], None]]
    _drives: CopyRates
    _threads: int
    _kernels: Kernels
    # Whether a native call that did not come back in time reads the model.
    _late = False

    def close(self) -> None:
        """Free context, model, weights, threads and files; may be called again.

        An answer that another thread waits for ends with an `EngineError`.
        """
        turns = self._turns
        if turns is None:
            return
        if turns.forked:
            # The memory is the other process's, and its locks may be held for ever.
            abandon(self)
            return
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.close()
        turns.close(self._stop, self._free)

    def _stop(self) -> None:
        if self._engine is not None:
            self._engine.interrupt.close()
        if self._beside is not None:
            self._beside.stop()

    def _free(self) -> None:
        # At the interpreter's end there is no way to write any more.
        if self._engine is not None and not sys.is_finalizing():
            remember(
                *(self.catalogue, self._threads, self._kernels),
                *(self._drives, self._engine.observed),
                self._storage().drives,
                self._part,
            )
            if self._elsewhere is not None:
                learn(self.catalogue, self._elsewhere.split, self._engine.observed.away_s)
        if self._late:
            abandon(self, context=False)
            self._late = False
        super().close()
        self._engine = None
        if self._projector:
            self._ledger.release(ACCOUNT, self._projector)
            self._projector = 0
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.close()
        beside, self._beside = self._beside, None
        if beside is not None:
            beside.close()

    def _note_late(self) -> None:
        self._late = True

    def _mend(self) -> None:
        """Open the model anew without the workers that were lost; what was computed is gone."""
        lost = () if self._elsewhere is None else self._elsewhere.lost
        if not lost:
            return
        left = [name for name in read_endpoints(self._asked["rpc"]) if name not in lost]
        again = {**self._asked, **self._listeners, "rpc": left, "catalogue": self.catalogue}
        if self._follower is not None:
            self._follower.close()
        self._free()
        self._elsewhere = None
        try:
            opened: Any = type(self)
            opened.__init__(self, self.model_path, **again)
        except BaseException:
            self.close()
            raise

    @property
    def _part(self) -> str:
        """Names what of the model is computed here; "" for all of it."""
        return "" if self._elsewhere is None else self._elsewhere.split.part

    def __getstate__(self) -> dict[str, Any]:
        """The arguments that open the same model again, as for the parent's; nothing computed."""
        if self._turns is not None and self._turns.without_weights:
            return {"model_path": self.model_path, **self._asked}
        return state_of(super().__getstate__(), self._asked)
