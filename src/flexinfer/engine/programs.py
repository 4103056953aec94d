"""The programs of the graphs that were computed last: llama.cpp uses one graph again and again."""

from __future__ import annotations

from flexinfer.native.graph.program import Program
from flexinfer.native.mirror import CGraph
from flexinfer.seam import WeightSource

_KEPT = 4


class Programs:
    """Programs of one model, by the ``uid`` of their graph, which ggml gives out only once."""

    def __init__(self) -> None:
        self._known: dict[int, Program] = {}

    def __repr__(self) -> str:
        return f"<Programs of {len(self._known)} graphs>"

    def program(self, graph_address: int, source: WeightSource) -> Program:
        """The program of the graph at that address under the layouts that `source` has now."""
        uid, version = CGraph.from_address(graph_address).uid, source.version
        program = self._known.get(uid)
        if program is None or program.version != version:
            program = Program(graph_address, source.layouts, version)
            self._keep(uid, program)
        return program

    def _keep(self, uid: int, program: Program) -> None:
        if not uid:  # a graph that nobody named
            return
        self._known.pop(uid, None)
        while len(self._known) >= _KEPT:
            self._known.pop(next(iter(self._known)))
        self._known[uid] = program

    def clear(self) -> None:
        self._known.clear()
