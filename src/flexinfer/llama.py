"""`flexinfer.Llama`: llama-cpp-python's class on a memory budget."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any

from flexinfer.binding.adapter import load_adapter, take_adapter
from flexinfer.binding.arguments import fill_defaults
from flexinfer.binding.aside import Aside, put_aside
from flexinfer.binding.chat_template import ChatTemplate
from flexinfer.binding.check_arguments import overridden
from flexinfer.binding.check_batches import Batches
from flexinfer.binding.gate import gated
from flexinfer.binding.log import listen
from flexinfer.binding.private import adopt_vocabulary, begin, templates_by, wrap_computing
from flexinfer.binding.projector import load_projector
from flexinfer.binding.tokenize import read_vocabulary
from flexinfer.binding.turns import Stage, Turns
from flexinfer.engine.elsewhere import Elsewhere
from flexinfer.engine.guard import Guard
from flexinfer.engine.opening import Opening
from flexinfer.engine.options import Options
from flexinfer.engine.process_ledger import process_ledger
from flexinfer.engine.process_one import end_as_process_one
from flexinfer.errors import EngineError
from flexinfer.foretell import foretell_split
from flexinfer.gguf.architectures import check_architecture
from flexinfer.gguf.catalogue import Catalogue, read_catalogue
from flexinfer.gguf.check_metadata import check_parameters
from flexinfer.gguf.mirrors import find_mirrors
from flexinfer.kinds import path as path_of
from flexinfer.kinds import plain
from flexinfer.machine.auto_budget import Follower, Move
from flexinfer.machine.budget import granted_budget
from flexinfer.machine.machine import Machine
from flexinfer.native.cards import cards
from flexinfer.native.device.device import device
from flexinfer.pairing import open_beside
from flexinfer.planning.drafted import OFF, rows_of
from flexinfer.planning.plan import LEAST_CONTEXT
from flexinfer.pretrained import Pretrained, check_asked
from flexinfer.rates.drives import drives_for
from flexinfer.rates.kernels import kernels_for
from flexinfer.rates.rates import measure_rates, open_model
from flexinfer.sizes import optional_size
from flexinfer.speculate.choice import is_file
from flexinfer.text import FileName
from flexinfer.workers.cards import wished
from flexinfer.workers.endpoint import plain_over


@gated(lambda llm: llm._turns)
class Llama(Pretrained):
    """A `llama_cpp.Llama` whose weights stream from the drive inside a memory budget.

    Args:
        model_path: a GGUF file; the first one, when it is split.
        memory: bytes the whole process may use, as ``"6GiB"``, ``"50%"`` of the machine's or the
            group's memory, or an int; by default what is available less a margin. ``"auto"``
            begins there and follows the machine.
        weight_memory: a cap on locked weights and window alone; the process is then not limited.
        strategy: which weights stay; see `flexinfer.planning.strategies`.
        window: bytes of the window that streamed weights pass through; planned by default.
        min_ctx: a budget that is too small for `n_ctx` cuts the context, to no less than this;
            `n_ctx()` and `plan.ctx` say what came of it.
        repack: pack weights for the kernels of stock llama.cpp, whose bits the answers then have;
            False: those of llama.cpp without repacking; by default what is faster here.
        rpc: workers, each as ``"host:port"``, whose memory takes whole layers of the model; see
            `flexinfer worker`. One that does not answer is left out, as `plan.reasons` say.
        draft: how tokens are drafted that a pass then computes together, without changing one:
            "off"; "ngram", from what was written before; "auto", so where the model allows it; the
            path of a smaller model with the same vocabulary, which shares the budget.
        mirrors: copies of the model on other drives, which are read beside it, or such as `pack`
            wrote, which are read instead: their files, the first of a split one, or their folders.
        flash_attn: None lets llama.cpp decide, which takes it where it can.
        catalogue: the file's header, where it was read already.
        on_move: with ``memory="auto"``, is told each change of the budget.
        on_lost: is told in one line of a drive that fails and is left aside.
        **options: whatever `llama_cpp.Llama` takes, except what places weights.

    Raises:
        ModelFileError: the file is no GGUF that can be run.
        BudgetError: the budget is too small, with the arithmetic.
        UnsupportedError: an argument places weights, or llama.cpp does not have the architecture.
    """

    def __init__(
        self,
        model_path: str,
        *,
        memory: str | int | None = None,
        weight_memory: str | int | None = None,
        strategy: str = "flex",
        window: str | int | None = None,
        min_ctx: int = LEAST_CONTEXT,
        repack: bool | None = None,
        rpc: str | Sequence[str] = (),
        draft: str = OFF,
        mirrors: Sequence[str | os.PathLike[str]] = (),
        catalogue: Catalogue | None = None,
        on_move: Callable[[Move], None] = lambda move: None,
        on_lost: Callable[[str], None] = lambda line: None,
        **options: Any,
    ) -> None:
        self._turns = self._turns or self._begin_turns()  # it has them where it is opened anew
        path, given = path_of("model_path", model_path), plain({"catalogue": catalogue})
        self._listeners = plain({"on_move": on_move, "on_lost": on_lost})
        ours: dict[str, Any] = {"memory": memory, "weight_memory": weight_memory, "window": window}
        ours |= {"strategy": strategy, "min_ctx": min_ctx, "repack": repack, "draft": draft}
        ours, options = plain({**ours, "rpc": rpc, "mirrors": mirrors}), plain(options)
        self._asked = {**ours, **options}
        self.catalogue = self._checked(path, given["catalogue"], ours, options)
        if options.get("vocab_only"):
            self._open_vocabulary(path, bool(options.get("verbose", True)))
            return
        adapter, held = take_adapter(options, self.catalogue), self._prepared(options, **ours)
        try:
            self._open(path, held, options)
            self._furnish(options.get("seed"), adapter)
            self._draft(draft)
            if ours["memory"] == "auto":
                self._follower = Follower(weakref.proxy(self), moved=on_move)
            self._turns.stage = Stage.OPEN
        except BaseException:
            self.close()
            raise

    # -- opening ------------------------------------------------------------------------------

    def _checked(
        self, path: str, known: Catalogue | None, ours: Mapping[str, Any], options: dict[str, Any]
    ) -> Catalogue:
        """The header, once arguments and model are such as can be opened."""
        check_asked({**ours, **options}, signature(Llama.__init__).parameters)
        catalogue = known or read_catalogue(path)
        check_architecture(catalogue)
        check_parameters(overridden(catalogue, options.get("kv_overrides")))
        return catalogue

    def _prepared(self, options: dict[str, Any], *, memory: Any, **ours: Any) -> Options:
        """How the engine is to open it, from arguments of ours and of the parent's."""
        machine = Machine.detect()
        fill_defaults(options, machine, self.catalogue)
        self._drives = drives_for(self.catalogue, find_mirrors(self.catalogue, ours["mirrors"]))
        self._threads = options["n_threads"]
        if ours["rpc"] or wished(options) is not None:
            split = foretell_split(self.catalogue, {**ours, **options, "memory": memory})
            assert split is not None
            self._elsewhere = Elsewhere(split, {card.name: card.address for card in cards()})
        repack = plain_over(ours["rpc"], ours["repack"])
        self._kernels = kernels_for(self.catalogue, machine, repack, self._drives.packed)
        return Options(
            budget=granted_budget(None if memory == "auto" else memory, machine),
            # A model beside it has set a limit that is its own share.
            asked=memory not in (None, "auto") or is_file(ours["draft"]),
            strategy=ours["strategy"],
            weight_memory=optional_size(ours["weight_memory"]),
            window=optional_size(ours["window"]),
            min_ctx=ours["min_ctx"],
            memlock=machine.memlock,
            logits_all=bool(options.get("logits_all")),
            rows=rows_of(ours["draft"]),
            kernels=self._kernels,
            flash_attention_auto=options.get("flash_attn", False) is None,
            elsewhere=self._elsewhere,
            mirror_bytes=self._drives.overhead,
            packed=self._drives.packed,
        )

    def _open(self, path: str, held: Options, options: dict[str, Any]) -> None:
        """Model and context, by the parent's constructor, after the model that drafts."""
        draft = self._asked["draft"]
        if is_file(draft):
            given = {**self._asked, **options}
            self._beside = open_beside(draft, self.catalogue, given, held.budget, type(self))
            held = replace(held, beside=self._beside.displaced)
        self._opening = opening = self._begin(held)
        with opening.around(), templates_by(ChatTemplate):
            super().__init__(FileName(path), **options)
        self._finish(opening)

    def _furnish(self, seed: int | None, adapter: Any) -> None:
        """What comes on top of model and context."""
        if seed == 0:
            # The parent takes it for none.
            self.set_seed(0)
        load_adapter(self, adapter, self._survive)
        self._projector = load_projector(self, self.chat_handler, self._ledger)

    def _begin_turns(self) -> Turns[Aside]:
        begin(self)
        end_as_process_one()
        listen()
        # Weak: a model that nobody refers to is freed at once.
        me = weakref.proxy(self)
        self._survive = partial(device().survive, late=lambda: me._note_late())
        return Turns(
            lambda: put_aside(me, me._ledger),
            lambda aside: aside.give_back(me),
            lambda: me._mend(),
        )

    def _open_vocabulary(self, path: str, verbose: bool) -> None:
        model = read_vocabulary(path, verbose=verbose, survive=self._survive)
        adopt_vocabulary(self, model)
        assert self._turns is not None
        self._turns.without_weights = True
        self._turns.stage = Stage.OPEN

    def _begin(self, wanted: Options) -> Opening:
        self._ledger = process_ledger()
        catalogue, drives, threads = self.catalogue, self._drives, self._threads
        kernels, part, lost = self._kernels, self._part, self._listeners["on_lost"]
        return Opening(
            catalogue,
            wanted,
            self._ledger,
            lambda resident: open_model(catalogue, drives, kernels, resident=resident, lost=lost),
            lambda weights: measure_rates(catalogue, weights, drives, threads, kernels, part),
        )

    def _finish(self, opening: Opening) -> None:
        if opening.engine is None or opening.plan is None:
            raise EngineError(f"{self.model_path} has no weights to run")
        self._engine = opening.engine
        settle = partial(opening.settle, self.ctx)
        guard = Guard(opening.engine.interrupt, opening.owner, settle)
        self._batches = batches = Batches(
            self.catalogue.name,
            self.model,
            self.ctx,
            causal=bool(self.catalogue.parameter("attention.causal", True)),
            attention_type=self.context_params.attention_type,
            asked=opening.plan.request.ctx,
        )
        wrap_computing(
            self,
            lambda call: batches.decoding(guard.wrap(call)),
            lambda call: batches.encoding(guard.wrap(call)),
        )
