"""What a text may take of llama.cpp's tokenizer: seconds, and stack for its longest word.

It splits a text by regular expressions. Those that it leaves to the C++ library take 324 bytes of
stack for each character of a match, so that a word of 26,000 characters ends a process whose stacks
have 8 MiB. The rest has code of its own and takes words of any length.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import llama_cpp.llama_cpp as binding

from flexinfer.errors import RequestError

# A usual text takes a hundredth of that; one of special tokens the square of their number.
_SECONDS, _BYTES_A_SECOND = 10.0, 100_000
# Twice what llama.cpp has as a rule: whatever it can read, can be read here.
STACK = 16 << 20
# Characters that 8 MiB of it hold for certain, and all of it.
SAFE, _MOST = 20_000, 40_000

_SPACE = r"\s+"
_SIGNS = r"(?:[^\w\s]|_)+"
# What separates words in every expression: ASCII's signs, and those of Chinese sentences.
_WORD = r"[^\s!-/:-@\[-`{-~！（），：；？。、“”‘’]+"
_NUMBER = r"[0-9\x80-\U0010ffff]+"
_USUAL = "|".join((_WORD, _SPACE)), _SIGNS
# No match of an expression is longer than the longest of one of these patterns: by the name of
# the expressions in ``tokenizer.ggml.pre``. Source: ``src/llama-vocab.cpp`` (llama.cpp 0.3.36).
_STRETCHES: Mapping[str, tuple[str, ...]] = {
    "default": (_SIGNS, _NUMBER),
    "falcon": (_SIGNS,),
    "superbpe": (_NUMBER,),
    "whitespace": (r"\S+",),
    "exaone-moe": (r"[^\r\n0-9!-/:-@\[-`{-~]+", *_USUAL),
    **dict.fromkeys(
        ("bloom", "gpt3-finnish", "poro-chat", "viking"), (r"[^(\s|.,!?…。，、।۔،)]+",)
    ),
    **dict.fromkeys(
        (
            *("afmoe", "bailingmoe", "bailingmoe2", "cohere2moe", "deepseek-coder"),
            *("deepseek-llm", "deepseek-v3", "gpt-4o", "granite-embed-multi-97m"),
            *("hunyuan-dense", "hy_v4", "jais-2", "joyai-llm", "kanana2", "llada-moe", "llama4"),
            *("minicpm5", "minimax-m2", "seed-coder", "spark2_5", "talkie", "tekken", "tiny_aya"),
            *("ufakzeka", "youtu"),
        ),
        _USUAL,
    ),
}


def seconds_for(text: bytes) -> float:
    """How long making tokens of `text` may take, on any machine that computes at all."""
    return _SECONDS + len(text) / _BYTES_A_SECOND


def expressions(vocabulary_type: int, metadata: Mapping[str, str]) -> str:
    """The name of the regular expressions that split a text for a vocabulary; "" where none do."""
    if vocabulary_type != binding.LLAMA_VOCAB_TYPE_BPE:
        return ""
    return metadata.get("tokenizer.ggml.pre", "default")


def stack_for(text: bytes, name: str) -> int:
    """The stack in bytes that a thread needs to make tokens of `text`; 0 for a usual one.

    Args:
        name: of the expressions that split it, see `expressions`.

    Raises:
        RequestError: no stack of ours holds its longest word.
    """
    patterns = _STRETCHES.get(name, ())
    if len(text) <= SAFE or not patterns:
        return 0
    longest = _longest(text.decode("utf-8", "replace"), patterns)
    if longest > _MOST:
        raise RequestError(
            f"{longest:,} characters of the text may be one word to this model's vocabulary "
            f"({name}), and llama.cpp reads at most {_MOST:,}; break them by spaces or lines"
        )
    return STACK if longest > SAFE else 0


def _longest(text: str, patterns: tuple[str, ...]) -> int:
    return max(
        (len(found[0]) for pattern in patterns for found in re.finditer(pattern, text)), default=0
    )
