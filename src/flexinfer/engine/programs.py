"""The programs of the graphs that were computed last: llama.cpp uses one graph again and again."""

from __future__ import annotations

from enum import Enum

from flexinfer.native.graph.nodes import outputs_of
from flexinfer.native.graph.program import Program
from flexinfer.native.graph.rows_kept import Width
from flexinfer.native.mirror import CGraph
from flexinfer.seam import WeightSource

_KEPT = 8


class Keep(Enum):
    """When the rows of a pass come out as they would alone."""

    NEVER = "never"
    DRAFTS = "where several have logits, as those of one sequence have only to verify a draft"
    ALWAYS = "always"


class Programs:
    """Programs of one model, by the ``uid`` of their graph, which ggml gives out only once.

    One that keeps rows as they would come out alone is another one of the same graph.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, bool], Program] = {}

    def __repr__(self) -> str:
        return f"<Programs of {len(self._known)} graphs>"

    def program(
        self, graph_address: int, source: WeightSource, width: Width, keep: Keep = Keep.NEVER
    ) -> Program:
        """The program of the graph at that address under the layouts that `source` has now.

        Args:
            width: see `Program`.
            keep: whether rows are to come out as they would alone.
        """
        kept = keep is Keep.ALWAYS or (keep is Keep.DRAFTS and outputs_of(graph_address) > 1)
        uid, version = CGraph.from_address(graph_address).uid, source.version
        key = (uid, kept)
        program = self._known.get(key)
        if program is None or program.version != version:
            program = Program(graph_address, source.layouts, version, width if kept else None)
            self._keep(key, program)
        return program

    def _keep(self, key: tuple[int, bool], program: Program) -> None:
        if not key[0]:  # a graph that nobody named
            return
        self._known.pop(key, None)
        while len(self._known) >= _KEPT:
            self._known.pop(next(iter(self._known)))
        self._known[key] = program

    def clear(self) -> None:
        self._known.clear()
