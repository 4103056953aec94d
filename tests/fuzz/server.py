"""A server under 10,000 requests of every kind: no process ends, nothing hangs, no 5xx.

    python server.py INPUTS [SEED] [--seconds SECONDS]

After every hundred a plain request is answered as before. Prints one JSON document: statuses, and
each answer that should not have been, with its request.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from importlib.resources import files
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.abused import abused, plain
from support.judged import drawn, problems

_SLICE = 100
_TOGETHER = 6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("inputs", type=int)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no more then")
    parser.add_argument("--embeddings", action="store_true", help="of a server of vectors")
    arguments = parser.parse_args()
    model = files("flexinfer") / "data" / "shakespeare.gguf"
    options = ("--embeddings",) if arguments.embeddings else ()
    counts: Counter[str] = Counter()
    found: list[str] = []
    began, asked = time.monotonic(), 0
    with abused(model, *options) as served:
        while asked < arguments.inputs and time.monotonic() - began < arguments.seconds:
            some = drawn(_SLICE, arguments.seed * 1_000_000 + asked)
            found += problems(served.port, some, _TOGETHER, counts)
            asked += len(some)
            if served.process.poll() is not None:
                found.append(
                    f"the process ended with {served.process.returncode}: {served.log[-800:]}"
                )
                break
            plain(served)
            print(asked, len(found), file=sys.stderr)
    # Of those that begin alike, one is enough.
    found = list({line[:60]: line[:600] for line in found}.values())
    document = {"requests": asked, "seconds": round(time.monotonic() - began), "statuses": counts}
    print(json.dumps({**document, "findings": found}, indent=1))


if __name__ == "__main__":
    main()
