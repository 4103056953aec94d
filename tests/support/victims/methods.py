"""Uses every public method of a model that is closed, closes, is shared, or was forked.

    python methods.py MODEL closed|closing|shared|forked FOLDER

Prints a line of JSON for each: its name and how it ended, as the names of exceptions and what
they say, or "answered".
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flexinfer import Llama
from support import methods

_OPTIONS: dict[str, Any] = {
    "n_ctx": 256,
    "n_batch": 64,
    "n_ubatch": 64,
    "n_threads": 2,
    "n_threads_batch": 2,
    "seed": 5,
    "verbose": False,
}
Opened = Callable[[str], Llama]


def _ending(llm: Llama, name: str, folder: Path) -> str:
    try:
        methods.use(llm, name, folder)
    except KeyError:
        raise
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "answered"


def closed(opened: Opened, name: str, folder: Path) -> list[str]:
    llm = opened(name)
    llm.close()
    return [_ending(llm, name, folder)]


def closing(opened: Opened, name: str, folder: Path) -> list[str]:
    """Used again and again, until another thread has closed it."""
    llm = opened(name)
    found: list[str] = []

    def repeat() -> None:
        while True:
            found[:] = [_ending(llm, name, folder)]
            if found[0].startswith("EngineError"):
                return

    thread = threading.Thread(target=repeat)
    thread.start()
    time.sleep(0.02)
    llm.close()
    thread.join()
    return found


def shared(opened: Opened, name: str, folder: Path) -> list[str]:
    """Two threads at the same time."""
    llm = opened(name)
    found: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: found.extend(_ending(llm, name, folder / str(n)) for n in range(5))
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    llm.close()
    return found


def forked(opened: Opened, name: str, folder: Path) -> list[str]:
    """In a child, which then closes it and ends in the usual way."""
    llm = opened(name)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, _ending(llm, name, folder).encode())
        llm.close()
        del llm
        sys.exit(0)
    os.close(write)
    with open(read, encoding="utf-8") as file:
        found = file.read()
    status = os.waitpid(child, 0)[1]
    llm.close()
    return [found, f"exit code {status}"]


def main() -> None:
    model, how, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    for number in range(5):
        (folder / str(number)).mkdir()
    with Llama(model, **_OPTIONS) as llm:
        llm.eval([5, 6])
        methods.STATE = llm.save_state()
        for place in (folder, *folder.iterdir()):
            llm.save_state_file(place / "read")

    def opened(name: str) -> Llama:
        llm = Llama(model, **_OPTIONS, embedding="embed" in name)
        if "embed" not in name:
            llm.eval([5, 6])
        return llm

    way: Callable[[Opened, str, Path], list[str]] = globals()[how]
    for name in methods.names():
        print(json.dumps([name, way(opened, name, folder)]), flush=True)


main()
