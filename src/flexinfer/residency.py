"""Which bytes of one model are in memory: a plan carried out.

Turns a plan into layouts, and owns what holds them: reader, locked set, stream, row stores. The
engine calls `begin`, `acquire`, `release` and `end` around a pass and nothing else touches the
model's memory meanwhile; `apply` changes the plan between passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flexinfer.errors import EngineError
from flexinfer.gguf import TensorInfo
from flexinfer.layout import Layout, Part, RowTable
from flexinfer.locked import LockedSet
from flexinfer.plan import Plan, Use, Weight, row_slices
from flexinfer.reader import Reader
from flexinfer.rows import RowStore
from flexinfer.stream import Stream


@dataclass(frozen=True)
class Held:
    """One weight of a loaded model: its tensor's address, its place in the file, its plan entry.

    `absent` is an address that faults when it is read.
    """

    address: int
    absent: int
    info: TensorInfo
    weight: Weight


class Residency:
    """Memory of one model's weights.

    Args:
        held: all weights, in the order of the plan.
        plan: what stays and what streams.
        reader: of the model's files; closed with the residency.
        check: called while waiting for the drive; raises to stop the wait.
    """

    def __init__(
        self, held: Sequence[Held], plan: Plan, reader: Reader, check: Callable[[], None]
    ) -> None:
        self.layouts: dict[int, Layout] = {}
        self.version = 0
        self.plan = plan
        self._held = tuple(held)
        self._reader = reader
        self._check = check
        self._rows: dict[int, RowStore] = {}
        self._row_bytes = 0
        self._waited = 0.0
        self._read = 0
        self._missing: list[Part] = []
        self._carry_out(plan)

    def __repr__(self) -> str:
        return f"<Residency {self._locked!r} {self._stream!r}>"

    @property
    def waited_s(self) -> float:
        """Seconds that passes waited for the drive."""
        return self._waited + self._stream.counters.wait_s

    @property
    def read_bytes(self) -> int:
        """Bytes read from the drive for passes."""
        return self._read + self._row_bytes + self._stream.counters.read_bytes

    @property
    def locked_bytes(self) -> int:
        """Bytes of locked weights that have their place."""
        return self._locked.nbytes

    @property
    def merge_bytes(self) -> int:
        """How many streamed bytes one segment may hold back from the ring."""
        return self._stream.window // 8

    # -- a pass -------------------------------------------------------------------------------

    def begin(self, sequence: Sequence[Part]) -> None:
        """Start a pass over these loads.

        Raises:
            ReadError: the model's files changed since they were opened.
        """
        self._reader.check()
        self._stream.begin(sequence)

    def ready(self, index: int) -> bool:
        return self._stream.ready(index)

    def acquire(self, index: int) -> int:
        """Address of a load, once it is in memory."""
        return self._stream.acquire(index)

    def fetch_rows(self, table: RowTable, rows: list[int]) -> int:
        """Address of the table, once `rows` of it are in memory."""
        self._row_bytes += self._rows[table.address].fetch(rows)
        return table.address

    def release(self, index: int) -> None:
        """The loads before `index` are used up."""
        self._stream.release(index)

    def end(self) -> None:
        """The pass is over; what was read to stay makes older programs stale."""
        for store in self._rows.values():
            store.drop()
        missing = [part for part in self._missing if not part.address]
        if len(missing) != len(self._missing):
            self._missing = missing
            self.version += 1

    def stop(self) -> None:
        """Drop everything under way after a failed or interrupted pass."""
        self._stream.stop()
        self.end()

    def close(self) -> None:
        """Give all memory back and end the reader; may be called again."""
        self._stream.close()
        self._locked.close()
        for store in self._rows.values():
            store.close()
        self._rows.clear()
        self.layouts.clear()
        self._reader.close()

    # -- carrying out a plan --------------------------------------------------------------------

    def _carry_out(self, plan: Plan) -> None:
        self._locked = LockedSet(_capacity(plan, self._reader, self._held))
        self._stream = Stream(
            self._reader,
            self._locked,
            plan.window,
            lookahead=plan.lookahead,
            check=self._check,
        )
        for held, rows in zip(self._held, plan.locked_rows, strict=True):
            self.layouts[held.address] = self._layout(held, rows, plan.slice_bytes)
        self._missing = [p for x in self.layouts.values() for p in x.parts if p.locked]

    def _layout(self, held: Held, locked_rows: int, slice_bytes: int) -> Layout:
        whole = locked_rows == held.weight.rows
        table = None
        if not whole and held.weight.use in (Use.ROWS, Use.MATMUL) and held.info.rows > 1:
            table = self._row_table(held)
        parts = [_part(held, 0, locked_rows, True)] if locked_rows else []
        parts += [
            _part(held, first, rows, False)
            for first, rows in row_slices(held.weight, locked_rows, slice_bytes)
        ]
        return Layout(held.info.name, held.absent, tuple(parts), table)

    def _row_table(self, held: Held) -> RowTable | None:
        store = RowStore(
            _part(held, 0, held.weight.rows, False), held.info.row_bytes, self._reader
        )
        self._rows[store.table.address] = store
        return store.table


def _part(held: Held, first: int, rows: int, locked: bool) -> Part:
    size = held.weight.row_bytes
    offset = held.info.offset + first * size
    return Part(held.info.name, held.info.file, offset, rows * size, first, rows, locked)


def _capacity(plan: Plan, reader: Reader, held: Sequence[Held]) -> int:
    """Bytes of the locked parts with the aligned ranges around them."""
    total = 0
    for one, rows in zip(held, plan.locked_rows, strict=True):
        if rows:
            start, stop = reader.span(
                one.info.file, one.info.offset, rows * one.weight.row_bytes
            )
            total += stop - start
    return total
