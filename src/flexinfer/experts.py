"""Experts in memory: slots that keep the ones in use, and a window that the others pass through.

A *group* is the set of weights that share one routing: the up, gate and down matrices of a layer.
A batch that wants at most as many experts as its layer has slots goes through the slots; a larger
one (a prompt) uses what is in the slots, fills free ones, and sends the rest through the window,
each matrix once: one expert at a time is enough, however small the budget.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from flexinfer.errors import ReadError
from flexinfer.experts_cache import Batch, Ready, SlotTable
from flexinfer.pages import Arena, round_up
from flexinfer.plan import SPAN_SLACK
from flexinfer.policies import Chooser
from flexinfer.reader import Reader, Transfer
from flexinfer.ring import Ring
from flexinfer.stream import HANG_SECONDS, Counters

_POLL_SECONDS = 0.1
# Shadow caches run for one layer in so many: what is learned there holds for all.
_SAMPLED = 8

# Called with the group and, for each token, its experts.
Recorder = Callable[[int, Sequence[Sequence[int]]], None]


@dataclass(frozen=True)
class Matrix:
    """One weight with a matrix of `nbytes` for each expert, one after the other from `offset`."""

    name: str
    file: int
    offset: int
    nbytes: int

    @property
    def span(self) -> int:
        """Bytes that an aligned read of one matrix may take."""
        return round_up(self.nbytes + SPAN_SLACK, 4096)


@dataclass
class ExpertCounters:
    """Sums since the model was opened: experts wanted and found in slots, bytes read, tokens."""

    wanted: int = 0
    hits: int = 0
    passed: int = 0


@dataclass
class _Passing:
    """The wanted matrices of one expert in the window, or on their way there."""

    expert: int
    addresses: tuple[int, ...]
    transfers: list[Transfer]


@dataclass
class _Group:
    matrices: tuple[Matrix, ...]
    table: SlotTable
    base: int
    slot_bytes: int
    # Of experts whose reads may not be complete: a transfer for each matrix.
    arriving: dict[int, list[Transfer]] = field(default_factory=dict)
    # Start of the aligned read of each matrix in each slot's memory, by expert.
    places: dict[int, tuple[int, ...]] = field(default_factory=dict)


class ExpertStore:
    """Slots and window for the experts of one model.

    Args:
        groups: the weights of each group.
        slots: how many experts of each group stay.
        window: bytes that the others pass through.
        reader: of the model's files.
        counters: gets bytes read and seconds waited.
        check: called while waiting; raises to stop the wait.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[Matrix]],
        slots: Sequence[int],
        window: int,
        reader: Reader,
        counters: Counters,
        check: Callable[[], None],
    ) -> None:
        self.counters = ExpertCounters()
        self.recorder: Recorder | None = None
        self._reader = reader
        self._io = counters
        self._check = check
        self._groups: list[_Group] = []
        base = 0
        for matrices, count in zip(groups, slots, strict=True):
            size = sum(matrix.span for matrix in matrices)
            self._groups.append(_Group(tuple(matrices), SlotTable(count), base, size))
            base += size * count
        self._slots = Arena(base) if base else None
        self._window = Arena(window)
        self._ring = Ring(window)
        self._passing: deque[_Passing] = deque()
        self._ahead: tuple[int, tuple[int, ...]] | None = None
        self._choosers = {
            group: Chooser(count)
            for group, count in enumerate(slots)
            if group % _SAMPLED == 0 and count
        }

    def __repr__(self) -> str:
        held = sum(len(group.table.held) for group in self._groups)
        return f"<ExpertStore {held} experts in {len(self._groups)} groups, {self._ring!r}>"

    @property
    def resident(self) -> tuple[tuple[int, ...], ...]:
        """For each group the experts in its slots."""
        return tuple(tuple(sorted(group.table.held)) for group in self._groups)

    @property
    def policy(self) -> str:
        """Name of the eviction policy that does best at the moment."""
        votes = [chooser.best for chooser in self._choosers.values()]
        return max(set(votes), key=votes.count) if votes else "lfu"

    def fetch(self, batch: Batch) -> Iterator[Ready]:
        """Yield experts with the addresses of the wanted matrices as they arrive, each once.

        What was yielded stays in place until the next one is asked for.

        Raises:
            ReadError: a matrix could not be read, or the drive hangs.
        """
        group = self._groups[batch.group]
        if batch.first:
            self._count(group, batch)
        if len(batch.uses) <= group.table.slots:
            self._admit(group, batch, [e for e in batch.uses if e not in group.table.held])
            return self._arrivals(group, batch, list(batch.uses))
        return self._waves(group, batch)

    def stop(self) -> None:
        """Forget every read under way; returns when no thread writes to this memory any more."""
        if any(group.arriving for group in self._groups) or self._passing:
            self._reader.cancel()
        for group in self._groups:
            for expert in list(group.arriving):
                self._forget(group, expert)
        self._drop_passing()

    def close(self) -> None:
        self.stop()
        if self._slots is not None:
            self._slots.close()
        self._window.close()

    # -- counting -----------------------------------------------------------------------------

    def _count(self, group: _Group, batch: Batch) -> None:
        table = group.table
        self.counters.wanted += len(batch.uses)
        self.counters.hits += sum(expert in table.held for expert in batch.uses)
        table.note(batch.uses, batch.tokens)
        chooser = self._choosers.get(batch.group)
        if chooser is not None and batch.tokens == 1:
            chooser.access(batch.uses)

    # -- slots --------------------------------------------------------------------------------

    def _admit(self, group: _Group, batch: Batch, missing: Sequence[int]) -> None:
        """Start to read `missing` into slots, what is needed now before the rest."""
        if not missing:
            return
        policy = self.policy
        for expert in missing:
            slot = group.table.admit(expert, batch.uses, policy)
            group.places[expert] = self._places(group, expert, slot)
            group.arriving[expert] = [None] * len(group.matrices)  # type: ignore[list-item]
        rest = [m for m in range(len(group.matrices)) if m not in batch.members]
        for members in (batch.members, rest):
            for expert in missing:
                for member in members:
                    self._read(group, expert, member)

    def _places(self, group: _Group, expert: int, slot: int) -> tuple[int, ...]:
        at = group.base + slot * group.slot_bytes
        places = []
        for matrix in group.matrices:
            places.append(at)
            at += matrix.span
        return tuple(places)

    def _read(self, group: _Group, expert: int, member: int) -> None:
        assert self._slots is not None
        transfer, _ = self._start(
            group.matrices[member], expert, self._slots, group.places[expert][member]
        )
        group.arriving[expert][member] = transfer

    def _start(self, matrix: Matrix, expert: int, arena: Arena, place: int) -> tuple[Transfer, int]:
        offset = matrix.offset + expert * matrix.nbytes
        start, stop = self._reader.span(matrix.file, offset, matrix.nbytes)
        view = arena.view(place, stop - start)
        need = offset + matrix.nbytes - start
        transfer = self._reader.start(matrix.file, start, view, need)
        self._io.read_bytes += stop - start
        return transfer, arena.address + place + offset - start

    def _forget(self, group: _Group, expert: int) -> None:
        group.arriving.pop(expert, None)
        group.places.pop(expert, None)
        group.table.evict(expert)

    def _addresses(self, group: _Group, expert: int, members: Sequence[int]) -> tuple[int, ...]:
        assert self._slots is not None
        found = []
        for member in members:
            matrix = group.matrices[member]
            offset = matrix.offset + expert * matrix.nbytes
            start, _ = self._reader.span(matrix.file, offset, matrix.nbytes)
            found.append(self._slots.address + group.places[expert][member] + offset - start)
        return tuple(found)

    def _arrivals(self, group: _Group, batch: Batch, experts: list[int]) -> Iterator[Ready]:
        """Experts in slots, the ones that are complete first."""
        pending = experts
        while pending:
            ready = [e for e in pending if self._complete(group, e, batch.members)]
            if not ready:
                self._wait_for(group, pending[0], batch.members)
                continue
            chosen = set(ready)
            pending = [e for e in pending if e not in chosen]
            yield [(e, self._addresses(group, e, batch.members)) for e in ready]

    def _complete(self, group: _Group, expert: int, members: Sequence[int]) -> bool:
        transfers = group.arriving.get(expert)
        if transfers is None:
            return True
        if not all(transfers[member].done for member in members):
            return False
        for member in members:
            _raise_error(transfers[member])
        if all(transfer.done and transfer.error is None for transfer in transfers):
            del group.arriving[expert]
        return True

    def _wait_for(self, group: _Group, expert: int, members: Sequence[int]) -> None:
        for member in members:
            self._wait(group.arriving[expert][member], group.matrices[member])

    # -- the window ---------------------------------------------------------------------------

    def _waves(self, group: _Group, batch: Batch) -> Iterator[Ready]:
        held = [e for e in batch.uses if e in group.table.held]
        missing = [e for e in batch.uses if e not in group.table.held]
        # The experts with most rows are likeliest to be wanted by what follows the prompt.
        missing.sort(key=lambda e: -batch.uses[e])
        admitted = missing[: group.table.free]
        self._admit(group, batch, admitted)
        queue = deque(missing[len(admitted) :])
        self._keep_ahead(batch, queue)
        self._fill(group, batch.members, queue)
        yield from self._arrivals(group, batch, held + admitted)
        while self._passing:
            oldest = self._passing[0]
            for transfer, member in zip(oldest.transfers, batch.members, strict=True):
                self._wait(transfer, group.matrices[member])
            ready = [p for p in self._passing if all(t.done for t in p.transfers)]
            ready = ready[: _prefix(self._passing, ready)]
            self.counters.passed += len(ready)
            yield [(p.expert, p.addresses) for p in ready]
            for _ in range(len(ready)):
                self._pop()
            self._fill(group, batch.members, queue)
        self._look_ahead(group, batch, missing[len(admitted) :])

    def _keep_ahead(self, batch: Batch, queue: deque[int]) -> None:
        """Take over what was read ahead for this step, or drop it."""
        ahead, self._ahead = self._ahead, None
        wanted = [queue[i] for i in range(min(len(queue), len(self._passing)))]
        if ahead == (batch.group, batch.members) and wanted == [p.expert for p in self._passing]:
            for _ in wanted:
                queue.popleft()
            return
        if self._passing:
            for passing in self._passing:
                for transfer in passing.transfers:
                    self._wait(transfer, None)
            self._drop_passing()

    def _look_ahead(self, group: _Group, batch: Batch, missing: Sequence[int]) -> None:
        if batch.then:
            self._ahead = (batch.group, batch.then)
            self._fill(group, batch.then, deque(missing))

    def _fill(self, group: _Group, members: Sequence[int], queue: deque[int]) -> None:
        """Start reads through the window, in the order of `queue`, while there is room."""
        size = sum(group.matrices[member].span for member in members)
        while queue:
            place = self._ring.push(size)
            if place is None:
                if not self._passing:
                    raise ReadError(
                        f"{group.matrices[members[0]].name}: the window of {self._ring.size} "
                        f"bytes is too small for one expert of {size}; give a larger budget"
                    )
                return
            expert = queue.popleft()
            transfers, addresses = [], []
            for member in members:
                matrix = group.matrices[member]
                transfer, address = self._start(matrix, expert, self._window, place)
                transfers.append(transfer)
                addresses.append(address)
                place += matrix.span
            self._passing.append(_Passing(expert, tuple(addresses), transfers))

    def _pop(self) -> None:
        self._passing.popleft()
        self._ring.pop()

    def _drop_passing(self) -> None:
        while self._passing:
            self._pop()
        self._ahead = None

    # -- waiting ------------------------------------------------------------------------------

    def _wait(self, transfer: Transfer, matrix: Matrix | None) -> None:
        """Wait until the read is over; without a matrix its outcome does not matter."""
        if not transfer.done:
            began = time.perf_counter()
            while not transfer.wait(_POLL_SECONDS):
                self._check()
                if time.perf_counter() - began > HANG_SECONDS:
                    name = matrix.name if matrix else "an expert"
                    raise ReadError(
                        f"{name}: the drive did not answer for {HANG_SECONDS:.0f} s; "
                        "check the drive and try again"
                    )
            self._io.wait_s += time.perf_counter() - began
            self._io.waits += 1
        if matrix is not None:
            _raise_error(transfer)


def _raise_error(transfer: Transfer) -> None:
    if transfer.error is not None:
        raise transfer.error


def _prefix(passing: deque[_Passing], ready: Sequence[_Passing]) -> int:
    """How many of the oldest are ready: the ring gives room back in order."""
    count = 0
    for one, other in zip(passing, ready, strict=False):
        if one is not other:
            break
        count += 1
    return count
