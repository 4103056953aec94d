"""A pass without a library and without a drive: weights in memory, and steps made by hand."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flexinfer.errors import ReadError
from flexinfer.native.graph.expert_nodes import Routed
from flexinfer.native.graph.foresight import Foresight
from flexinfer.native.graph.steps import Load, Step
from flexinfer.native.mirror import Tensor
from flexinfer.seam import Batch, Layout, Part, Ready, RowTable

PART_BYTES = 64
_ABSENT = 8


class MemorySource:
    """What `seam.WeightSource` says, from bytes in memory; `log` has the calls in order.

    Args:
        arrived: indices of the loads that can be acquired without waiting.
        fails_at: the load that cannot be read.
        most: how many experts to guess.
    """

    def __init__(
        self, arrived: Sequence[int] = (), fails_at: int | None = None, most: int = 0
    ) -> None:
        self.layouts: Mapping[int, Layout] = {}
        self.version = 0
        self.log: list[str] = []
        self.guessed: list[int] = []
        self.expert_bytes: dict[tuple[int, int], Any] = {}
        self._arrived = set(arrived)
        self._fails_at = fails_at
        self._most = most
        self._sequence: Sequence[Part] = ()
        self._memory: dict[int, Any] = {}

    def begin(self, sequence: Sequence[Part], following: Sequence[Part]) -> None:
        self.log.append("begin")
        self._sequence = sequence
        for index, part in enumerate(sequence):
            self._memory[index] = ctypes.create_string_buffer(content(part), PART_BYTES)

    def ready(self, index: int) -> bool:
        return index in self._arrived

    def acquire(self, index: int) -> int:
        if index == self._fails_at:
            raise ReadError(f"{self._sequence[index].name}: the drive failed")
        self.log.append(f"acquire {index}")
        return ctypes.addressof(self._memory[index])

    def fetch_rows(self, table: RowTable, rows: list[int]) -> int:
        self.log.append(f"rows {rows}")
        return table.address

    def fetch_experts(self, batch: Batch) -> Iterator[Ready]:
        self.log.append(f"experts {sorted(batch.uses)}")
        for expert in batch.uses:
            yield [(expert, tuple(self._expert(expert, member) for member in batch.members))]

    def guesses(self, group: int, used: int) -> int:
        return self._most

    def guess_experts(self, group: int, experts: Sequence[int], most: int, cost_s: float) -> None:
        self.guessed += experts[:most]

    def release(self, index: int) -> None:
        self.log.append(f"release {index}")
        for used in [used for used in self._memory if used < index]:
            ctypes.memset(self._memory[used], 0xFF, PART_BYTES)

    def end(self) -> None:
        self.log.append("end")

    def stop(self) -> None:
        self.log.append("stop")

    def _expert(self, expert: int, member: int) -> int:
        memory = self.expert_bytes.setdefault(
            (expert, member), ctypes.create_string_buffer(PART_BYTES)
        )
        return ctypes.addressof(memory)


def content(part: Part) -> bytes:
    """What the file has for a part."""
    return part.name.encode().ljust(PART_BYTES, b".")


class HandMade:
    """A program of steps made by hand; a segment is the nodes as a tuple.

    Attributes:
        cells: for each load the field that must point at its part.
        foresight: of routed steps.
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.sequence: list[Part] = []
        self.cells: list[ctypes.c_uint64] = []
        self.foresight: dict[Routed, Foresight] = {}

    def dense(self, *names: str, locked: bool = False) -> Step:
        """Add a step of one node that needs these weights."""
        step = Step(len(self.steps))
        step.stop = step.start + 1
        for name in names:
            part = Part(name, 0, 0, PART_BYTES, 0, 1, locked)
            load = Load(part, len(self.sequence), _ABSENT)
            cell = ctypes.c_uint64(_ABSENT)
            load.cells.append((cell, 0))
            step.loads.append(load)
            step.stream_bytes += 0 if locked else PART_BYTES
            self.cells.append(cell)
            self.sequence.append(part)
        step.releases = len(self.sequence)
        self.steps.append(step)
        return step

    def routed(self, experts: Sequence[int], matrices: int = 1) -> Routed:
        """Add a step that multiplies by these experts of one token."""
        step = Step(len(self.steps))
        step.stop, step.releases = step.start, len(self.sequence)
        step.routed = routed_nodes(experts, matrices)
        self.steps.append(step)
        return step.routed

    def segment(self, start: int, stop: int) -> tuple[int, ...]:
        return tuple(range(start, stop))

    def segment_of(self, array: Any, count: int) -> tuple[int, ...]:
        """The addresses of the weights of these nodes."""
        return tuple(
            Tensor.from_address(Tensor.from_address(array[n]).src[0]).data for n in range(count)
        )


def routed_nodes(experts: Sequence[int], matrices: int) -> Routed:
    """Expert nodes of one token over tensors of our own."""
    numbers = (ctypes.c_int32 * len(experts))(*experts)
    ids = _tensor(26, (len(experts), 1), numbers)
    row = (ctypes.c_float * 16)()
    routed = Routed(0, ctypes.addressof(ids), first=True)
    kept: list[Any] = [numbers, ids, row]
    for member in range(matrices):
        weight = _tensor(0, (16, 16, max(experts) + 1))
        x = _tensor(0, (16, 1, 1), row)
        result = (ctypes.c_float * (16 * len(experts)))()
        node = _tensor(0, (16, len(experts), 1), result)
        node.src[0], node.src[1] = ctypes.addressof(weight), ctypes.addressof(x)
        node.src[2] = ctypes.addressof(ids)
        routed.add(ctypes.addressof(node), member)
        kept += [weight, x, result, node]
    routed.kept = kept  # type: ignore[attr-defined]  # the tensors live as long as it does
    return routed


def _tensor(kind: int, shape: Sequence[int], memory: Any = None) -> Tensor:
    tensor = Tensor()
    tensor.type = kind
    stride = 4
    for axis in range(4):
        tensor.ne[axis] = shape[axis] if axis < len(shape) else 1
        tensor.nb[axis] = stride
        stride *= tensor.ne[axis]
    tensor.data = ctypes.addressof(memory) if memory is not None else 0
    return tensor
