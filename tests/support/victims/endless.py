"""Answers until it is killed."""

from __future__ import annotations

import sys

from support.decoding_bits import answer, open_tiny

llm = open_tiny(sys.argv[1])
answer(llm)
print("running", flush=True)
while True:
    answer(llm)
