"""The nodes of a ggml graph: reading them, copying them, and what they are views of."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

from flexinfer.native.library import library
from flexinfer.native.mirror import CGraph, Tensor

# type, ne, nb, op, src, view_src, view_offs, data; buffer, op_params and flags are skipped
_NODE = struct.Struct("<i12x4q4Qi68x10QQQQ")
_MAX_OPERATIONS = 256


@cache
def operation(name: str) -> int:
    """Number of the operation `name` in the loaded library."""
    native = library()
    wanted = name.encode()
    return next(i for i in range(_MAX_OPERATIONS) if native.ggml_op_name(i) == wanted)


@lru_cache(maxsize=1)
def _without_work() -> frozenset[int]:
    return frozenset(map(operation, ("NONE", "RESHAPE", "VIEW", "PERMUTE", "TRANSPOSE")))


@lru_cache(maxsize=1)
def products() -> frozenset[int]:
    """The operations whose first source is a matrix that may be packed."""
    return frozenset(map(operation, ("MUL_MAT", "MUL_MAT_ID")))


@dataclass(frozen=True)
class Node:
    """The fields of one graph node that decide what it reads."""

    address: int
    type: int
    ne: tuple[int, ...]
    op: int
    sources: tuple[int, ...]

    @property
    def computes(self) -> bool:
        """False for views and for nodes over no rows: those read no weight."""
        return self.op not in _without_work() and 0 not in self.ne


def node_addresses(graph: CGraph) -> list[int]:
    return list((ctypes.c_uint64 * graph.n_nodes).from_address(graph.nodes))


def read_node(address: int) -> Node:
    fields = _NODE.unpack_from((ctypes.c_char * _NODE.size).from_address(address))
    return Node(address, fields[0], fields[1:5], fields[9], fields[10:20])


def outputs_of(graph_address: int) -> int:
    """How many tokens of the batch get logits, where the graph ends with them."""
    graph = CGraph.from_address(graph_address)
    if not graph.n_nodes:
        return 0
    last = ctypes.c_uint64.from_address(graph.nodes + 8 * (graph.n_nodes - 1)).value
    return int(Tensor.from_address(last).ne[1])


def read_nodes(graph_address: int) -> list[Node]:
    """All nodes of the graph, in the order in which they are computed."""
    return [read_node(a) for a in node_addresses(CGraph.from_address(graph_address))]


def root_of(source: int, weights: Mapping[int, object]) -> int:
    """The weight that `source` is, or is a view of; 0 when it is neither."""
    while source not in weights:
        source = Tensor.from_address(source).view_src or 0
        if not source:
            return 0
    return source


def viewed(address: int) -> int:
    """The tensor that the one at `address` is a view of; the address itself where it is none."""
    return Tensor.from_address(address).view_src or address


def copy_of(address: int) -> Tensor:
    """A tensor of our own with the fields of the one at `address`."""
    return Tensor.from_buffer_copy(ctypes.string_at(address, ctypes.sizeof(Tensor)))


def view_offset(source: int, root: int) -> int:
    """Bytes from the weight `root` to the view `source` of it; 0 for the weight itself."""
    if source == root:
        return 0
    # ggml flattens chains: view_src is the root and view_offs counts from it.
    tensor = Tensor.from_address(source)
    return int(tensor.view_offs) + view_offset(tensor.view_src, root)
