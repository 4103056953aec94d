"""Ctrl-C at random moments of requests; prints how many came and how many answers went wrong."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time

from support.decoding_bits import answer, open_tiny


def main() -> None:
    path, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    chance = random.Random(seed)
    llm = open_tiny(path)
    expected = answer(llm)
    began = time.perf_counter()
    answer(llm)
    length = time.perf_counter() - began
    interrupted = wrong = 0
    for _ in range(count):
        delay = chance.uniform(0.0, length)
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            answer(llm)
            timer.join()
            time.sleep(0.01)
        except KeyboardInterrupt:
            interrupted += 1
        timer.join()
        wrong += answer(llm) != expected
    llm.close()
    print(interrupted, wrong)


main()
