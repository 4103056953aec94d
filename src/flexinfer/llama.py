"""`flexinfer.Llama`: llama-cpp-python's class on a memory budget."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
from llama_cpp.llama import LlamaState

from flexinfer.binding import state
from flexinfer.binding.check_batches import Batches
from flexinfer.binding.projector import ACCOUNT, load_projector
from flexinfer.engine.engine import Engine, PassStats
from flexinfer.engine.guard import Guard
from flexinfer.engine.opening import Opening, Options
from flexinfer.engine.process_ledger import process_ledger
from flexinfer.errors import BudgetError, EngineError, RequestError, UnsupportedError
from flexinfer.gguf.catalogue import Catalogue, read_catalogue
from flexinfer.gguf.check_metadata import check_parameters
from flexinfer.machine.auto_budget import Follower, Move
from flexinfer.machine.machine import Machine
from flexinfer.native.device.device import device
from flexinfer.planning.plan import Plan
from flexinfer.planning.planner import margin
from flexinfer.planning.strategies import STRATEGIES
from flexinfer.rates.rates import drive_for, measure_rates, remember
from flexinfer.reading.file_reader import Reader, open_reader
from flexinfer.reading.open_file import cached_fraction
from flexinfer.sizes import parse_size
from flexinfer.storage.experts.store import ExpertStore

# So much of the file in the page cache makes reading it from there faster than from the drive.
_CACHED = 0.95
# Arguments of the parent that place weights: here the plan does, so only these values are taken.
_PLACEMENT: dict[str, tuple[Any, ...]] = {
    "n_gpu_layers": (0, -1),
    "split_mode": (llama_cpp.LLAMA_SPLIT_MODE_LAYER,),
    "main_gpu": (0,),
    "tensor_split": (None,),
    "use_mlock": (False,),
}


class Llama(llama_cpp.Llama):
    """A `llama_cpp.Llama` whose weights stream from the drive inside a memory budget.

    Args:
        model_path: a GGUF file; the first one, when it is split.
        memory: bytes the whole process may use, as ``"6GiB"`` or an int; by default what is
            available less a margin. ``"auto"`` begins there and follows the machine.
        weight_memory: a cap on locked weights and window alone; the process is then not limited.
        strategy: which weights stay; see `flexinfer.planning.strategies`.
        window: bytes of the window that streamed weights pass through; planned by default.
        catalogue: the file's header, where it was read already.
        on_move: with ``memory="auto"``, is told each change of the budget.
        **options: whatever `llama_cpp.Llama` takes, except what places weights.

    Raises:
        ModelFileError: the file is no GGUF that can be run.
        BudgetError: the budget is too small, with the arithmetic.
        UnsupportedError: an argument that places weights was given.
    """

    def __init__(
        self,
        model_path: str,
        *,
        memory: str | int | None = None,
        weight_memory: str | int | None = None,
        strategy: str = "flex",
        window: str | int | None = None,
        catalogue: Catalogue | None = None,
        on_move: Callable[[Move], None] = lambda move: None,
        **options: Any,
    ) -> None:
        self._engine: Engine | None = None
        self._opening: Opening | None = None
        self._follower: Follower | None = None
        self._projector = 0
        self._use = threading.RLock()
        self._process = os.getpid()
        self._stack = contextlib.ExitStack()
        _refuse_placement(options)
        if strategy not in STRATEGIES:
            known = ", ".join(STRATEGIES)
            raise RequestError(f"there is no strategy {strategy!r}; take one of {known}")
        self.catalogue: Catalogue = catalogue or read_catalogue(model_path)
        check_parameters(self.catalogue)
        machine = Machine.detect()
        _fill_defaults(options, machine, self.catalogue)
        budget = _budget(memory, machine)
        cap = None if weight_memory is None else parse_size(weight_memory)
        fixed = None if window is None else parse_size(window)
        self._drive = drive_for(self.catalogue)
        self._threads: int = options["n_threads"]
        ledger = process_ledger(None if cap is not None else budget)
        if ledger.free is not None and ledger.used:
            budget = min(budget, ledger.free)
        opening = Opening(
            self.catalogue,
            Options(
                budget=budget,
                strategy=strategy,
                weight_memory=cap,
                window=fixed,
                memlock=machine.memlock,
                logits_all=bool(options.get("logits_all")),
            ),
            ledger,
            self._open_reader,
            lambda weights: measure_rates(self.catalogue, weights, self._drive, self._threads),
        )
        self._opening = opening
        self._ledger = ledger
        try:
            with opening.around():
                super().__init__(os.fspath(model_path), **options)
            self._finish(opening)
            self._projector = load_projector(self, self.chat_handler, ledger)
            if memory == "auto":
                self._follower = Follower(weakref.proxy(self), moved=on_move)
        except BaseException:
            self.close()
            raise

    @property
    def plan(self) -> Plan:
        """What stays in memory, what streams, and why; changes with `memory`."""
        return self._running().residency.plan

    def __repr__(self) -> str:
        mode = self.plan.mode if self._engine is not None else "closed"
        return f"<flexinfer.Llama {os.path.basename(self.model_path)}: {mode}>"

    def __enter__(self) -> Llama:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def stats(self) -> PassStats:
        """Totals over all passes since the model was opened: seconds, bytes, counts."""
        return self._running().stats

    @property
    def experts(self) -> ExpertStore | None:
        """Slots, hits, policy and recorder of a mixture of experts.

        None for other models, and for one that is in memory as a whole.
        """
        return self._running().residency.experts

    @property
    def pinned(self) -> bool:
        """Whether the system keeps locked weights out of swap: `ulimit -l` has to allow it."""
        return self._running().residency.pinned

    @property
    def read_bytes(self) -> int:
        """Bytes read from the drive so far, up to date during a pass."""
        return self._running().residency.read_bytes

    @property
    def memory(self) -> int | None:
        """Bytes the process may use; assign a size to change it from the next pass on.

        Shrinking gives memory back at once, growing reads weights when they are next used.

        Raises:
            BudgetError: the new budget does not hold the smallest window.
        """
        return self._ledger.limit

    @memory.setter
    def memory(self, budget: str | int) -> None:
        nbytes = parse_size(budget)
        engine = self._running()
        assert self._opening is not None
        before = self._ledger.limit
        self._opening.limit_to(nbytes)
        free = self._ledger.free or 0
        try:
            engine.resize(engine.charged + free - margin(nbytes))
        except BudgetError:
            self._ledger.limit = before
            raise

    def release(self) -> None:
        """Give the memory of all weights back; the next request reads them again.

        Context, KV cache and the open files stay, so a conversation goes on where it was.
        """
        self._running().release()

    def memory_use(self) -> dict[str, int]:
        """Bytes by purpose: locked, window, kv, compute, overhead; budget 0 means no limit."""
        plan = self.plan
        buffers = device().buffers().values()
        compute = sum(nbytes for nbytes, is_compute in buffers if is_compute)
        return {
            "budget": self._ledger.limit or 0,
            "locked": plan.held_bytes - plan.window,
            "window": plan.window,
            "kv": sum(nbytes for nbytes, is_compute in buffers if not is_compute),
            "compute": compute,
            "overhead": self._ledger.accounts.get("overhead", 0),
        }

    def generate(
        self, tokens: Sequence[int], *arguments: Any, **options: Any
    ) -> Generator[int, Sequence[int] | None, None]:
        """Tokens after a prompt, as the parent's; a model with an encoder reads it there first.

        Raises:
            RequestError: the model writes no text, or its encoder cannot take the prompt at once.
        """
        if self._batches.encodes_prompts:
            start = self._batches.start_after(tokens)
            self._encode(list(tokens))
            tokens = [start]
        yield from super().generate(tokens, *arguments, **options)

    def create_completion(self, *arguments: Any, **options: Any) -> Any:
        """As the parent's; a model with an encoder gives no logprobs."""
        if options.get("logprobs") is not None:
            self._batches.check_logprobs()
        return super().create_completion(*arguments, **options)

    def check_prompt(self, tokens: Sequence[int]) -> None:
        """Raise `RequestError` for a prompt that `generate` would refuse."""
        self._batches.check_writes()
        if self._batches.encodes_prompts:
            self._batches.start_after(tokens)

    def eval(self, tokens: Sequence[int]) -> None:
        with self._in_use():
            self._batches.check_writes()
            super().eval(tokens)

    def _encode(self, prompt: list[int]) -> None:
        """Have the encoder read `prompt`; the decoder then begins anew."""
        with self._in_use():
            self.reset()
            # llama.cpp holds the prompt's positions against those of the answer before.
            self._ctx.kv_cache_clear()
            self._batch.set_batch(prompt, 0, True)
            self._ctx.encode(self._batch)

    def sample(self, *arguments: Any, **options: Any) -> int:
        with self._in_use():
            return int(super().sample(*arguments, **options))

    def save_state(self) -> LlamaState:
        """What was computed so far, as a copy that counts in the budget as long as it lives.

        Raises:
            BudgetError: it does not fit; see `save_state_file`.
        """
        with self._in_use():
            return state.save_state(self, self._ledger)

    def load_state(self, saved: LlamaState) -> None:
        """Go on from a state that `save_state` returned, here or of the parent class.

        Raises:
            RequestError: it is another model's, or larger than the context.
        """
        with self._in_use():
            state.load_state(self, saved)

    def save_state_file(self, path: str | os.PathLike[str]) -> None:
        """Write what was computed so far to a file, layer by layer.

        Raises:
            RequestError: nothing was computed, or the file cannot be written.
        """
        with self._in_use():
            state.write_file(self, Path(path), self._ledger)

    def load_state_file(self, path: str | os.PathLike[str]) -> int:
        """Go on from a file that `save_state_file` wrote; returns the number of its tokens.

        Raises:
            RequestError: it is no state, another model's, or larger than the context.
        """
        with self._in_use():
            ids = state.read_file(self, Path(path), self._ledger)
        if ids is None:
            raise RequestError(
                f"{os.fspath(path)} is no state of this model that fits the context of "
                f"{self.n_ctx()}; give another file or a larger n_ctx"
            )
        return len(ids)

    def close(self) -> None:
        """Free context, model, weights, threads and files; may be called again.

        An answer that another thread waits for ends with an `EngineError`.
        """
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.close()
        if self._engine is not None:
            self._engine.closing = True
            self._engine.interrupted.set()
            # At the interpreter's end there is no way to write any more.
            if not sys.is_finalizing():
                remember(self.catalogue, self._threads, self._drive, self._engine.observed)
        with self._use:
            super().close()
            self._engine = None
            if self._projector:
                self._ledger.release(ACCOUNT, self._projector)
                self._projector = 0
            opening, self._opening = self._opening, None
            if opening is not None:
                opening.close()

    # -- opening ------------------------------------------------------------------------------

    def _open_reader(self, resident: bool) -> Reader:
        paths = self.catalogue.paths
        if resident and cached_fraction(paths) > _CACHED:
            return open_reader(paths, cached=True)
        drive = self._drive
        return open_reader(paths, threads=drive.threads, piece=drive.piece)

    def _finish(self, opening: Opening) -> None:
        if opening.engine is None or opening.plan is None:
            raise EngineError(f"{self.model_path} has no weights to run")
        self._engine = opening.engine
        guard = Guard(opening.engine)
        self._batches = Batches(
            self.catalogue.name,
            self._model.model,
            self._ctx.ctx,
            causal=bool(self.catalogue.parameter("attention.causal", True)),
            attention_type=self.context_params.attention_type,
        )
        self._ctx.decode = self._batches.decoding(guard.wrap(self._ctx.decode))
        self._ctx.encode = self._batches.encoding(guard.wrap(self._ctx.encode))

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        """Nothing is freed meanwhile; raises `EngineError` where the model cannot be used."""
        with self._use:
            if self._running().closing:
                raise EngineError("the model is closed; open it again")
            if self._process != os.getpid():
                raise EngineError(
                    f"the model was opened by process {self._process}, whose threads a fork does "
                    "not have; open it in this one"
                )
            yield

    def _running(self) -> Engine:
        if self._engine is None:
            raise EngineError("the model is closed; open it again")
        return self._engine


def _budget(memory: str | int | None, machine: Machine) -> int:
    """Bytes that the process may use; by default what is available less a margin."""
    asked = None if memory == "auto" else memory
    budget = machine.default_budget if asked is None else parse_size(asked)
    # What does not exist cannot be used; `plan.request.budget` is what is left of the wish. A
    # group of just this size counts some kernel memory of ours as somebody else's.
    if budget - budget // 50 > machine.ceiling:
        return machine.ceiling
    return budget


def _refuse_placement(options: dict[str, Any]) -> None:
    for name, allowed in _PLACEMENT.items():
        if name in options and options[name] not in allowed:
            raise UnsupportedError(
                f"{name}={options[name]!r} places weights, which the memory budget does here; "
                "leave it out"
            )


def _fill_defaults(options: dict[str, Any], machine: Machine, catalogue: Catalogue) -> None:
    options["n_threads"] = options.get("n_threads") or machine.cores
    options["n_threads_batch"] = options.get("n_threads_batch") or machine.cores
    if options.get("n_ctx") == 0:
        options["n_ctx"] = catalogue.parameter("context_length", 0)
