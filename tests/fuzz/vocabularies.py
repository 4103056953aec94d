"""Hostile vocabularies and chat templates: opened, asked and chatted with in a child each.

    python vocabularies.py INPUTS [SEED] [--seconds SECONDS]

A small llama gets tokenizer metadata of every kind, changed here and there: tokens, scores, types,
merges, special tokens out of range, templates. Prints one JSON document, as `headers.py` does.
"""

from __future__ import annotations

import copy
import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.architectures import tiny
from support.children import campaign

from flexinfer import Llama
from flexinfer.errors import RequestError

_TOKENS = 128
_MODELS = ("llama", "gpt2", "bert", "t5", "rwkv", "plamo2", "no_vocab", "test", "gemma4", "nothing")
_PRES = (
    "default",
    "llama-bpe",
    "qwen2",
    "deepseek-llm",
    "gpt-2",
    "tekken",
    "nothing",
    "chatglm-bpe",
)
_SPECIAL = (
    "bos",
    "eos",
    "unknown",
    "seperator",
    "padding",
    "cls",
    "mask",
    "eot",
    "prefix",
    "suffix",
)
_IDS = (0, 1, 2, 127, 128, 129, 65535, 2**31 - 1, 2**31, 2**32 - 1)
_PIECES = (
    "",
    " ",
    "a",
    "b",
    "▁",
    "▁a",
    "ab",
    "é",
    "\n",
    "<0x41>",
    "<0xZZ>",
    "Ġa",
    "##b",
    "[UNK]",
    "<s>",
    "\\",
    "\0",
    "x" * 300,
    "<|im_end|>",
    "�",
)
_TEXTS = (
    b"",
    b"one two",
    b"\xff\xfe\xfd",
    "é漢🙂".encode(),
    b"a\0b",
    b" " * 50,
    b"<s></s><0x41>",
    b"ab" * 400,
)
_TEMPLATES = (
    "{% for m in messages %}{{ m.content }}{% endfor %}",
    "{% for m in messages %}",
    "{{ bos_token * 9 }}{{ messages[0].content }}{{ eos_token }}",
    "{% for i in range(9999) %}{% for j in range(9999) %}x{% endfor %}{% endfor %}",
    "{{ messages[5] }}{{ raise_exception('no') }}",
    "{{ 'a' * 999999 }}",
    "",
)
_OPTIONS: dict[str, Any] = {"n_ctx": 128, "n_threads": 1, "n_threads_batch": 1, "n_ubatch": 16}


def mutant(number: int, folder: Path) -> Path:
    """Write input `number`."""
    chance = random.Random(number)
    model = copy.deepcopy(tiny.models()["llama-dense"])
    metadata = model["metadata"]
    metadata.pop("tokens", None)
    count = chance.choice((_TOKENS, _TOKENS, _TOKENS, _TOKENS - 1, _TOKENS + 1, 0))
    metadata["tokenizer.ggml.model"] = ("STRING", chance.choice(_MODELS))
    metadata["tokenizer.ggml.tokens"] = ("[STRING", _tokens(chance, count))
    lists = {
        "pre": ("STRING", chance.choice(_PRES)),
        "scores": ("[FLOAT32", [chance.uniform(-9, 9) for _ in range(count)]),
        "token_type": (
            "[INT32",
            [chance.choice((1, 1, 1, 2, 3, 4, 5, 6, 0, 99)) for _ in range(count)],
        ),
        "merges": ("[STRING", [_merge(chance) for _ in range(chance.randrange(1, 20))]),
        "precompiled_charsmap": (
            "[UINT8",
            [chance.randrange(256) for _ in range(chance.randrange(1, 99))],
        ),
        "add_space_prefix": ("BOOL", chance.random() < 0.5),
        "add_bos_token": ("BOOL", chance.random() < 0.5),
        "token_type_count": ("UINT32", chance.choice(_IDS)),
    }
    for name, entry in lists.items():
        if chance.random() < 0.8:
            metadata[f"tokenizer.ggml.{name}"] = entry
    for name in _SPECIAL:
        if chance.random() < 0.3:
            metadata[f"tokenizer.ggml.{name}_token_id"] = ("UINT32", chance.choice(_IDS))
    if chance.random() < 0.7:
        metadata["tokenizer.chat_template"] = ("STRING", chance.choice(_TEMPLATES))
    metadata = {key: entry for key, entry in metadata.items() if entry[1] != []}
    return tiny.write_model({**model, "metadata": metadata}, folder / f"{number}.gguf")


def _tokens(chance: random.Random, count: int) -> list[str]:
    letters = [
        "<unk>",
        "<s>",
        "</s>",
        *map(chr, range(32, 127)),
        *(f"<0x{n:02X}>" for n in range(256)),
    ]
    tokens = (letters + letters)[:count]
    for _ in range(chance.choice((0, 0, 1, 3, 20)) if tokens else 0):
        tokens[chance.randrange(count)] = chance.choice(_PIECES)
    return tokens


def _merge(chance: random.Random) -> str:
    return chance.choice(("a b", "ab c", "x", "", " ", "a  b", "é a", " a", "a "))


def attempt(number: int, folder: Path, verbose: bool) -> None:
    """Open input `number`, make tokens of texts and texts of tokens, answer and chat."""
    path = mutant(number, folder)
    try:
        with Llama(str(path), weight_memory="8MiB", verbose=verbose, **_OPTIONS) as llm:
            for text in _TEXTS:
                _try(lambda text=text: llm.detokenize(llm.tokenize(text, special=True)))
            _try(lambda: llm.detokenize(list(range(llm.n_vocab())), special=True))
            _try(lambda: llm("one two", max_tokens=3))
            _try(
                lambda: llm.create_chat_completion([{"role": "user", "content": "a"}], max_tokens=3)
            )
            llm.reset()
            llm.eval([1, 2])
    finally:
        path.unlink()


def _try(ask: Any) -> None:
    """A request may be refused, the model goes on."""
    try:
        ask()
    except RequestError as error:
        if "\n" in str(error):
            raise AssertionError(str(error)) from error
    except UnicodeDecodeError as error:
        raise AssertionError("a text that is not UTF-8 was trusted") from error
    except ValueError as error:
        if "exceed context window" not in str(error):
            raise


if __name__ == "__main__":
    campaign(__doc__, attempt)
