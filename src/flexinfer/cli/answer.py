"""One answer as `run` shows it: its text as it comes, then what it took."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flexinfer.chat.text_stream import TextStream
from flexinfer.sizes import format_size

if TYPE_CHECKING:
    from flexinfer.engine.engine import PassStats
    from flexinfer.llama import Llama


class Answer:
    """The tokens of one answer, and when they came.

    Args:
        stops: texts that end the answer.
        loud: whether the text is shown as it comes.
    """

    def __init__(self, llm: Llama, stops: tuple[str, ...], *, loud: bool) -> None:
        self.ids: list[int] = []
        self._llm = llm
        self._text = TextStream(stops)
        self._loud = loud
        self._prompt = 0
        self._opened = self._first = self._last = since_start()
        self._peak = 0
        self._before: PassStats = llm.stats
        self._decode: PassStats = llm.stats

    def generate(
        self, prompt: list[int], limit: int, sampling: dict[str, Any], ready: threading.Event
    ) -> None:
        """Generate at most `limit` tokens; `ready` is set when the first is there."""
        llm = self._llm
        self._prompt = len(prompt)
        end = {llm.token_eos(), -1}
        for token in llm.generate(prompt, **sampling):
            self._last = since_start()
            if not self.ids:
                self._first = self._last
                self._decode = llm.stats
                ready.set()
            self._sample_memory()
            if token in end:
                break
            self.ids.append(token)
            self._show(llm.detokenize([token], prev_tokens=[*prompt, *self.ids[:-1]]))
            if self._text.stopped or len(self.ids) >= limit:
                break
        self._show(b"", final=True)
        if self._loud:
            click.echo()

    def _show(self, piece: bytes, final: bool = False) -> None:
        text = self._text.feed(piece, final)
        if self._loud and text:
            click.echo(text, nl=False)
            sys.stdout.flush()

    def _sample_memory(self) -> None:
        from flexinfer.machine.machine import process_memory

        self._peak = max(self._peak, process_memory())

    def document(self) -> dict[str, Any]:
        """Text, tokens, memory and speed, as JSON has them."""
        decoded = self._llm.stats - self._decode
        passes = max(decoded.passes, 1)
        seconds = self._last - self._first
        busy = decoded.compute_s + decoded.wait_s
        document = {
            "text": self._text.text,
            "token_ids": self.ids,
            "prompt_tokens": self._prompt,
            "generated_tokens": len(self.ids),
            "memory": {**self._llm.memory_use(), "peak": self._peak},
            "speed": {
                "load_s": round(self._opened, 3),
                "first_token_s": round(self._first, 3),
                "decode_tok_s": round((len(self.ids) - 1) / seconds, 4) if seconds > 0 else None,
                "bound_tok_s": round(self._llm.plan.bound_tok_s, 4),
                "expected_tok_s": round(self._llm.plan.expected_tok_s, 4),
                "read_bytes_per_token": decoded.read_bytes // passes,
                "read_gb_s": round(decoded.read_bytes / busy / 1e9, 3) if busy else 0.0,
                "compute_ms": round(1000 * decoded.compute_s / passes, 3),
                "wait_ms": round(1000 * decoded.wait_s / passes, 3),
            },
        }
        experts = self._llm.experts
        if experts is not None:
            document["experts"] = {
                "slots": list(self._llm.plan.slots),
                "resident": [list(layer) for layer in experts.resident],
                "hit_rate": round(experts.counters.hit_rate, 4),
                "expected_hit_rate": round(self._llm.plan.hit_rate, 4),
                "policy": experts.policy,
                "guessed": experts.counters.guessed,
                "guessed_right": experts.counters.guessed_right,
            }
        return document

    def closing_line(self) -> str:
        """The same figures in one line."""
        figures = self.document()
        speed, memory, experts = figures["speed"], figures["memory"], figures.get("experts")
        rate = speed["decode_tok_s"]
        found = f" {experts['hit_rate']:.0%} of experts found in memory," if experts else ""
        return (
            f"{self._prompt} + {len(self.ids)} tokens, first after {speed['first_token_s']:.1f} s"
            + (f", then {rate:.2f} tokens/s" if rate else "")
            + f" ({format_size(speed['read_bytes_per_token'])} read per token,{found}"
            f" {speed['compute_ms']:.0f} ms computing, {speed['wait_ms']:.0f} ms waiting)"
            f", peak {format_size(memory['peak'])}"
        )


def since_start() -> float:
    """Seconds since this process was started."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
