"""The seam between the two columns: where the bytes of each weight are, and who brings them.

`native.graph` reads the layouts to find what a node needs, `storage` keeps them up to date, and
the engine runs passes against the protocols here; it knows no storage. Addresses are ints, 0 means
absent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from flexinfer.planning.plan import Plan

# Experts with the addresses of the matrices that were asked for.
Ready = list[tuple[int, tuple[int, ...]]]


class Packing(Protocol):
    """Another order of a weight's bytes, for which the library has kernels of its own."""

    @property
    def buffer(self) -> int:
        """What the field of this name is in tensors whose bytes are packed."""

    @property
    def extra(self) -> int:
        """As `buffer`."""

    def pack(self, address: int, nbytes: int) -> None:
        """Pack whole groups of rows that lie there as in the file, in place; once."""


class Part:
    """Rows ``first_row`` to ``first_row + rows`` of one weight: one range of one file.

    Attributes:
        name: of the weight.
        file: number of the file it is in.
        offset: of the first byte, in bytes from the start of the file.
        nbytes: bytes of all its rows.
        locked: it stays in memory once it was read.
        packing: how it is packed in memory; None: its bytes are those of the file.
        address: where the first byte is, for a locked part that has been read; else 0. Only the
            locked set writes it.
    """

    __slots__ = (
        "address",
        "file",
        "first_row",
        "locked",
        "name",
        "nbytes",
        "offset",
        "packing",
        "rows",
    )

    def __init__(
        self,
        name: str,
        file: int,
        offset: int,
        nbytes: int,
        first_row: int,
        rows: int,
        locked: bool,
        packing: Packing | None = None,
    ) -> None:
        self.name = name
        self.file = file
        self.offset = offset
        self.nbytes = nbytes
        self.first_row = first_row
        self.rows = rows
        self.locked = locked
        self.packing = packing
        self.address = 0

    def __repr__(self) -> str:
        kind = "locked" if self.locked else "streamed"
        rows = f"{self.first_row}:{self.first_row + self.rows}"
        return f"<Part {self.name}[{rows}] {kind} {self.nbytes} bytes>"

    def treatment(self, address: int) -> Callable[[], None] | None:
        """What is to be done with its bytes once they have arrived at `address`."""
        return partial(self.packing.pack, address, self.nbytes) if self.packing else None


@dataclass(frozen=True)
class RowTable:
    """Address space for a whole weight of which only the rows in use are backed.

    `part` is the whole weight as the file has it; a row takes `row_bytes` bytes.
    """

    part: Part
    address: int
    row_bytes: int


@dataclass(frozen=True)
class ExpertPlace:
    """A weight whose matrices the store of experts holds: matrix `member` of a `group`."""

    group: int
    member: int


@dataclass(frozen=True)
class Layout:
    """All parts of one weight, by rows; `table` when `GET_ROWS` reads it row by row.

    `absent` is an address that faults when it is read. With `experts` there are no parts: the
    store of experts has them, matrix by matrix. With `packing` parts and matrices are packed; the
    table never is.
    """

    name: str
    absent: int
    parts: tuple[Part, ...]
    table: RowTable | None = None
    experts: ExpertPlace | None = None
    packing: Packing | None = None


@dataclass(frozen=True)
class Batch:
    """What one routed step wants: `uses` says how many rows go to each expert.

    Attributes:
        group: of weights that share one routing.
        members: the matrices of the group that it needs now.
        then: the ones that a later step of the same routing needs.
        first: it is the first step of this routing, so it counts.
        tokens: how many it routes.
        ids: for each token its experts.
    """

    group: int
    members: tuple[int, ...]
    then: tuple[int, ...]
    first: bool
    tokens: int
    uses: Mapping[int, int]
    ids: Sequence[Sequence[int]] = ()


@dataclass(frozen=True)
class Traffic:
    """Sums since the model was opened.

    Attributes:
        read_bytes: from the drive, for passes.
        wait_s: seconds in which passes waited for the drive.
        busy_s: seconds in which reads were under way.
        treating_s: seconds in which passes treated what they had waited for.
    """

    read_bytes: int = 0
    wait_s: float = 0.0
    busy_s: float = 0.0
    treating_s: float = 0.0

    def __sub__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.read_bytes - other.read_bytes,
            self.wait_s - other.wait_s,
            self.busy_s - other.busy_s,
            self.treating_s - other.treating_s,
        )


class WeightSource(Protocol):
    """Where one pass gets its weights; loads are known by their index in the pass's sequence.

    Everything that waits for the drive raises ReadError when it fails or hangs.
    """

    @property
    def layouts(self) -> Mapping[int, Layout]:
        """The layout of each weight, by the address of its tensor."""

    @property
    def version(self) -> int:
        """Another number means other layouts: what was built from the ones before is stale."""

    def begin(self, sequence: Sequence[Part], following: Sequence[Part]) -> None:
        """Loads in the order of their use, and those most likely after them: to be read ahead."""

    def ready(self, index: int) -> bool:
        """Whether a load can be acquired without waiting."""

    def acquire(self, index: int) -> int:
        """Address of a load, once it is in memory; it stays there until it is released."""

    def fetch_rows(self, table: RowTable, rows: list[int]) -> int:
        """Address of the table, once these rows (ascending) of it are in memory."""

    def fetch_experts(self, batch: Batch) -> Iterator[Ready]:
        """Experts as they arrive, each once; they stay until the next ones are asked for."""

    def guesses(self, group: int, used: int) -> int:
        """How many experts of a group, of which a token uses `used`, to guess before it asks."""

    def guess_experts(self, group: int, experts: Sequence[int], most: int, cost_s: float) -> None:
        """Read the first `most` of these ahead when idle; it took `cost_s` to guess them."""

    def release(self, index: int) -> None:
        """The loads before this one are used up."""

    def end(self) -> None:
        """The pass is over."""

    def stop(self) -> None:
        """The pass failed or was interrupted: forget every read that is under way."""


class Storage(WeightSource, Protocol):
    """Memory of one model's weights, as the engine sees it between passes."""

    @property
    def plan(self) -> Plan:
        """What stays and what streams."""

    @property
    def traffic(self) -> Traffic:
        """What passes read and waited for so far."""

    @property
    def settled(self) -> bool:
        """Whether everything that is to stay is in memory."""

    def apply(self, plan: Plan) -> None:
        """Go over to another plan; memory that it does not want goes back now."""

    def release_all(self) -> None:
        """Give the memory of all weights back; under the same plan they are read again."""

    def close(self) -> None:
        """Give all memory back and end the reader; may be called again."""
