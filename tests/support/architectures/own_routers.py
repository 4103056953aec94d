"""Copied routers, given their own router's input, beside the graph: they must choose alike.

    python own_routers.py MODEL...

prints one JSON document: for each model a list with an entry for each routed step of one token:
whether the copies chose what the graph chose (null where there are none), and whether the program
foresees the routing after it.
"""

from __future__ import annotations

import json
import sys
from typing import ClassVar

from flexinfer import Llama
from flexinfer.engine import engine
from flexinfer.engine.one_pass import OnePass
from flexinfer.native.device.backends import InnerBackend
from flexinfer.native.graph.expert_nodes import Routed
from flexinfer.native.graph.foresight import Foresight, _experts_read, _Search
from flexinfer.native.graph.nodes import node_addresses
from flexinfer.native.graph.program import Program
from flexinfer.native.mirror import CGraph

Chosen = list[tuple[bool | None, bool]]


class NotedEngine(engine.Engine):
    """Notes the graph that is computed."""

    graph = 0

    def compute(self, backend: InnerBackend, graph_address: int) -> int:
        NotedEngine.graph = graph_address
        return super().compute(backend, graph_address)


class ComparedPass(OnePass):
    """Chooses the experts of each step itself, too, before they are computed."""

    chosen: ClassVar[Chosen] = []

    def _compute_experts(self, routed: Routed) -> None:
        if routed.first and routed.tokens == 1:
            self.chosen.append((self._alike(routed), routed in self._program.foresight))
        super()._compute_experts(routed)

    def _alike(self, routed: Routed) -> bool | None:
        assert isinstance(self._program, Program)
        search = _Search(routed.ids, self._source.layouts)
        if not search.complete or not _experts_read(routed, search.source):
            return None
        nodes = node_addresses(CGraph.from_address(NotedEngine.graph))
        order = {address: at for at, address in enumerate(nodes)}
        own = Foresight(routed.group, search, search.source, order)
        own.aim()
        self._call(self._program.segment_of(own.array, own.count))
        return own.experts() == routed.read_ids()[0]


def chosen_in(path: str) -> Chosen:
    with Llama(path, weight_memory="1GiB", n_ctx=64, verbose=False) as llm:
        whole = llm.plan.weight_bytes
    ComparedPass.chosen = []
    with Llama(path, weight_memory=int(whole * 0.8), n_ctx=64, verbose=False) as llm:
        for token in (4, 5, 6):
            llm.eval([token])
    return ComparedPass.chosen


def main() -> None:
    from flexinfer.engine import opening

    vars(engine)["OnePass"], vars(opening)["Engine"] = ComparedPass, NotedEngine
    print(json.dumps({path: chosen_in(path) for path in sys.argv[1:]}))


if __name__ == "__main__":
    main()
