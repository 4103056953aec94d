"""A SentencePiece vocabulary of any size: bytes, characters, syllables and words made of them.

Every text can be tokenized (bytes catch what nothing else does) and every token is text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product

BOS, EOS = 1, 2
CHAT_TEMPLATE = (
    "{% for message in messages %}### {{ message['role'] }}:\n{{ message['content'] }}\n\n"
    "{% endfor %}{% if add_generation_prompt %}### assistant:\n{% endif %}"
)
_SPACE = "\u2581"
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6


@dataclass(frozen=True)
class Vocabulary:
    """Tokens with their scores (higher merges first) and types of llama.cpp."""

    tokens: list[str]
    scores: list[float]
    types: list[int]


def vocabulary(size: int) -> Vocabulary:
    """The first `size` tokens; `size` is 400 or more."""
    special = ["<unk>", "<s>", "</s>"]
    byte_tokens = [f"<0x{i:02X}>" for i in range(256)]
    pieces = list(islice(_pieces(), size - len(special) - len(byte_tokens)))
    return Vocabulary(
        tokens=special + byte_tokens + pieces,
        scores=[0.0] * (size - len(pieces)) + [-float(i) for i in range(len(pieces))],
        types=[_UNKNOWN, _CONTROL, _CONTROL] + [_BYTE] * 256 + [_NORMAL] * len(pieces),
    )


def _pieces() -> Iterator[str]:
    yield _SPACE
    yield from (chr(c) for c in range(33, 127))
    syllables = [a + b for a, b in product("tnsrhldcmfpgwybvkjz", "eaoiu")]
    yield from syllables
    for length in range(1, 8):
        for parts in product(syllables, repeat=length):
            word = "".join(parts)
            yield _SPACE + word
            if length > 1:
                yield word
