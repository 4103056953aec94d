"""Which bytes of one model are in memory: a plan carried out.

Turns a plan into layouts, and owns what holds them: reader, locked set, stream, row stores. The
engine calls `begin`, `acquire`, `release` and `end` around a pass and nothing else touches the
model's memory meanwhile; `apply` changes the plan between passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from flexinfer.gguf.catalogue import TensorInfo
from flexinfer.planning.plan import SPAN_SLACK, Plan, Use, Weight, row_slices
from flexinfer.reading.file_reader import Reader
from flexinfer.seam import ExpertPlace, Layout, Part, RowTable
from flexinfer.storage.experts.slots import Batch, Ready
from flexinfer.storage.experts.store import ExpertStore
from flexinfer.storage.experts.window import Matrix, MatrixReads
from flexinfer.storage.locked import LockedSet
from flexinfer.storage.rows import RowStore
from flexinfer.storage.stream import Counters, Stream


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
        pinned: keep locked weights out of swap.
    """

    def __init__(
        self,
        held: Sequence[Held],
        plan: Plan,
        reader: Reader,
        check: Callable[[], None],
        *,
        pinned: bool = False,
    ) -> None:
        self.layouts: dict[int, Layout] = {}
        self.version = 0
        self.plan = plan
        self._held = tuple(held)
        self._reader = reader
        self._check = check
        self._rows: dict[int, RowStore] = {}
        self._places: dict[int, ExpertPlace] = {}
        self._row_bytes = 0
        self._earlier = Counters()
        self.experts: ExpertStore | None = None
        self._missing: list[Part] = []
        # Address space for everything, so that a plan can grow; only what is read is backed.
        capacity = sum(one.weight.nbytes + SPAN_SLACK for one in held)
        self._locked = LockedSet(capacity, pinned=pinned)
        self._stream = self._new_stream(plan)
        self._hold_experts(plan)
        self._lay_out(plan)

    def __repr__(self) -> str:
        return f"<Residency {self._locked!r} {self._stream!r}>"

    @property
    def waited_s(self) -> float:
        """Seconds that passes waited for the drive."""
        return self._earlier.wait_s + self._stream.counters.wait_s

    @property
    def read_bytes(self) -> int:
        """Bytes read from the drive for passes."""
        return self._earlier.read_bytes + self._row_bytes + self._stream.counters.read_bytes

    @property
    def busy_s(self) -> float:
        """Seconds in which reads were under way."""
        return self._reader.busy_s

    @property
    def settled(self) -> bool:
        """Everything that is to stay is in memory."""
        return not self._missing

    @property
    def pinned(self) -> bool:
        """Whether the system keeps locked weights out of swap."""
        return self._locked.pinned

    @property
    def locked_bytes(self) -> int:
        """Bytes of locked weights that are in memory."""
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
        store = next(store for store in self._rows.values() if store.table is table)
        self._row_bytes += store.fetch(rows)
        return table.address

    def fetch_experts(self, batch: Batch) -> Iterator[Ready]:
        """Experts as they arrive in memory; see `ExpertStore.fetch`."""
        assert self.experts is not None
        return self.experts.fetch(batch)

    def guesses(self, group: int, used: int) -> int:
        """How many experts of a group to read before its layer asks for them.

        None where dense weights stream: the drive is never idle then.
        """
        assert self.experts is not None
        return 0 if self._streams_dense else self.experts.guesses(group, used)

    def guess_experts(self, group: int, experts: Sequence[int], most: int, cost_s: float) -> None:
        """Read experts ahead; see `ExpertStore.guess`."""
        assert self.experts is not None
        self.experts.guess(group, experts, most, cost_s)

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
        if self.experts is not None:
            self.experts.stop()
        self.end()

    def close(self) -> None:
        """Give all memory back and end the reader; may be called again."""
        self._stream.close()
        if self.experts is not None:
            self.experts.close()
        self._locked.close()
        for store in self._rows.values():
            store.close()
        self._rows.clear()
        self.layouts.clear()
        self._reader.close()

    # -- carrying out a plan --------------------------------------------------------------------

    def apply(self, plan: Plan) -> None:
        """Go over to another plan between passes; memory that it does not want goes back now.

        Weights that it wants are read when a pass next uses them.
        """
        self._stream.close()
        self._earlier.add(self._stream.counters)
        before, self.plan = self.plan, plan
        if self.experts is None or not plan.expert_window:
            self._hold_experts(plan)
        elif not _same_experts(before, plan):
            self.experts.resize(plan.slots, plan.expert_window)
        self._lay_out(plan)
        self._stream = self._new_stream(plan)
        self.version += 1

    def release_all(self) -> None:
        """Give all memory of weights back; under the same plan they are read again when used."""
        locked = [p for layout in self.layouts.values() for p in layout.parts if p.locked]
        self._stream.close()
        for part in locked:
            self._locked.forget(part)
        self._hold_experts(self.plan)
        self.apply(self.plan)

    def _new_stream(self, plan: Plan) -> Stream:
        return Stream(
            self._reader, self._locked, plan.window, lookahead=plan.lookahead, check=self._check
        )

    def _hold_experts(self, plan: Plan) -> None:
        """New slots and window for experts; those there were go back before."""
        before, self.experts = self.experts, None
        if before is not None:
            before.close()
        if plan.expert_window:
            self.experts = ExpertStore(
                self._expert_groups(),
                plan.slots,
                plan.expert_window,
                MatrixReads(self._reader, self._earlier, self._check),
            )
            if before is not None:
                self.experts.learn_from(before)

    def _expert_groups(self) -> list[tuple[list[Matrix], int]]:
        groups: dict[int, list[Matrix]] = {}
        experts: dict[int, int] = {}
        for held in self._held:
            weight, info = held.weight, held.info
            if weight.group is not None:
                size = info.nbytes // weight.experts
                matrix = Matrix(info.name, info.file, info.offset, size)
                groups.setdefault(weight.group, []).append(matrix)
                experts[weight.group] = weight.experts
                self._places[held.address] = ExpertPlace(
                    weight.group, len(groups[weight.group]) - 1
                )
        return [(groups[group], experts[group]) for group in sorted(groups)]

    def _lay_out(self, plan: Plan) -> None:
        self._streams_dense = plan.streamed_bytes > plan.expert_bytes
        kept = {
            (part.name, part.rows, address): part
            for address, layout in self.layouts.items()
            for part in layout.parts
            if part.locked
        }
        for held, rows in zip(self._held, plan.locked_rows, strict=True):
            known = kept.pop((held.info.name, rows, held.address), None)
            self.layouts[held.address] = self._layout(held, rows, plan.slice_bytes, known)
        for part in kept.values():
            self._locked.forget(part)
        locked = [p for layout in self.layouts.values() for p in layout.parts if p.locked]
        self._locked.arrange([(part, self._span(part)) for part in locked])
        self._missing = [part for part in locked if not part.address]

    def _span(self, part: Part) -> int:
        start, stop = self._reader.span(part.file, part.offset, part.nbytes)
        return stop - start

    def _layout(self, held: Held, locked_rows: int, slice_bytes: int, known: Part | None) -> Layout:
        if self.plan.by_expert(held.weight):
            return Layout(held.info.name, held.absent, (), experts=self._places[held.address])
        table = None
        if locked_rows < held.weight.rows and held.weight.use in (Use.ROWS, Use.MATMUL):
            table = self._row_table(held)
        parts = [known or _part(held, 0, locked_rows, True)] if locked_rows else []
        parts += [
            _part(held, first, rows, False)
            for first, rows in row_slices(held.weight, locked_rows, slice_bytes)
        ]
        return Layout(held.info.name, held.absent, tuple(parts), table)

    def _row_table(self, held: Held) -> RowTable:
        store = self._rows.get(held.address)
        if store is None:
            whole = _part(held, 0, held.weight.rows, False)
            store = self._rows[held.address] = RowStore(
                whole, held.info.row_bytes, self._reader, self._check
            )
        return store.table


def _same_experts(plan: Plan, other: Plan) -> bool:
    return (plan.slots, plan.expert_window) == (other.slots, other.expert_window)


def _part(held: Held, first: int, rows: int, locked: bool) -> Part:
    size = held.weight.row_bytes
    offset = held.info.offset + first * size
    return Part(held.info.name, held.info.file, offset, rows * size, first, rows, locked)
