"""`flexinfer worker`: lend this machine's memory and processors to the layers of other machines."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from flexinfer.cli.numbers import THREADS, Count
from flexinfer.cli.options import AUTO, Budget, Words
from flexinfer.cli.streams import log, say
from flexinfer.errors import RequestError
from flexinfer.sizes import format_size

_LOOPBACK = ("127.", "localhost")
# Of llama.cpp's own server.
_PORT = 50052
_POLL_S = 0.1


@click.command(name="worker")
@click.option("--memory", type=Budget(), help="Of the process, as 6GiB or 50%.")
@click.option(
    "--host", type=Words(), default="127.0.0.1", show_default=True, help="Address to serve at."
)
@click.option("--port", type=Count(1, 65535), default=_PORT, show_default=True)
@click.option("--threads", type=THREADS, help="Default: physical cores.")
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder in which large tensors are kept, so that they are sent once.",
)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON when ready.")
def command(
    memory: int | None,
    host: str,
    port: int,
    threads: int | None,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Serve this machine's memory to `flexinfer run --rpc HOST:PORT` on others.

    It speaks llama.cpp's RPC protocol, to one client at a time, and keeps what it is sent until
    that client leaves. What does not fit its memory is refused.
    """
    if memory == AUTO:
        raise RequestError("a worker's memory does not change; give --memory a size")
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
    _serve(memory, host, port, threads, None if cache is None else str(cache), as_json)


def _serve(
    memory: int | None, host: str, port: int, threads: int | None, cache: str | None, as_json: bool
) -> None:
    from flexinfer.machine.budget import granted_budget
    from flexinfer.machine.machine import Machine
    from flexinfer.serve.listening import check_port
    from flexinfer.workers.serving import Worker

    check_port(host, port)
    machine = Machine.detect()
    worker = Worker(
        granted_budget(memory, machine),
        threads or machine.cores,
        lambda at, came: log(f"client {at} {'came' if came else 'left'}"),
    )
    endpoint = f"{host}:{port}"
    thread = worker.start(endpoint, cache)
    if not host.startswith(_LOOPBACK):
        log(
            f"whoever reaches {host} can use this memory and have this process compute what it "
            "sends: a worker trusts its clients; keep it in a network of your own"
        )
    if as_json:
        say(json.dumps({"endpoint": endpoint, "memory": worker.total}))
    else:
        log(f"{format_size(worker.total)} for others at {endpoint}; Ctrl-C ends it")
    while thread.is_alive():
        time.sleep(_POLL_S)
