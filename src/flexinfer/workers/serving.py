"""Being a worker: this machine's memory for the layers of others, within a limit that is kept."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable

from flexinfer.errors import BudgetError, WorkerError
from flexinfer.machine.machine import process_memory
from flexinfer.memory.ledger import Ledger
from flexinfer.native.device.backends import InnerBackend, work_size
from flexinfer.native.device.device import device
from flexinfer.native.device.lending import Lending
from flexinfer.native.mirror import STATUS_SUCCESS, CGraph
from flexinfer.native.rpc import rpc
from flexinfer.sizes import format_size
from flexinfer.workers.endpoint import host_and_port

# What the process grows by beside buffers: graphs as they come in, threads, heaps.
_GROWTH = 24 << 20
_STARTING_S = 5.0


class Worker:
    """Memory and processors for the layers of others.

    Args:
        memory: bytes that this process may use; what does not fit is refused.
        threads: processors.
        client: is told the address of each client that comes, and goes.

    Raises:
        BudgetError: the process alone needs more.
        UnsupportedError: llama.cpp's RPC backend was not built.
    """

    def __init__(
        self, memory: int, threads: int, client: Callable[[str, bool], None] = lambda at, came: None
    ) -> None:
        self._rpc = rpc()
        self._client = client
        self._threads = threads
        self._work = 0
        device()
        self._ledger = Ledger(memory)
        process = process_memory() + _GROWTH
        if process >= memory:
            raise BudgetError(
                f"{format_size(memory)} are too little for a worker: its process alone takes "
                f"{format_size(process)}; give a larger --memory"
            )
        self._ledger.charge("process", process)
        self._lending = Lending(device(), lambda: (self.free, self.total))
        device().allocations = self
        device().own_others(self)

    def __repr__(self) -> str:
        return f"<Worker {self._ledger!r}>"

    @property
    def free(self) -> int:
        """Bytes that a client may take now."""
        return max(self._ledger.free or 0, 0)

    @property
    def total(self) -> int:
        """Bytes that a client may take when nobody has any."""
        return (self._ledger.limit or 0) - self._ledger.accounts["process"]

    def start(self, endpoint: str, cache: str | None) -> threading.Thread:
        """Serve one client after the other, in a thread that ends with the process.

        Args:
            cache: a folder in which large tensors are kept, so that they need not be sent again.

        Raises:
            WorkerError: nothing can be served there.
        """
        thread = threading.Thread(
            target=self._rpc.serve,
            args=(endpoint, cache, self._threads, device().address, self._admit, self._client),
            daemon=True,
        )
        thread.start()
        until = time.monotonic() + _STARTING_S
        while thread.is_alive() and time.monotonic() < until:
            with contextlib.suppress(OSError):
                socket.create_connection(host_and_port(endpoint), timeout=1.0).close()
                return thread
            time.sleep(0.01)
        raise WorkerError(f"nothing can be served at {endpoint}; give another --host or --port")

    # -- what the device asks -------------------------------------------------------------------

    def allocating(self, nbytes: int) -> None:
        self._ledger.charge("buffers", nbytes)

    def freed(self, nbytes: int) -> None:
        self._ledger.release("buffers", nbytes)

    def compute(self, backend: InnerBackend, graph: int) -> int:
        """Compute a client's graph; one that cannot be costs it its connection, not this process.

        llama.cpp's server ends the process of a graph that fails.
        """
        nodes = CGraph.from_address(graph)
        try:
            work = work_size(nodes, self._threads)
            if work > self._work:
                self._ledger.charge("work", work - self._work)
                self._work = work
        except BudgetError:
            self._rpc.refuse()
            return STATUS_SUCCESS
        if backend.compute(nodes) != STATUS_SUCCESS:
            self._rpc.refuse()
        return STATUS_SUCCESS

    def _admit(self, nbytes: int) -> bool:
        """Whether a message may come in: it is held beside what is there."""
        return nbytes <= self.free
