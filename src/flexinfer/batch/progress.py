"""How far a batch is: requests, tokens a second, and the time that is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flexinfer.sizes import format_figure


@dataclass
class Progress:
    """Counts of one batch, `total` requests of which none was answered at `began` (seconds).

    Attributes:
        bound_tok_s: what the plan says that all slots together reach at most.
    """

    total: int
    began: float
    bound_tok_s: float
    answered: int = 0
    tokens: int = 0

    def note(self, body: Any) -> None:
        """Take in the body of an answer."""
        self.answered += 1
        usage = body.get("usage") if isinstance(body, Mapping) else None
        made = usage.get("completion_tokens") if isinstance(usage, Mapping) else None
        self.tokens += made if isinstance(made, int) else 0

    def rate(self, now: float) -> float:
        """Tokens a second that were written since the beginning."""
        return self.tokens / max(now - self.began, 1e-9)

    def left_s(self, now: float) -> float | None:
        """Seconds until the last answer, if the rest goes on like this; None before the first."""
        if not self.answered:
            return None
        return (self.total - self.answered) * (now - self.began) / self.answered

    def line(self, now: float) -> str:
        """One line about all this."""
        words = [f"{self.answered} of {self.total} requests"]
        if self.tokens:
            rate, bound = format_figure(self.rate(now)), format_figure(self.bound_tok_s)
            words.append(f"{rate} tokens/s of {bound} at most")
        left = self.left_s(now)
        if left is not None and self.answered < self.total:
            words.append(f"{_duration(left)} left")
        return ", ".join(words)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
