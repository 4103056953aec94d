"""Ends without closing the model: while it reads, idle, after a failed request, or forked."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from flexinfer import Llama
from flexinfer.errors import EngineError, ReadError
from support.decoding_bits import answer, open_tiny

_preadv = os.preadv


def _slowly(fd: int, buffers: Sequence[memoryview], offset: int, flags: int = 0) -> int:
    time.sleep(0.3)
    return _preadv(fd, buffers, offset, flags)


def _fail(*_: object) -> int:
    raise OSError(5, "Input/output error")


def _fork(llm: Llama) -> None:
    """The child cannot use the model and says so; both end in the usual way."""
    expected = answer(llm)
    child = os.fork()
    if not child:
        try:
            answer(llm)
        except EngineError as error:
            sys.exit(0 if "open it in this one" in str(error) else 1)
        sys.exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert answer(llm) == expected


def main() -> None:
    when = sys.argv[2]
    llm = open_tiny(sys.argv[1])
    answer(llm)
    if when == "reading":
        # What the stream reads ahead after the pass is still under way at the end.
        os.preadv = _slowly  # type: ignore[assignment]
        llm.release()
        llm.eval([1])
    if when == "failed":
        os.preadv = _fail
        try:
            answer(llm)
        except ReadError:
            print("leaving", flush=True)
            raise SystemExit(0) from None
    if when == "forked":
        _fork(llm)
    print("leaving", flush=True)


main()
