"""Decoding by scenarios, the same code for both engines, and plain llama.cpp in its own process.

Run as a script it decodes all scenarios with llama-cpp-python's own class, in a process that
never registers the device, and writes the logits to a file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flexinfer.bench.plain import open_plain
from support.plainly import require_plain

Logits = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Scenario:
    """Prompts decoded one after the other, then single tokens; everything that changes bits."""

    prompts: tuple[int, ...] = (40,)
    steps: int = 3
    threads: int = 2
    flash_attn: bool = False
    ubatch: int = 512
    kv_type: int = 1

    def options(self) -> dict[str, Any]:
        return {
            "n_ctx": 1024,
            "n_batch": 512,
            "n_ubatch": self.ubatch,
            "n_threads": self.threads,
            "n_threads_batch": self.threads,
            "flash_attn": self.flash_attn,
            "type_k": self.kv_type,
            "type_v": self.kv_type,
            "logits_all": True,
        }


def decode(llm: Any, scenario: Scenario) -> Logits:
    """Bits of all logits: an array of (tokens, vocabulary)."""
    vocabulary = llm.n_vocab()
    for number, length in enumerate(scenario.prompts):
        llm.eval([3 + (7 * at + 31 * number) % (vocabulary - 3) for at in range(length)])
    for _ in range(scenario.steps):
        llm.eval([int(np.argmax(llm.scores[llm.n_tokens - 1]))])
    bits: Logits = llm.scores[: llm.n_tokens].copy().view(np.uint32)
    return bits


def decode_all(
    open_model: Callable[[dict[str, Any]], Any], scenarios: Sequence[Scenario]
) -> list[Logits]:
    results = []
    for scenario in scenarios:
        llm = open_model(scenario.options())
        results.append(decode(llm, scenario))
        llm.close()
    return results


def decode_plainly(
    path: Path, scenarios: Sequence[Scenario], folder: Path, *, repack: bool = False
) -> list[Logits]:
    """What llama.cpp gives, from a process of its own: stock with `repack`, else plain."""
    out = folder / f"{path.stem}-{repack}.npz"
    asked = json.dumps([asdict(scenario) for scenario in scenarios])
    command = [sys.executable, __file__, str(path), asked, str(out), "stock" if repack else "plain"]
    subprocess.run(command, check=True, timeout=600)
    with np.load(out) as file:
        return [file[str(number)] for number in range(len(scenarios))]


def _main(path: str, asked: str, out: str, kernels: str) -> None:
    scenarios = [
        Scenario(**{**fields, "prompts": tuple(fields["prompts"])}) for fields in json.loads(asked)
    ]
    results = decode_all(
        lambda options: open_plain(path, repack=kernels == "stock", **options), scenarios
    )
    require_plain()
    arrays: dict[str, Any] = {str(number): bits for number, bits in enumerate(results)}
    np.savez(out, **arrays)


if __name__ == "__main__":
    _main(*sys.argv[1:])
