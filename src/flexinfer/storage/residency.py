"""Which bytes of one model are in memory: a plan carried out.

Turns a plan into layouts, and owns what holds them: reader, locked set, stream, row stores. The
engine calls `begin`, `acquire`, `release` and `end` around a pass and nothing else touches the
model's memory meanwhile; `apply` changes the plan between passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flexinfer.planning.plan import Plan
from flexinfer.planning.weights import SPAN_SLACK
from flexinfer.reading.reader import DriveUse, Reader
from flexinfer.reading.waiting import Counters, Waiting
from flexinfer.seam import Batch, Layout, Part, Ready, RowTable, Traffic
from flexinfer.storage.experts.experts import Experts
from flexinfer.storage.experts.reads import MatrixReads
from flexinfer.storage.experts.store import ExpertStore
from flexinfer.storage.layouts import Held, expert_groups, lay_out, locked_parts
from flexinfer.storage.locked import LockedSet
from flexinfer.storage.presence import Presence, look
from flexinfer.storage.rows import RowStores
from flexinfer.storage.stream import Stream


class Residency:
    """Memory of one model's weights; what `seam.Storage` says.

    Args:
        held: all weights, in the order of the plan.
        plan: what stays and what streams.
        reader: of the model's files; closed with the residency.
        waiting: for the drive.
        pinned: keep locked weights out of swap.
    """

    def __init__(
        self,
        held: Sequence[Held],
        plan: Plan,
        reader: Reader,
        waiting: Waiting,
        *,
        pinned: bool = False,
    ) -> None:
        self.layouts: dict[int, Layout] = {}
        self.version = 0
        self.plan = plan
        self.waiting = waiting
        self._held = tuple(held)
        self._reader = reader
        self._rows = RowStores(reader, waiting)
        self._counters = Counters()
        self._known_experts = Experts()
        self._experts: ExpertStore | None = None
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
    def traffic(self) -> Traffic:
        """What passes read and waited for, up to date during a pass."""
        counted = self._counters
        read_bytes = counted.read_bytes + self._rows.read_bytes
        busy_s = self._reader.busy_s
        return Traffic(read_bytes, counted.wait_s, busy_s, counted.treating_s)

    @property
    def held(self) -> Sequence[Held]:
        """All weights, in the order of the plan."""
        return self._held

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
    def drives(self) -> Sequence[DriveUse]:
        """What each drive with a copy of the model did, the model's own first."""
        return self._reader.drives

    @property
    def resident_bytes(self) -> int:
        """Bytes that the system backs now, for whatever of the weights is held between passes."""
        experts = 0 if self._experts is None else self._experts.resident
        return self._locked.resident + self._stream.resident + experts

    @property
    def presence(self) -> Presence:
        """Where the bytes of each weight are now; any thread may ask, during a pass, too."""
        return look(self._held, self.layouts, self._stream, self._experts)

    @property
    def experts(self) -> Experts | None:
        """What is known of experts that are held one by one; None where none are."""
        return self._known_experts if self._experts is not None else None

    # -- a pass -------------------------------------------------------------------------------

    def begin(self, sequence: Sequence[Part], following: Sequence[Part]) -> None:
        """Start a pass, or the next graph of one, over these loads.

        Raises:
            ReadError: the model's files changed since they were opened.
        """
        self._reader.check()
        self._stream.begin(sequence, following)

    def ready(self, index: int) -> bool:
        return self._stream.ready(index)

    def acquire(self, index: int) -> int:
        """Address of a load, once it is in memory."""
        return self._stream.acquire(index)

    def fetch_rows(self, table: RowTable, rows: list[int]) -> int:
        """Address of the table, once `rows` of it are in memory."""
        return self._rows.fetch(table, rows)

    def fetch_experts(self, batch: Batch) -> Iterator[Ready]:
        """Experts as they arrive in memory; see `ExpertStore.fetch`."""
        assert self._experts is not None
        return self._experts.fetch(batch)

    def guesses(self, group: int, used: int) -> int:
        """How many experts of a group to read before its layer asks for them.

        None where dense weights stream: the drive is never idle then.
        """
        assert self._experts is not None
        return 0 if self._streams_dense else self._experts.guesses(group, used)

    def guess_experts(self, group: int, experts: Sequence[int], most: int, cost_s: float) -> None:
        """Read experts ahead; see `ExpertStore.guess`."""
        assert self._experts is not None
        self._experts.guess(group, experts, most, cost_s)

    def release(self, index: int) -> None:
        """The loads before `index` are used up."""
        self._stream.release(index)

    def end(self) -> None:
        """The pass is over; what was read to stay makes older programs stale."""
        self._rows.drop()
        missing = [part for part in self._missing if not part.address]
        if len(missing) != len(self._missing):
            self._missing = missing
            self.version += 1

    def stop(self) -> None:
        """Drop everything under way after a failed or interrupted pass."""
        self._stream.stop()
        if self._experts is not None:
            self._experts.stop()
        self.end()

    def close(self) -> None:
        """Give all memory back and end the reader; may be called again."""
        self._stream.close()
        if self._experts is not None:
            self._experts.close()
        self._locked.close()
        self._rows.close()
        self.layouts.clear()
        self._reader.close(self.waiting.close_s)

    # -- carrying out a plan --------------------------------------------------------------------

    def apply(self, plan: Plan) -> None:
        """Go over to another plan between passes; memory that it does not want goes back now.

        Weights that it wants are read when a pass next uses them.
        """
        self._stream.close()
        before, self.plan = self.plan, plan
        if self._experts is None or not plan.expert_window:
            self._hold_experts(plan)
        elif (before.slots, before.expert_window) != (plan.slots, plan.expert_window):
            self._experts.resize(plan.slots, plan.expert_window)
        self._lay_out(plan)
        self._stream = self._new_stream(plan)
        self.version += 1

    def release_all(self) -> None:
        """Give all memory of weights back; under the same plan they are read again when used."""
        self._stream.close()
        for part in locked_parts(self.layouts):
            self._locked.forget(part)
        self._hold_experts(self.plan)
        self.apply(self.plan)

    def _new_stream(self, plan: Plan) -> Stream:
        return Stream(
            self._reader,
            self._locked,
            plan.window,
            lookahead=plan.lookahead,
            waiting=self.waiting,
            counters=self._counters,
        )

    def _hold_experts(self, plan: Plan) -> None:
        """New slots and window for experts; those there were go back before."""
        before, self._experts = self._experts, None
        if before is not None:
            before.close()
        if plan.expert_window:
            self._experts = ExpertStore(
                expert_groups(self._held),
                plan.slots,
                plan.expert_window,
                MatrixReads(self._reader, self._counters, self.waiting),
                self._known_experts,
            )

    def _lay_out(self, plan: Plan) -> None:
        self._streams_dense = plan.streamed_bytes > plan.expert_bytes
        before = locked_parts(self.layouts)
        self.layouts = lay_out(self._held, plan, self.layouts, self._row_table)
        locked = locked_parts(self.layouts)
        for part in set(before) - set(locked):
            self._locked.forget(part)
        self._locked.arrange([(part, self._span(part)) for part in locked])
        self._missing = [part for part in locked if not part.address]

    def _span(self, part: Part) -> int:
        start, stop = self._reader.span(part.file, part.offset, part.nbytes)
        return stop - start

    def _row_table(self, held: Held) -> RowTable:
        return self._rows.table(held.address, held.whole, held.info.row_bytes)
