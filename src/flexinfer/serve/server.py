"""One serving process: what the server asks is answered, what goes wrong is kept for its end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import llama_cpp.llama_cpp as binding

from flexinfer.engine.process_ledger import process_ledger
from flexinfer.engine.programs import Keep
from flexinfer.errors import EngineError, WorkerError
from flexinfer.machine.auto_budget import Follower
from flexinfer.memory.ledger import Ledger
from flexinfer.native.device.device import device
from flexinfer.serve.about import about
from flexinfer.serve.drafts import ServedDrafts
from flexinfer.serve.ending import Ending
from flexinfer.serve.library import FAILED, ServerLibrary
from flexinfer.serve.listening import check_port
from flexinfer.serve.models import Models, ServedModel
from flexinfer.serve.planned import Planned
from flexinfer.serve.routes import Routes
from flexinfer.serve.settings import Settings
from flexinfer.serve.texts import Texts
from flexinfer.serve.watch import ACCOUNT, Watch

_STOPPING = "the server is stopping; send the request again once it runs"

# In which requests are told that a worker was lost.
_TELLING_SECONDS = 0.5

_T = TypeVar("_T")


class _Dial:
    """The budget of the process, as a `Follower` turns it."""

    def __init__(self, model: ServedModel, ledger: Ledger) -> None:
        self._model = model
        self._ledger = ledger

    @property
    def memory(self) -> int | None:
        return self._ledger.limit

    @memory.setter
    def memory(self, budget: int) -> None:
        self._model.change_budget(budget)


class ServingProcess:
    """llama.cpp's server over our engine, for one model.

    Args:
        library: the compiled server.
        settings: what was asked.
        planned: what came out of it.
        started: is told the port once requests are answered.
        ending: of the process, begun before anything was computed.
        tell: is told what changes while it serves: a budget that follows the machine, a drive that
            fails and is left aside.

    Attributes:
        drafts: what they came to; None where there are none.
    """

    def __init__(
        self,
        library: ServerLibrary,
        settings: Settings,
        planned: Planned,
        started: Callable[[ServedModel, int], None],
        ending: Ending,
        tell: Callable[[object], None] = lambda said: None,
    ) -> None:
        self._library = library
        self._settings = settings
        self._planned = planned
        self._started = started
        self._ledger = process_ledger()
        if settings.weight_memory is None:
            self._ledger.limit_to(self, settings.budget, asked=True)
        believed = planned.drafting.believed
        self._models = Models(planned.files, self._ledger, self._opened, tell, believed)
        self._ending = ending
        ending.call(self._end)
        self._tell = tell
        self._texts = Texts()
        self._watch: Watch | None = None
        self._follower: Follower | None = None
        self._failure: BaseException | None = None
        self._lost: WorkerError | None = None
        told = about(settings, planned.sizes, planned.main)
        self._drafts = ServedDrafts(
            planned.drafting.policy,
            lambda: self._model().engine.stats,
            lambda: self._models.beside_bytes,
        )
        self.drafts = self._drafts if planned.drafting.flags.drafts else None
        self._routes = Routes(self._model, self._ledger, told, self.drafts)

    def run(self) -> int:
        """Serve until a signal ends it; returns the exit status.

        Raises:
            RequestError: the port cannot be had.
            WorkerError: a worker was lost; a new process serves without it.
            UnsupportedError: connections cannot be encrypted.
            FlexInferError: it could not be started.
        """
        if self._settings.flags.tls:
            self._library.require_tls()
        check_port(self._settings.host, self._settings.port)
        sizes = self._planned.sizes
        limits = {
            "body_bytes": sizes.body,
            "receive_bytes": sizes.receiving,
            "request_bytes": sizes.requests,
            "text_bytes": sizes.texts,
            "pixel_bytes": sizes.pixels,
            "threads": sizes.threads,
            "probability_bytes": sizes.probabilities,
            "context": sizes.ctx,
            "slots": sizes.slots,
            "late_drafts": self._planned.drafting.late,
        }
        self._library.connect(self, self._routes.names, limits)
        status = self._library.run(self._planned.arguments)
        if self._follower is not None:
            self._follower.close()
        if self._watch is not None:
            self._watch.close()
        if self._failure is not None:
            raise self._failure
        if self._lost is not None:
            raise self._lost
        if status and not self._ending.asked:
            raise EngineError(
                "llama.cpp's server did not start; its last lines on standard error say why"
            )
        return 0

    @property
    def stopping(self) -> bool:
        """The end is near: requests that are under way get no answer."""
        return self._ending.asked or self._lost is not None

    def stop(self) -> None:
        """Have `run` return; may be called from any thread."""
        self._library.stop()

    # -- what the server asks -----------------------------------------------------------------

    def load(self, path: str, params: Any) -> int | None:
        model = self._kept(lambda: self._models.load(path, params))
        if model:
            self._texts.note(model)
        return model

    def create(self, model: int, params: Any) -> int | None:
        return self._kept(lambda: self._models.create(model, params))

    def free(self, model: int) -> None:
        self._models.free(model)

    def process(self, context: int, kind: int, batch: int) -> int:
        status = int(binding.llama_process(context, kind, batch))
        try:
            if not status:
                self._models.settle(context)
        except WorkerError as error:
            self._lost = error
            # Not in this thread, which has yet to tell the requests.
            threading.Timer(_TELLING_SECONDS, self._library.stop).start()
            return FAILED
        return status

    def tokenize(self, vocabulary: int, text: int, length: int, *rest: int) -> int:
        return self._texts.tokenize(vocabulary, text, length, *rest)

    def stack_for(self, text: int, length: int) -> int:
        return self._texts.stack_for(text, length)

    def failed(self, status: int) -> str:
        failure = device().take_failure()
        if self._ending.asked:
            return _STOPPING
        failure = failure or self._lost
        if failure is not None:
            return str(failure)
        return f"llama.cpp could not compute this batch (status {status}); the log says why"

    def ready(self, port: int) -> bool:
        return bool(self._kept(lambda: self._begin(port)))

    def _begin(self, port: int) -> bool:
        self._models.compute()
        if self._planned.drafting.keeps_rows:
            self._model().engine.keeps = Keep.DRAFTS
        if self._ending.asked:
            return False
        model = self._model()
        self._watch = Watch(
            self._ledger,
            model.engine,
            idle_seconds=self._settings.idle_seconds,
            release=model.release,
        )
        self._watch.start()
        if self._settings.follows:
            self._follower = Follower(_Dial(model, self._ledger), moved=self._tell)
        self._started(model, port)
        return True

    def draft_length(self, slots: int, drafted: int, microseconds: int) -> int:
        return self._drafts.length(slots, drafted, microseconds)

    def verified(self, drafted: int, accepted: int) -> None:
        self._drafts.verified(drafted, accepted)

    def answer(self, route: str, body: str) -> tuple[int, str, str]:
        return self._routes.answer(route, body)

    # -- inside -------------------------------------------------------------------------------

    def _kept(self, call: Callable[[], _T]) -> _T | None:
        """What `call` returns; what it raises is the reason why the server ends."""
        try:
            return call()
        except BaseException as error:
            self._failure = error
            return None

    def _opened(self) -> None:
        """The plan of the model that answers is made: now what it left aside is spoken for."""
        sizes = self._planned.sizes
        self._ledger.charge(ACCOUNT, sizes.reserve - sizes.adapters - sizes.draft)

    def _model(self) -> ServedModel:
        if self._models.main is None:
            raise EngineError("the model is still loading; ask again")
        return self._models.main

    def _end(self) -> None:
        self._models.interrupt()
        self._library.stop()
