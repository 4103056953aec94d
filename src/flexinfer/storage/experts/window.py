"""Experts that pass through: matrices read into a ring of bytes in the order of their use.

Each matrix of a batch is read once; room for one expert is enough.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flexinfer.errors import ReadError
from flexinfer.memory.pages import Arena
from flexinfer.reading.reader import Transfer
from flexinfer.seam import Ready
from flexinfer.storage.experts.reads import Matrix, MatrixReads
from flexinfer.storage.ring import Ring


@dataclass
class _Passing:
    expert: int
    matrices: Sequence[Matrix]
    addresses: tuple[int, ...]
    transfers: list[Transfer]

    @property
    def done(self) -> bool:
        return all(transfer.done for transfer in self.transfers)


class ExpertWindow:
    """A ring of `nbytes` that experts pass through."""

    def __init__(self, nbytes: int, reads: MatrixReads) -> None:
        self.passed = 0
        self._reads = reads
        self._arena = Arena(nbytes)
        self._ring = Ring(nbytes)
        self._passing: deque[_Passing] = deque()
        # What the reads under way are for, when they ran ahead of their step.
        self._ahead: tuple[Sequence[Matrix], list[int]] | None = None

    def __repr__(self) -> str:
        return f"<ExpertWindow {self._ring!r}>"

    @property
    def resident(self) -> int:
        """Bytes of memory behind it, in whole pages."""
        return self._arena.resident

    @property
    def busy(self) -> bool:
        """Some read may still write to the window."""
        return any(not passing.done for passing in self._passing)

    @property
    def passing(self) -> list[tuple[str, int]]:
        """Weights and bytes in the window at this moment; any thread may ask."""
        matrices = [matrix for one in list(self._passing) for matrix in one.matrices]
        return [(matrix.name, matrix.nbytes) for matrix in matrices]

    def begin(self, matrices: Sequence[Matrix], experts: Sequence[int]) -> deque[int]:
        """Start to read these matrices of `experts`; returns what did not fit yet."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead != (matrices, list(experts)):
            self._finish_all(ahead[0])
        queue = deque(list(experts)[len(self._passing) :])
        self._fill(matrices, queue)
        return queue

    def arrivals(self, matrices: Sequence[Matrix], queue: deque[int]) -> Iterator[Ready]:
        """Yield experts as they arrive; their room goes to the ones in `queue`."""
        while self._passing:
            oldest = self._passing[0]
            for transfer, matrix in zip(oldest.transfers, matrices, strict=True):
                self._reads.wait(transfer, matrix)
            ready = self._ready()
            self.passed += len(ready)
            yield [(passing.expert, passing.addresses) for passing in ready]
            for _ in ready:
                self._pop()
            self._fill(matrices, queue)

    def look_ahead(self, matrices: Sequence[Matrix], experts: Sequence[int]) -> None:
        """Start to read for a step that comes later, as much as there is room for."""
        if matrices and experts:
            self._ahead = (matrices, list(experts))
            self._fill(matrices, deque(experts))

    def stop(self) -> None:
        """Forget everything; reads must have been cancelled. A hanging one keeps its memory."""
        if self.busy:
            self._arena.close()
            self._arena = Arena(self._ring.size)
        while self._passing:
            self._pop()
        self._ahead = None

    def close(self) -> None:
        self._arena.close()

    def _ready(self) -> list[_Passing]:
        """The oldest that are complete: the ring gives room back in order."""
        ready = []
        for passing in self._passing:
            if not passing.done or any(t.error for t in passing.transfers):
                break
            ready.append(passing)
        return ready

    def _fill(self, matrices: Sequence[Matrix], queue: deque[int]) -> None:
        size = sum(matrix.span for matrix in matrices)
        while queue:
            place = self._ring.push(size)
            if place is None:
                if not self._passing:
                    raise ReadError(
                        f"{matrices[0].name}: the window of {self._ring.size} bytes is too small "
                        f"for one expert of {size}; give a larger budget"
                    )
                return
            self._start(matrices, queue.popleft(), place)

    def _start(self, matrices: Sequence[Matrix], expert: int, place: int) -> None:
        transfers, addresses = [], []
        for matrix in matrices:
            transfer, address = self._reads.start(matrix, expert, self._arena, place)
            transfers.append(transfer)
            addresses.append(address)
            place += matrix.span
        self._passing.append(_Passing(expert, matrices, tuple(addresses), transfers))

    def _finish_all(self, matrices: Sequence[Matrix]) -> None:
        """Wait until nothing writes to the window; nobody wants what was read."""
        for passing in self._passing:
            for transfer, matrix in zip(passing.transfers, matrices, strict=True):
                self._reads.wait_out(transfer, matrix)
        while self._passing:
            self._pop()

    def _pop(self) -> None:
        self._passing.popleft()
        self._ring.pop()
