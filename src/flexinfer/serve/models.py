"""The models that the server opens, each through our own opening: planned, streamed, charged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import llama_cpp.llama_cpp as binding

from flexinfer.engine.engine import Engine
from flexinfer.engine.opening import Opening
from flexinfer.engine.options import Options
from flexinfer.engine.sharing import Sharing
from flexinfer.errors import BudgetError, EngineError
from flexinfer.gguf.catalogue import Catalogue
from flexinfer.gguf.mirrors import Mirror
from flexinfer.machine.budget import granted_budget
from flexinfer.machine.machine import Machine
from flexinfer.memory.ledger import Ledger
from flexinfer.native import mirror
from flexinfer.native.device.backends import InnerBackend
from flexinfer.native.device.device import device
from flexinfer.planning.pair import Believed
from flexinfer.planning.plan import Plan
from flexinfer.rates.drives import drives_for
from flexinfer.rates.rates import measure_rates, open_model, remember
from flexinfer.reading.reader import DriveUse
from flexinfer.storage.experts.experts import Experts
from flexinfer.workers.links import learn


class _Nothing:
    """Computes nothing: what llama.cpp tries before it serves is thrown away."""

    def compute(self, backend: InnerBackend, graph: int) -> int:
        return mirror.STATUS_SUCCESS


@dataclass(frozen=True)
class ModelFile:
    """A model to open; `least_ubatch` is the smallest batch that a plan may come to.

    `mirrors` are copies of it that are read beside it. `read` is what is computed of it, where that
    is not the whole model: its rates are remembered by themselves. `ubatch` tokens at most are
    computed at a time, where that is less than a batch of the server.
    """

    catalogue: Catalogue
    options: Options
    threads: int
    least_ubatch: int
    mirrors: tuple[Mirror, ...] = ()
    read: Catalogue | None = None
    ubatch: int | None = None


class ServedModel:
    """One model behind the server, from its load until it is freed."""

    def __init__(self, file: ModelFile, ledger: Ledger, lost: Callable[[str], None]) -> None:
        catalogue, threads, kernels = file.catalogue, file.threads, file.options.kernels
        self.file = file
        self._read = read = file.read or catalogue
        self.drives = drives_for(catalogue, file.mirrors)
        # Of a model that drafts for it.
        self.sharing: Sharing | None = None
        self.opening = Opening(
            catalogue,
            file.options,
            ledger,
            lambda resident: open_model(
                catalogue, self.drives, kernels, resident=resident, lost=lost
            ),
            lambda weights: measure_rates(read, weights, self.drives, threads, kernels, self._part),
        )

    @property
    def _part(self) -> str:
        elsewhere = self.file.options.elsewhere
        return "" if elsewhere is None else elsewhere.split.part

    @property
    def engine(self) -> Engine:
        """What computes it.

        Raises:
            EngineError: no context exists yet.
        """
        if self.opening.engine is None:
            raise EngineError(f"{self.file.catalogue.paths[0]} has no weights to run")
        return self.opening.engine

    @property
    def plan(self) -> Plan:
        return self.engine.storage.plan

    @property
    def locked_bytes(self) -> int:
        """Bytes of locked weights that are in memory now."""
        storage = self.opening.storage
        return 0 if storage is None else storage.locked_bytes

    def change_budget(self, wish: str | int) -> None:
        """Let the process use so much from the next pass on, as far as it exists.

        Raises:
            SizeError: the wish cannot be read.
            BudgetError: it does not hold the smallest window; everything is as before.
        """
        share = None if self.sharing is None else self.sharing.take
        self.opening.change_budget(granted_budget(wish, Machine.detect()), share)

    def release(self) -> None:
        """Give the weights back until a pass wants them, those of a model that drafts as well."""
        self.engine.release()
        if self.sharing is not None:
            self.sharing.release()

    @property
    def experts(self) -> Experts | None:
        """Of a mixture that is held expert by expert."""
        storage = self.opening.storage
        return None if storage is None else storage.experts

    @property
    def drive_uses(self) -> Sequence[DriveUse]:
        """What each drive with a copy of it did."""
        storage = self.opening.storage
        return () if storage is None else storage.drives

    def create(self, model: int, params: Any) -> int | None:
        """A context of it, in which each batch of the model that answers is one pass.

        Raises:
            BudgetError: the batch that is left does not hold all slots.
        """

        def create(model: int, params: Any) -> Any:
            if self.file.ubatch is None:
                params.n_batch = params.n_ubatch
            return binding.llama_init_from_model(model, params)

        if self.file.ubatch is not None:
            params.n_ubatch = self.file.ubatch
        with device().working_for(self.opening.owner):
            context = self.opening.create(create, model, params)
        least = self.file.least_ubatch
        if self.plan.ubatch < least:
            raise BudgetError(
                f"the budget leaves {self.plan.ubatch} tokens a pass, all slots need {least}; give "
                "a larger --memory or fewer --slots"
            )
        self.opening.compute_with(_Nothing())
        return int(context) if context else None

    def close(self) -> None:
        if self.opening.engine is not None:
            remember(
                *(self._read, self.file.threads, self.file.options.kernels),
                *(self.drives, self.opening.engine.observed),
                self.drive_uses,
                self._part,
            )
            if self.file.options.elsewhere is not None:
                split = self.file.options.elsewhere.split
                learn(self.file.catalogue, split, self.engine.observed.away_s)
        self.opening.close()


class Models:
    """All models of the server; the first that is loaded is the one that answers.

    Args:
        files: by the path that the server names.
        ledger: of the process.
        opened: called once the first model has its context.
        lost: is told in one line of a drive that fails and is left aside.
        believed: of drafts by the second model, which its share of another budget goes by.
    """

    def __init__(
        self,
        files: dict[str, ModelFile],
        ledger: Ledger,
        opened: Callable[[], None],
        lost: Callable[[str], None],
        believed: Believed | None = None,
    ) -> None:
        self._files = files
        self._believed = believed
        self._ledger = ledger
        self._opened = opened
        self._lost = lost
        self._served: dict[int, ServedModel] = {}
        self.main: ServedModel | None = None

    @property
    def beside_bytes(self) -> int:
        """Bytes of the models beside the one that answers."""
        others = [one for one in self._served.values() if one is not self.main]
        return sum(sum(one.opening.memory_use().values()) for one in others)

    def load(self, path: str, params: Any) -> int | None:
        """Load the model of that path."""
        encoded = path.encode("utf-8", "surrogateescape")
        if path not in self._files or params.no_alloc or params.vocab_only:
            raise EngineError(f"{path}: the server asks for a model that was not planned")
        served = ServedModel(self._files[path], self._ledger, self._lost)
        model = int(served.opening.load(binding.llama_model_load_from_file, encoded, params))
        self._served[model] = served
        self.main = self.main or served
        if served is not self.main and self._believed is not None:
            self.main.sharing = Sharing(lambda: served.engine, self._believed)
        return model

    def create(self, model: int, params: Any) -> int | None:
        """A context of a model that was loaded."""
        served = self._served[model]
        first = served is self.main and served.opening.engine is None
        context = served.create(model, params)
        if first and context is not None:
            self._opened()
        return context

    def free(self, model: int) -> None:
        served = self._served.pop(model, None)
        binding.llama_model_free(model)
        if served is not None:
            served.close()

    def compute(self) -> None:
        """From now on passes are computed."""
        for served in self._served.values():
            served.opening.compute_with(None)

    def settle(self, context: int) -> None:
        """A batch was decoded in a context: wait for other devices.

        Raises:
            WorkerError: one of them was lost.
        """
        if self.main is not None:
            self.main.opening.settle(context)

    def interrupt(self) -> None:
        """End a pass that is under way, and each later one, at its next segment."""
        for served in self._served.values():
            if served.opening.engine is not None:
                served.opening.engine.interrupt.set()
