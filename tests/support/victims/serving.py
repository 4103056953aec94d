"""Starts a server and stays, is forked, leaves without closing it, or dies while it starts."""

from __future__ import annotations

import gc
import os
import sys
import time

from flexinfer import Server
from flexinfer.errors import FlexInferError

HOW = sys.argv[2]


def _told(line: str) -> None:
    if HOW == "starting":
        children = f"/proc/self/task/{os.getpid()}/children"
        with open(children) as file:
            print(file.read().strip(), flush=True)
        time.sleep(600)


server = Server(sys.argv[1], weight_memory="2MiB", ctx=256, on_progress=_told)
parent = os.getpid()
if HOW == "forked" and not os.fork():
    while os.getppid() == parent:
        time.sleep(0.1)
    time.sleep(60)  # longer than the server is waited for
    os._exit(0)
if HOW == "looked":
    if not os.fork():
        print(repr(server), server.stats()["passes"], sep="\n")
        for call in (lambda: server.wait(0.1), server.close, server.stats):
            try:
                call()
                print(repr(server))
            except FlexInferError as error:
                print(type(error).__name__, error)
        sys.stdout.flush()
        os._exit(0)
    os.wait()
    print(server.stats()["passes"], flush=True)
    server.close()
    sys.exit()
print(server.pid, flush=True)
if HOW == "raised":
    raise ValueError("something else went wrong")
if HOW == "dropped":
    del server
    gc.collect()
    print("dropped", flush=True)
if HOW != "left":
    time.sleep(600)
