"""One layer's experts in memory: the slots that hold them and the reads that fill these.

A slot is not given away while something is written to it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from flexinfer.reading.reader import Transfer
from flexinfer.seam import Ready
from flexinfer.storage.experts.guesses import Guess
from flexinfer.storage.experts.reads import Matrix, MatrixReads
from flexinfer.storage.experts.slots import SlotTable


@dataclass
class ExpertGroup:
    """The weights that share one routing, and which of their experts are in memory or on the way.

    Attributes:
        base, stride: where in the arena its first slot begins, and how far the next one is.
        addresses: of each expert in a slot: where its matrices are.
        arriving: of experts whose reads may not be complete: the transfer of each matrix.
        guesses: experts read on a guess since the last routing, likeliest first.
        guess_cost_s: what it took to guess them; 0 where nothing was.
    """

    matrices: tuple[Matrix, ...]
    table: SlotTable
    reads: MatrixReads
    base: int
    stride: int
    addresses: dict[int, list[int]] = field(default_factory=dict)
    arriving: dict[int, dict[int, Transfer]] = field(default_factory=dict)
    guesses: list[int] = field(default_factory=list)
    guess_cost_s: float = 0.0

    @property
    def slot_bytes(self) -> int:
        return sum(matrix.span for matrix in self.matrices)

    @property
    def under_way(self) -> set[int]:
        """Experts whose slots are still being written to."""
        return {
            expert
            for expert, transfers in self.arriving.items()
            if not all(transfer.done for transfer in transfers.values())
        }

    @property
    def end(self) -> int:
        """Where its last slot ends."""
        count = self.table.slots
        return (count - 1) * self.stride + self.base + self.slot_bytes if count else 0

    def forget(self, expert: int) -> None:
        self.arriving.pop(expert, None)
        self.addresses.pop(expert, None)
        self.table.evict(expert)

    def make_room(self, expert: int, kept: Container[int], policy: str) -> int:
        """A slot for `expert`, if need be that of one which is not to be `kept`."""
        before = set(self.table.held)
        slot = self.table.admit(expert, kept, policy)
        for gone in before - set(self.table.held):
            self.addresses.pop(gone)
            self.arriving.pop(gone, None)
        return slot

    def settle(self, wanted: Iterable[int] = ()) -> None:
        """Book what arrived unasked; a read that failed on a guess is one that was not made.

        Of experts that are `wanted` now, reads that were given up are waited for until they end.

        Raises:
            ReadError: the drive hangs.
        """
        for expert in wanted:
            transfers = self.arriving.get(expert, {})
            if any(transfer.error for transfer in transfers.values()):
                for member, transfer in transfers.items():
                    self.reads.wait_out(transfer, self.matrices[member])
        for expert, transfers in list(self.arriving.items()):
            if not all(transfer.done for transfer in transfers.values()):
                continue
            if any(transfer.error for transfer in transfers.values()):
                self.forget(expert)
            else:
                del self.arriving[expert]

    def judge(self, wanted: Container[int], read_s: float, displaced: float) -> list[Guess]:
        """What came of the guesses, now that it is known what is `wanted`; wrong ones end.

        Args:
            read_s: seconds that reading an expert takes.
            displaced: the chance that the expert in a slot is wanted.
        """
        judged = []
        for rank, expert in enumerate(self.guesses):
            transfers, right = self.arriving[expert], expert in wanted
            if any(transfer.error for transfer in transfers.values()):
                continue
            coming = [(t, self.matrices[m]) for m, t in transfers.items() if not t.done]
            missing = sum(matrix.span for _, matrix in coming) / self.slot_bytes
            flying = sum(m.span for t, m in coming if t.begun) / self.slot_bytes
            judged.append(Guess(rank, right, read_s, 1 - missing, flying, displaced))
            for transfer, matrix in () if right else coming:
                self.reads.abandon(transfer, matrix, expert)
        return judged

    def arrivals(self, experts: Sequence[int], members: Sequence[int]) -> Iterator[Ready]:
        """Experts in slots with the matrices `members`, the ones that are complete first."""
        pending = list(experts)
        while pending:
            ready = [expert for expert in pending if self._complete(expert, members)]
            if not ready:
                for member in members:
                    self.reads.wait(self.arriving[pending[0]][member], self.matrices[member])
                continue
            pending = [expert for expert in pending if expert not in ready]
            yield [(e, tuple([self.addresses[e][m] for m in members])) for e in ready]

    def _complete(self, expert: int, members: Sequence[int]) -> bool:
        transfers = self.arriving.get(expert)
        if transfers is None:
            return True
        for member in members:
            transfer = transfers[member]
            if not transfer.done:
                return False
            if transfer.error is not None:
                raise transfer.error
        if all(transfer.done and transfer.error is None for transfer in transfers.values()):
            del self.arriving[expert]
        return True
