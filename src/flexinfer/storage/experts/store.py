"""Experts in memory: slots that keep the ones in use, and a window that the others pass through.

A *group* is the set of weights that share one routing: the up, gate and down matrices of a layer.
A batch that wants at most as many experts as its layer has slots goes through the slots; a larger
one (a prompt) uses what is in the slots, fills free ones, and sends the rest through the window.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

from flexinfer.memory.pages import PAGE, Arena, Slot, round_up
from flexinfer.seam import Batch, Ready
from flexinfer.storage.experts.experts import Experts
from flexinfer.storage.experts.group import ExpertGroup
from flexinfer.storage.experts.reads import Matrix, MatrixReads
from flexinfer.storage.experts.slots import SlotTable
from flexinfer.storage.experts.window import ExpertWindow


class ExpertStore:
    """Slots and window for the experts of one model.

    Args:
        groups: the weights of each group, and how many experts they have.
        slots: how many experts of each group stay.
        window: bytes that the others pass through.
        reads: brings matrices from the model's files.
        experts: what is known of the model's experts.
    """

    def __init__(
        self,
        groups: Sequence[tuple[Sequence[Matrix], int]],
        slots: Sequence[int],
        window: int,
        reads: MatrixReads,
        experts: Experts,
    ) -> None:
        self.experts = experts
        self.window = ExpertWindow(window, reads)
        self._reads = reads
        # Slot by slot over all groups, so that fewer slots are a shorter arena. Address space for
        # all experts; only what is used is backed.
        stride = sum(matrix.span for matrices, _ in groups for matrix in matrices)
        self._arena = Arena(stride * max(experts for _, experts in groups))
        self._groups: list[ExpertGroup] = []
        base = 0
        for (matrices, _), count in zip(groups, slots, strict=True):
            group = ExpertGroup(tuple(matrices), SlotTable(count), reads, base, stride)
            self._groups.append(group)
            base += group.slot_bytes
        experts.arrange([group.table for group in self._groups])

    def __repr__(self) -> str:
        held = sum(len(group.table.held) for group in self._groups)
        return f"<ExpertStore {held} experts in {len(self._groups)} groups, {self.window!r}>"

    @property
    def resident(self) -> int:
        """Bytes of memory behind slots and window, in whole pages."""
        return self._arena.resident + self.window.resident

    def fetch(self, batch: Batch) -> Iterator[Ready]:
        """Yield experts with the addresses of the wanted matrices as they arrive, each once.

        What was yielded stays in place until the next one is asked for.

        Raises:
            ReadError: a matrix could not be read, or the drive hangs.
        """
        group = self._groups[batch.group]
        if batch.first:
            self._settle_guesses(group, batch)
            group.settle(batch.uses)
            self.experts.note(batch, group.addresses.keys() - group.guesses)
            group.guesses, group.guess_cost_s = [], 0.0
        kept = batch.uses.keys() | group.under_way
        if len(kept) > group.table.slots:
            return self._waves(group, batch)
        missing = [e for e in batch.uses if e not in group.addresses]
        self._admit(group, kept, missing, batch.members)
        return group.arrivals(list(batch.uses), batch.members)

    def guesses(self, group: int, used: int) -> int:
        """How many experts of `group`, of which a token uses `used`, to read before it asks.

        Slots must hold them beside all that the token can want.
        """
        spare = self._groups[group].table.slots - used
        if spare <= 0 or self._groups[group].under_way:
            return 0
        return min(self.experts.guessing.depth(), spare)

    def guess(self, group: int, experts: Sequence[int], most: int, cost_s: float) -> None:
        """Start to read the first `most` of `experts` that are not in slots.

        They are read when nothing else is to be read. `cost_s`: seconds it took to guess.
        """
        ahead = self._groups[group]
        ahead.settle()
        # Some architectures choose an expert twice.
        ahead.guesses = [e for e in dict.fromkeys(experts) if e not in ahead.addresses][:most]
        ahead.guess_cost_s = cost_s
        self.experts.counters.guessed += len(ahead.guesses)
        members = range(len(ahead.matrices))
        self._admit(ahead, set(experts), ahead.guesses, members, urgent=False)

    def resize(self, slots: Sequence[int], window: int) -> None:
        """Go over to other numbers of slots and another window; memory given up goes back now."""
        self.stop()
        for group, count in zip(self._groups, slots, strict=True):
            for expert in group.table.resize(count):
                group.addresses.pop(expert)
        used = max((group.end for group in self._groups), default=0)
        start = round_up(used, PAGE)
        if start < self._arena.nbytes:
            self._arena.trim(Slot(start, self._arena.nbytes - start))
        self.experts.arrange([group.table for group in self._groups])
        self.window.close()
        self.window = ExpertWindow(window, self._reads)

    def stop(self) -> None:
        """Forget every read under way; returns when nothing writes to memory that is in use."""
        if self.window.busy or any(group.under_way for group in self._groups):
            self._reads.cancel()
        if any(group.under_way for group in self._groups):
            self._leave_behind()
        for group in self._groups:
            for expert in list(group.arriving):
                group.forget(expert)
            group.guesses, group.guess_cost_s = [], 0.0
        self.window.stop()

    def close(self) -> None:
        self.stop()
        self.window.close()
        self._arena.close()

    def _leave_behind(self) -> None:
        """Take other memory for slots: a read that hangs may still write to what there is."""
        for group in self._groups:
            for expert in list(group.addresses):
                group.forget(expert)
        nbytes = self._arena.nbytes
        self._arena.close()
        self._arena = Arena(nbytes)

    def _settle_guesses(self, group: ExpertGroup, batch: Batch) -> None:
        """The layer asks: hold against it what was guessed, and read no more of what was wrong."""
        if not group.guess_cost_s or not group.table.slots:
            return
        read_s = self._reads.seconds(group.slot_bytes)
        # Each slot is as likely as any other to hold what one token wants.
        displaced = self.experts.counters.hit_rate * len(batch.uses) / group.table.slots
        notes = group.judge(batch.uses, read_s, displaced)
        self.experts.counters.guessed_right += sum(e in batch.uses for e in group.guesses)
        self.experts.guessing.note(notes, group.guess_cost_s)

    # -- slots --------------------------------------------------------------------------------

    def _admit(
        self,
        group: ExpertGroup,
        kept: Container[int],
        missing: Sequence[int],
        first: Sequence[int],
        *,
        urgent: bool = True,
    ) -> None:
        """Start to read `missing` into slots, the matrices `first` before the others.

        None of `kept` has to make room.
        """
        if not missing:
            return
        policy = self.experts.policy
        places = {}
        for expert in missing:
            slot = group.make_room(expert, kept, policy)
            places[expert] = group.base + slot * group.stride
            group.addresses[expert] = [0] * len(group.matrices)
            group.arriving[expert] = {}
        order = sorted(range(len(group.matrices)), key=lambda m: m not in first)
        offsets = [0]
        for matrix in group.matrices:
            offsets.append(offsets[-1] + matrix.span)
        for members in (order[: len(first)], order[len(first) :]):
            for expert in missing:
                for member in members:
                    transfer, address = self._reads.start(
                        group.matrices[member],
                        expert,
                        self._arena,
                        places[expert] + offsets[member],
                        urgent=urgent,
                    )
                    group.arriving[expert][member] = transfer
                    group.addresses[expert][member] = address

    # -- the window ---------------------------------------------------------------------------

    def _waves(self, group: ExpertGroup, batch: Batch) -> Iterator[Ready]:
        held = [e for e in batch.uses if e in group.addresses]
        missing = [e for e in batch.uses if e not in group.addresses]
        # The experts with most rows are likeliest to be wanted by what follows the prompt.
        missing.sort(key=lambda e: -batch.uses[e])
        admitted = missing[: group.table.free]
        passing = missing[len(admitted) :]
        self._admit(group, batch.uses, admitted, batch.members)
        matrices = [group.matrices[member] for member in batch.members]
        queue = self.window.begin(matrices, passing)
        yield from group.arrivals(held + admitted, batch.members)
        yield from self.window.arrivals(matrices, queue)
        self.window.look_ahead([group.matrices[member] for member in batch.then], passing)
