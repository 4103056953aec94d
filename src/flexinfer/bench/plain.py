"""Plain llama.cpp in a process of its own, all weights in memory: what streamed runs must equal.

`python -m flexinfer.bench.plain` takes one request as JSON on standard input and answers
with token ids. A process of its own, because one that has our device could not tell what it had
changed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from flexinfer.errors import EngineError
from flexinfer.own_python import own_module


def plain_tokens(
    path: str, prompt: Sequence[int], count: int, options: dict[str, Any], sampling: dict[str, Any]
) -> list[int]:
    """Tokens that plain llama.cpp generates after `prompt`; at most `count`.

    Args:
        options: keyword arguments of `llama_cpp.Llama`.
        sampling: keyword arguments of its `generate`.

    Raises:
        EngineError: the process failed; the message has the end of what it said.
    """
    request = {
        "path": path,
        "prompt": list(prompt),
        "count": count,
        "options": options,
        "sampling": sampling,
    }
    done = subprocess.run(
        own_module("flexinfer.bench.plain"),
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise EngineError(f"plain llama.cpp failed on {path}: {done.stderr.strip()[-400:]}")
    return [int(token) for token in json.loads(done.stdout)]


def open_plain(path: str, *, repack: bool = False, **options: Any) -> Any:
    """llama-cpp-python's own class, with all weights in memory.

    With `repack` it is stock llama.cpp, the reference of packed weights; else llama.cpp with
    ``--no-repack``, that of plain ones. Only for a process that has no other models: every later
    one loads without repacking too.
    """
    import llama_cpp.llama_cpp as binding
    from llama_cpp import Llama

    if repack:
        return Llama(path, verbose=False, **options)
    load = binding.llama_model_load_from_file

    def load_plain(name: bytes, params: Any) -> Any:
        # Repacked weights are computed by other kernels, whose sums differ in the last bits, and
        # they are a second copy in memory.
        params.use_extra_bufts = False
        return load(name, params)

    binding.llama_model_load_from_file = load_plain
    return Llama(path, verbose=False, **options)


def _answer(request: dict[str, Any]) -> list[int]:
    import llama_cpp
    import llama_cpp.llama_cpp as binding

    from flexinfer.binding.check_batches import answer_start
    from flexinfer.binding.private import encode
    from flexinfer.chat.answering import Answer

    llm = open_plain(request["path"], **request["options"])
    # The constructor takes a seed of 0 for none.
    llm.set_seed(request["options"].get("seed", llama_cpp.LLAMA_DEFAULT_SEED))
    prompt = request["prompt"]
    if binding.llama_model_has_encoder(llm.model):
        encode(llm, prompt)
        prompt = [answer_start(llm.model)]
    answer = Answer(llm, prompt, request["count"], **request["sampling"])
    for _ in answer:
        pass
    return answer.tokens


if __name__ == "__main__":
    json.dump(_answer(json.load(sys.stdin)), sys.stdout)
