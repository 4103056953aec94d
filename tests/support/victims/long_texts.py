"""Texts that llama.cpp's tokenizer would end the process for, or never come to an end with.

    python long_texts.py words FOLDER OTHERS NAME...   long words, by each name of expressions
    python long_texts.py special FOLDER   a text of special tokens, then the model is closed

Words are of letters, and of so many others in turns.

Prints a line each: the name, and what came of each text.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from flexinfer import Llama
from flexinfer.binding import text_limits
from flexinfer.errors import RequestError
from support.long_words import TOKENS, model_of_words

# What a word may consist of: every class of characters that expressions tell apart.
_UNITS = ("a", "1", "!", " ", "é", "漢", "🙂", "a ", "a\u0301", "²")
# Longer than 8 MiB of stack hold, and than 16.
_HELD, _REFUSED = 30_000, 45_000


def vocabulary(folder: str, **entries: Any) -> Llama:
    path = model_of_words(Path(folder), **entries)
    return Llama(str(path), vocab_only=True, verbose=False)


def words(folder: str, names: list[str], others: int) -> None:
    letters, *rest = _UNITS
    for at, name in enumerate(names):
        units = [letters, *(rest[(at + other) % len(rest)] for other in range(others))]
        with vocabulary(folder, pre=("STRING", name)) as llm:
            print(name, *(_outcome(llm, unit) for unit in units), flush=True)


def _outcome(llm: Llama, unit: str) -> str:
    said = ""
    for length in (_HELD, _REFUSED):
        text = (unit * length)[:length].encode()
        try:
            said += "." if llm.tokenize(text, add_bos=False) else "?"
        except RequestError as error:
            said += "r" if "may be one word" in str(error) else "e"
    return said


def special(folder: str) -> None:
    text_limits._SECONDS, text_limits._BYTES_A_SECOND = 0.5, 10**9
    kinds = [3 if token == "b" else 1 for token in TOKENS]
    llm = vocabulary(folder, pre=("STRING", "gpt-2"), token_type=("[INT32", kinds))
    assert len(llm.tokenize(b"ab" * 9, special=True)) == 18
    try:
        llm.tokenize(b"b" * 400_000, special=True)
    except RequestError as error:
        print(error)
    llm.close()
    # A vocabulary that was freed would be read meanwhile, and overwritten.
    with vocabulary(folder, pre=("STRING", "gpt-2")) as again:
        for _ in range(5):
            time.sleep(0.2)
            again.tokenize(b"one " * 1000)
    print("lives")


def main() -> None:
    what, folder, *names = sys.argv[1:]
    if what == "words":
        words(folder, names[1:], int(names[0]))
    else:
        special(folder)


main()
