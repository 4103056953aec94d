"""Text from tokens as they come: partial UTF-8 is held back, stop texts end it.

Sampling itself is llama.cpp's, through the parent class.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Collects the bytes of tokens and hands out text that can be shown.

    Args:
        stops: texts that end the answer; they are not part of it.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self.text = ""
        self.stopped = False
        self._stops = [stop for stop in stops if stop]
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def feed(self, piece: bytes, final: bool = False) -> str:
        """Text that is certain now; nothing once a stop text was met."""
        if self.stopped:
            return ""
        self._held += self._decoder.decode(piece, final)
        certain = self._certain(final)
        self.text += certain
        return certain

    def _certain(self, final: bool) -> str:
        met = [at for at in map(self._held.find, self._stops) if at >= 0]
        if met:
            self.stopped = True
            cut = min(met)
        elif final:
            cut = len(self._held)
        else:
            cut = len(self._held) - self._possible_stop()
        certain, self._held = self._held[:cut], self._held[cut:]
        return certain

    def _possible_stop(self) -> int:
        """Length of the longest tail that could be the beginning of a stop text."""
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:length]):
                    longest = length
                    break
        return longest
