"""Drafts without a model: what followed the last time the same tokens were written."""

from __future__ import annotations

from collections.abc import Sequence

# Tokens that must be the same; the longest match is the likeliest to go on alike.
_LENGTHS = (5, 3, 2)


class Lookup:
    """Where each few tokens last stood, kept while a text grows."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        # For each length: where the text goes on after its last occurrence.
        self._after: dict[int, dict[tuple[int, ...], int]] = {n: {} for n in _LENGTHS}

    # Looking takes no time that counts.
    token_us = 0

    def __repr__(self) -> str:
        return f"<Lookup of {len(self._tokens)} tokens>"

    def draft(self, known: Sequence[int], most: int) -> list[int]:
        """At most `most` tokens that may follow the known ones; none where nothing recurs."""
        end = self._index(known)
        for length in _LENGTHS:
            at = self._after[length].get(tuple(self._tokens[-length:]))
            if at is not None and end > length:
                return self._continued(at, most)
        return []

    def _continued(self, at: int, most: int) -> list[int]:
        """What stood from `at` on; a text that repeats itself goes on doing so."""
        found = self._tokens[at : at + most]
        period = len(self._tokens) - at
        while len(found) < most:
            found.append(found[len(found) - period])
        return found

    def _index(self, known: Sequence[int]) -> int:
        """Take in tokens that are new; another text is begun anew."""
        before = len(self._tokens)
        tokens = [int(token) for token in known]
        if tokens[:before] != self._tokens:
            self.__init__()  # type: ignore[misc]
            before = 0
        self._tokens = tokens
        # A place is noted once the text goes on after it.
        for end in range(max(before, 1), len(tokens)):
            for length in _LENGTHS:
                if end >= length:
                    self._after[length][tuple(tokens[end - length : end])] = end
        return len(tokens)
