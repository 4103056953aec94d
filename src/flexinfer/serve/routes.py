"""The engine's own routes, on the server's port and behind its key."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from flexinfer.binding.check_grammar import check_grammar
from flexinfer.errors import BudgetError, FlexInferError, RequestError, SizeError
from flexinfer.machine.machine import Machine
from flexinfer.memory.ledger import Ledger
from flexinfer.planning import planner
from flexinfer.serve.document import page
from flexinfer.serve.drafts import ServedDrafts
from flexinfer.serve.figures import figures, metrics
from flexinfer.serve.models import ServedModel
from flexinfer.serve.tensors import located, tensors

_JSON = "application/json; charset=utf-8"
_PAGE = "GET /"
# What the server asks by itself, before it reads a grammar.
_CHECK = "CHECK grammar"


class Routes:
    """Answers for the model that is served; `names` are the routes, as the server lists them.

    Args:
        about: what was decided for the server itself, beside the plan of the model.
        drafts: what they came to; None where there are none.
    """

    def __init__(
        self,
        model: Callable[[], ServedModel],
        ledger: Ledger,
        about: dict[str, Any],
        drafts: ServedDrafts | None = None,
    ) -> None:
        self._model = model
        self._ledger = ledger
        self._about = about
        self._drafts = drafts
        self._known: dict[str, Callable[[str], dict[str, Any]]] = {
            "GET /engine/plan": lambda body: self._plan(),
            "GET /engine/stats": self._stats,
            "GET /engine/tensors": lambda body: located(self._model()),
            "POST /engine/memory": self._memory,
            "POST /engine/release": lambda body: self._release(),
        }
        self.names = (_PAGE, *self._known)

    def answer(self, route: str, body: str) -> tuple[int, str, str]:
        """Status, content type and text; whatever goes wrong is an error document."""
        if route == _PAGE:
            return 200, "text/html; charset=utf-8", page()
        if route == _CHECK:
            return _checked(body)
        try:
            if route == "GET /metrics":
                return 200, "text/plain", metrics(self._figures())
            return 200, _JSON, json.dumps(self._known[route](body))
        except (RequestError, SizeError, BudgetError) as error:
            return 400, _JSON, _error(400, "invalid_request_error", error)
        except FlexInferError as error:
            return 500, _JSON, _error(500, "server_error", error)

    def _stats(self, counted: str) -> dict[str, Any]:
        return {**self._figures(), **json.loads(counted or "{}")}

    def _figures(self) -> dict[str, Any]:
        drafts = None if self._drafts is None else self._drafts.document
        return figures(self._model(), self._ledger, drafts)

    def _plan(self) -> dict[str, Any]:
        plan = self._model().plan
        server = {**self._about, "memory": self._range()}
        document = {"server": server, "mode": plan.mode, **plan.to_json()}
        document["kernels"] = plan.rates.kernels.value
        document["reference"] = plan.rates.kernels.reference
        document["weights"] = len(plan.weights)
        document["locked_rows"] = sum(plan.locked_rows)
        return {
            **document,
            "tensors": tensors(plan),
            "weight_bytes": plan.weight_bytes,
            "locked_bytes": plan.locked_bytes,
            "streamed_bytes": plan.streamed_bytes,
            "bound_tok_s": plan.bound_tok_s,
            "expected_tok_s": plan.expected_tok_s,
        }

    def _range(self) -> dict[str, int] | None:
        """Between which bytes the budget can be set; None where none is kept."""
        if self._ledger.limit is None:
            return None
        model = self._model()
        beside = self._ledger.used - model.engine.charged
        _, most = planner.budgets(model.plan, beside)
        # A model that drafts gives way as well.
        yields = 0 if model.sharing is None else model.sharing.yields
        least, _ = planner.budgets(model.plan, beside - yields)
        most = min(max(most, self._ledger.limit), Machine.detect().ceiling)
        return {"least": least, "most": max(most, least)}

    def _memory(self, body: str) -> dict[str, Any]:
        wanted, model = _wish(body), self._model()
        model.change_budget(wanted)
        return {"memory": self._ledger.limit, "mode": model.plan.mode}

    def _release(self) -> dict[str, Any]:
        self._model().release()
        return {"released": True}


def _wish(body: str) -> str | int:
    try:
        wish = json.loads(body)["memory"]
        if isinstance(wish, bool) or not isinstance(wish, (str, int)):
            raise TypeError
        return wish
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RequestError('send {"memory": "3GiB"}: the budget as a size') from error


def _checked(grammar: str) -> tuple[int, str, str]:
    try:
        check_grammar(grammar)
    except RequestError as error:
        return 400, "text/plain", str(error)
    return 200, "text/plain", ""


def _error(code: int, kind: str, error: Exception) -> str:
    raised = type(error).__name__
    return json.dumps(
        {"error": {"code": code, "message": str(error), "type": kind, "raised": raised}}
    )
