"""Plain llama.cpp with mmap on one prompt, for `budget.py`: prints one JSON document."""

from __future__ import annotations

import json
import sys

from flexinfer.bench.plain import open_plain
from flexinfer.cli.answer import since_start


def main(model: str, prompt: str, tokens: int, ctx: int) -> None:
    options = {"n_ctx": ctx, "n_batch": 32, "n_ubatch": 32, "n_threads": 2, "n_threads_batch": 2}
    llm = open_plain(model, repack=False, **options)
    times = []
    for _ in llm.generate(llm.tokenize(prompt.encode()), temp=0.0):
        times.append(since_start())
        if len(times) == tokens:
            break
    rate = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0
    print(json.dumps({"first_token_s": times[0], "decode_tok_s": rate}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
