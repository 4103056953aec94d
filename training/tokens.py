"""The tokenizer and the text as rows of tokens to learn from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

BEGIN, END, TURN = "<|begin|>", "<|end|>", "<|turn|>"
CONTROL = (BEGIN, END, TURN)


def train_tokenizer(text: str, vocabulary: int) -> Tokenizer:
    """A byte-level BPE with GPT-2's splitting, which llama.cpp knows as "gpt-2"."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(CONTROL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


@dataclass(frozen=True)
class Stream:
    """One long row of tokens and the places where a speech begins in it."""

    tokens: Tensor
    starts: Tensor

    def rows(self, starts: Tensor, length: int) -> Tensor:
        """(rows, length + 1) tokens; every row opens with BEGIN, token 0."""
        taken = self.tokens[starts.unsqueeze(1) + torch.arange(length)]
        return torch.cat((torch.zeros(len(starts), 1, dtype=taken.dtype), taken), dim=1)


def _stream(pieces: list[list[int]], length: int) -> Stream:
    tokens = [token for piece in pieces for token in piece]
    starts, place = [], 0
    for piece in pieces:
        if place + length <= len(tokens):
            starts.append(place)
        place += len(piece)
    return Stream(torch.tensor(tokens), torch.tensor(starts))


def plain_stream(tokenizer: Tokenizer, text: str, length: int) -> Stream:
    """The plays as they are printed."""
    speeches = [speech + "\n\n" for speech in text.split("\n\n")]
    return _stream([tokenizer.encode(speech).ids for speech in speeches], length)


def turns_stream(tokenizer: Tokenizer, text: str, length: int) -> Stream:
    """The plays as a chat: TURN, who speaks, what is said, END."""
    speeches = [f"{TURN}{speech}{END}" for speech in text.strip().split("\n\n")]
    return _stream([tokenizer.encode(speech).ids for speech in speeches], length)


class Corpus:
    """The text split into a part to learn from and a part, the last 5 %, to measure on."""

    turn_share = 0.2
    held_out = 0.05

    def __init__(self, path: Path, vocabulary: int, length: int) -> None:
        text = path.read_text(encoding="utf-8")
        cut = text.rindex("\n\n", 0, int(len(text) * (1 - self.held_out)))
        seen, unseen = text[:cut], text[cut:].strip() + "\n"
        self.length = length
        self.tokenizer = train_tokenizer(seen, vocabulary)
        self.plain = plain_stream(self.tokenizer, seen, length)
        self.turns = turns_stream(self.tokenizer, seen, length)
        self.unseen = plain_stream(self.tokenizer, unseen, length)
        self.unseen_characters = len(unseen) / len(self.unseen.tokens)

    def batches(self, rows: int, seed: int) -> Iterator[Tensor]:
        """Without end, rows that begin at random speeches."""
        source = torch.Generator().manual_seed(seed)
        turns = max(1, round(rows * self.turn_share))
        while True:
            parts = [
                stream.rows(
                    stream.starts[torch.randint(len(stream.starts), (n,), generator=source)],
                    self.length,
                )
                for stream, n in ((self.plain, rows - turns), (self.turns, turns))
            ]
            yield torch.cat(parts)

    def measure_rows(self) -> Tensor:
        """Rows of unseen text that barely overlap."""
        starts = self.unseen.starts
        keep = [int(starts[0])]
        for start in starts.tolist():
            if start >= keep[-1] + self.length:
                keep.append(start)
        return self.unseen.rows(torch.tensor(keep), self.length)
