"""Starts a server and stays, is forked, leaves without closing it, or dies while it starts."""

from __future__ import annotations

import gc
import os
import sys
import time

from flexinfer import Server

HOW = sys.argv[2]


def _told(line: str) -> None:
    if HOW == "starting":
        children = f"/proc/self/task/{os.getpid()}/children"
        with open(children) as file:
            print(file.read().strip(), flush=True)
        time.sleep(600)


server = Server(sys.argv[1], weight_memory="2MiB", ctx=256, on_progress=_told)
if HOW == "forked" and not os.fork():
    time.sleep(600)
print(server.pid, flush=True)
if HOW == "raised":
    raise ValueError("something else went wrong")
if HOW == "dropped":
    del server
    gc.collect()
    print("dropped", flush=True)
if HOW != "left":
    time.sleep(600)
