"""What is read in one go, and transfers that consist of such pieces."""

from __future__ import annotations

from flexinfer.reading.reader import Transfer, Treatment


class QueuedTransfer(Transfer):
    """A transfer in pieces, of which `left` are not over yet."""

    __slots__ = ("left",)

    def __init__(
        self, pieces: int, treat: Treatment | None = None, memory: memoryview | None = None
    ) -> None:
        super().__init__(treat, memory)
        self.left = pieces


class Piece:
    """One read: bytes of `file` from `offset` into `view`, of which the first `need` must exist."""

    __slots__ = ("file", "need", "offset", "transfer", "view")

    def __init__(
        self, transfer: QueuedTransfer, file: int, offset: int, view: memoryview, need: int
    ) -> None:
        self.transfer = transfer
        self.file = file
        self.offset = offset
        self.view = view
        self.need = need

    def cut(self, nbytes: int) -> Piece:
        """Keep the first `nbytes` of it; returns the rest. The transfer counts one piece more."""
        rest = Piece(
            self.transfer, self.file, self.offset + nbytes, self.view[nbytes:], self.need - nbytes
        )
        whole, self.view = self.view, self.view[:nbytes]
        whole.release()
        self.need = nbytes
        return rest
