"""What a thread is doing when ggml calls back: loading a model, measuring a context, or running.

Scopes belong to the thread that entered them; a call made for it in another takes them along.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from flexinfer.native.mirror import USAGE_COMPUTE, Buffer, Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class WeightTensor:
    """One weight as ggml knows it: its tensor's address, its name and its shape."""

    address: int
    name: str
    shape: tuple[int, int, int, int]
    nbytes: int


@dataclass
class Loading:
    """What one `llama_model_load_from_file` declared; no weight was read."""

    weights: list[WeightTensor] = field(default_factory=list)

    def restore_shapes(self) -> None:
        """Undo the empty shapes that kept llama.cpp's loader from reading."""
        for weight in self.weights:
            Tensor.from_address(weight.address).ne[0] = weight.shape[0]


@dataclass
class Measuring:
    """Sizes that a context asks for, in bytes, collected without allocating anything.

    `on_graph` sees each graph that llama.cpp reserves, as an address, while it is valid.
    """

    on_graph: Callable[[int], None]
    compute: int = 0
    other: int = 0
    buffers: list[int] = field(default_factory=list)

    def collect(self) -> None:
        """Sort the sizes of the buffers that exist by what ggml uses them for."""
        for address in self.buffers:
            buffer = Buffer.from_address(address)
            if buffer.usage == USAGE_COMPUTE:
                self.compute += buffer.size
            else:
                self.other += buffer.size


class Scopes:
    """The scopes of each thread; `loading` and `measuring` are None outside of them."""

    def __init__(self) -> None:
        self._local = threading.local()
        self.forget_others()

    def forget_others(self) -> None:
        """In a process that was forked: a lock that another thread held is held for ever."""
        self._one_load = threading.Lock()

    @property
    def loading(self) -> Loading | None:
        return getattr(self._local, "loading", None)

    @property
    def measuring(self) -> Measuring | None:
        return getattr(self._local, "measuring", None)

    @property
    def owner(self) -> object | None:
        """Whose model this thread works for; None where nobody said so."""
        return getattr(self._local, "owner", None)

    @contextlib.contextmanager
    def work_for(self, owner: object) -> Iterator[None]:
        """Buffers that this thread allocates meanwhile are those of `owner`."""
        before, self._local.owner = self.owner, owner
        try:
            yield
        finally:
            self._local.owner = before

    @contextlib.contextmanager
    def load(self) -> Iterator[Loading]:
        """Load in this thread; one at a time, llama.cpp's loader is not reentrant about devices."""
        with self._one_load:
            loading = Loading()
            self._local.loading = loading
            try:
                yield loading
            finally:
                self._local.loading = None
                loading.restore_shapes()

    @contextlib.contextmanager
    def measure(self, on_graph: Callable[[int], None]) -> Iterator[Measuring]:
        measuring = Measuring(on_graph)
        self._local.measuring = measuring
        try:
            yield measuring
        finally:
            self._local.measuring = None

    def taken_along(self, call: Callable[[], T]) -> Callable[[], T]:
        """`call`, to be made in another thread as if in this one's scopes."""
        mine = dict(vars(self._local))

        def inside() -> T:
            vars(self._local).update(mine)
            return call()

        return inside
