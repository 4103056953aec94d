"""Where the bytes of each weight are: parts that stay, parts that pass through, rows on demand.

Plain data shared by both columns: `graph` reads it to find what a node needs, the residency
column (`stream`, `locked`, `rows`) keeps it up to date. Addresses are ints, 0 means absent.
"""

from __future__ import annotations

from dataclasses import dataclass


class Part:
    """Rows ``first_row`` to ``first_row + rows`` of one weight: one range of one file.

    `address` is where the first byte is, for a locked part that has been read; else 0.
    """

    __slots__ = ("address", "file", "first_row", "locked", "name", "nbytes", "offset", "rows")

    def __init__(
        self,
        name: str,
        file: int,
        offset: int,
        nbytes: int,
        first_row: int,
        rows: int,
        locked: bool,
    ) -> None:
        self.name = name
        self.file = file
        self.offset = offset
        self.nbytes = nbytes
        self.first_row = first_row
        self.rows = rows
        self.locked = locked
        self.address = 0

    def __repr__(self) -> str:
        kind = "locked" if self.locked else "streamed"
        rows = f"{self.first_row}:{self.first_row + self.rows}"
        return f"<Part {self.name}[{rows}] {kind} {self.nbytes} bytes>"


@dataclass(frozen=True)
class RowTable:
    """Address space for a whole weight of which only the rows in use are backed.

    `part` is the whole weight as the file has it.
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
    store of experts has them, matrix by matrix.
    """

    name: str
    absent: int
    parts: tuple[Part, ...]
    table: RowTable | None = None
    experts: ExpertPlace | None = None
