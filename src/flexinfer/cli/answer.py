"""One answer as `run` shows it: its text as it comes, then what it took."""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexinfer.cli.streams import say
from flexinfer.machine.machine import process_memory
from flexinfer.sizes import format_figure, format_size
from flexinfer.text import shown

if TYPE_CHECKING:
    from flexinfer.chat.answering import Answer
    from flexinfer.chat.seeing import SeenAnswer
    from flexinfer.engine.pass_stats import PassStats
    from flexinfer.llama import Llama
    from flexinfer.storage.experts.experts import Experts


class Report:
    """An answer with the times at which its tokens came.

    Args:
        seed: that its tokens were drawn with.
        loud: whether the text is shown as it comes.
    """

    def __init__(self, llm: Llama, answer: Answer | SeenAnswer, seed: int, *, loud: bool) -> None:
        self._llm = llm
        self._answer = answer
        self._drawn_with = seed
        self._loud = loud
        self._opened = self._first = self._last = since_start()
        self._peak = 0
        self._decode: PassStats = llm.stats

    def follow(self, ready: threading.Event) -> None:
        """Have the answer computed; `ready` is set when its first token is there."""
        known = 0
        for text in self._answer:
            if len(self._answer.tokens) > known:
                known += 1
                self._note_token(ready)
            if self._loud:
                say(shown(text), nl=False)
                sys.stdout.flush()
        if self._loud:
            say()

    def _note_token(self, ready: threading.Event) -> None:
        self._last = since_start()
        if not ready.is_set():
            self._first = self._last
            self._decode = self._llm.stats
            ready.set()
        self._peak = max(self._peak, process_memory())

    def document(self) -> dict[str, Any]:
        """Text, tokens, memory and speed, as JSON has them."""
        count, plan = len(self._answer.tokens), self._llm.plan
        decoded = self._llm.stats - self._decode
        passes = max(decoded.passes, 1)
        seconds = self._last - self._first
        busy = decoded.compute_s + decoded.wait_s + decoded.away_s
        document = {
            "text": self._answer.text,
            "token_ids": self._answer.tokens,
            "prompt_tokens": len(self._answer.prompt),
            "generated_tokens": count,
            "seed": self._drawn_with,
            "ctx": {"asked": plan.request.ctx, "got": plan.ctx},
            "ubatch": {"asked": plan.request.ubatch, "got": plan.ubatch},
            "kernels": plan.rates.kernels.value,
            "reference": plan.rates.kernels.reference,
            "memory": {**self._llm.memory_use(), "peak": self._peak},
            "speed": {
                "load_s": round(self._opened, 3),
                "first_token_s": round(self._first, 3),
                "decode_tok_s": round((count - 1) / seconds, 4) if seconds > 0 else None,
                "bound_tok_s": round(plan.bound_tok_s, 4),
                "expected_tok_s": round(plan.expected_tok_s, 4),
                "read_bytes_per_token": decoded.read_bytes // passes,
                "read_gb_s": round(decoded.read_bytes / busy / 1e9, 3) if busy else 0.0,
                "compute_ms": round(1000 * decoded.compute_s / passes, 3),
                "wait_ms": round(1000 * decoded.wait_s / passes, 3),
                "away_ms": round(1000 * decoded.away_s / passes, 3),
            },
        }
        if plan.rates.drives:
            document["drives"] = self._drives()
        if self._llm.drafting is not None:
            document["drafts"] = self._llm.drafting.document
        if self._llm.experts is not None:
            document["experts"] = self._experts(self._llm.experts)
        return document

    def _drives(self) -> list[dict[str, Any]]:
        rates = {share.path: share.rate for share in self._llm.plan.rates.drives}
        return [{**asdict(use), "rate": rates[use.path]} for use in self._llm.drives]

    def _experts(self, experts: Experts) -> dict[str, Any]:
        return {
            "slots": list(self._llm.plan.slots),
            "resident": [list(layer) for layer in experts.resident],
            "hit_rate": round(experts.counters.hit_rate, 4),
            "expected_hit_rate": round(self._llm.plan.hit_rate, 4),
            "policy": experts.policy,
            "guessed": experts.counters.guessed,
            "guessed_right": experts.counters.guessed_right,
        }

    def closing_line(self) -> str:
        """The same figures in one line."""
        figures = self.document()
        speed, memory, experts = figures["speed"], figures["memory"], figures.get("experts")
        rate = speed["decode_tok_s"]
        found = f" {experts['hit_rate']:.0%} of experts found in memory," if experts else ""
        away = f", {speed['away_ms']:.0f} ms elsewhere" if speed["away_ms"] else ""
        return (
            f"{figures['prompt_tokens']} + {figures['generated_tokens']} tokens, first after "
            f"{speed['first_token_s']:.1f} s"
            + (f", then {format_figure(rate)} tokens/s" if rate else "")
            + f" ({format_size(speed['read_bytes_per_token'])} read per token,{found}"
            f" {speed['compute_ms']:.0f} ms computing, {speed['wait_ms']:.0f} ms waiting{away})"
            + (f", {self._llm.drafting}" if self._llm.drafting else "")
            + f", peak {format_size(memory['peak'])}"
        )


def since_start() -> float:
    """Seconds since this process was started."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
