"""Closes a model in the middle of an answer, again and again, each time at another moment.

    python benchmarks/closes.py MODEL [CLOSES] [--seed SEED]

One thread answers, as a stream or at once; another closes. The answer must end with `EngineError`
or have been complete, and the process must live. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import random
import threading
import time
from collections import Counter
from typing import Any

from flexinfer import Llama
from flexinfer.errors import EngineError

_OPTIONS: dict[str, Any] = {"n_ctx": 256, "n_batch": 64, "n_ubatch": 64, "verbose": False}


def close_once(path: str, chance: random.Random, weight_memory: str | None) -> str:
    """How the answer ended that was under way when the model was closed."""
    llm = Llama(path, weight_memory=weight_memory, **_OPTIONS)
    ended: list[str] = []
    began = threading.Event()
    streams = chance.random() < 0.5

    def answer() -> None:
        began.set()
        try:
            made = llm("one two three", max_tokens=60, temperature=0.0, stream=streams)
            for _ in made if streams else ():
                pass
            ended.append("complete")
        except EngineError as error:
            ended.append("closed" if "closed" in str(error) else f"other: {error}")
        except BaseException as error:
            ended.append(f"other: {type(error).__name__}: {error}")

    thread = threading.Thread(target=answer)
    thread.start()
    began.wait()
    time.sleep(chance.uniform(0.0, 0.05))
    llm.close()
    thread.join()
    return ended[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("closes", type=int, nargs="?", default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--weight-memory", help="so that weights stream while it is closed")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    began = time.monotonic()
    found = Counter(
        close_once(arguments.model, chance, arguments.weight_memory)
        for _ in range(arguments.closes)
    )
    seconds = round(time.monotonic() - began)
    print(json.dumps({"closes": found.total(), "seconds": seconds, "ended": found}, indent=1))


if __name__ == "__main__":
    main()
