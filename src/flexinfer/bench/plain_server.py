"""llama-server as llama.cpp means it: the compiled server over the binding's own functions.

    python -m flexinfer.bench.plain_server ARGUMENTS

prints its address as one line of JSON once it serves. Needs a process of its own: nothing of ours
is registered with ggml in it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as binding

from flexinfer.serve.library import ServerLibrary, own_tokenize

_UNBOUNDED = {
    "body_bytes": 100 << 20,
    "receive_bytes": 1 << 40,
    "images": 0,
    "request_bytes": 1 << 40,
    "threads": 64,
    "probability_bytes": 1 << 40,
    "context": 1 << 20,
    # Of none of them the drafts are looked at.
    "slots": 0,
    "late_drafts": 0,
}


class Plain:
    """Answers the server with llama.cpp's own functions."""

    def __init__(self) -> None:
        self._tokenize = own_tokenize()

    def load(self, path: str, params: Any) -> int | None:
        return int(binding.llama_model_load_from_file(path.encode(), params))

    def create(self, model: int, params: Any) -> int | None:
        return int(binding.llama_init_from_model(model, params))

    def free(self, model: int) -> None:
        binding.llama_model_free(model)

    def process(self, context: int, kind: int, batch: int) -> int:
        return int(binding.llama_process(context, kind, batch))

    def tokenize(self, vocabulary: int, text: int, length: int, *rest: int) -> int:
        return int(self._tokenize(vocabulary, text, length, *rest))

    def stack_for(self, text: int, length: int) -> int:
        return 0

    def failed(self, status: int) -> str:
        return f"status {status}"

    def draft_length(self, slots: int, drafted: int, microseconds: int) -> int:
        return drafted

    def verified(self, drafted: int, accepted: int) -> None:
        """Nobody counts."""

    def ready(self, port: int) -> bool:
        sys.stdout.write(json.dumps({"address": f"http://127.0.0.1:{port}"}) + "\n")
        sys.stdout.flush()
        return True

    def answer(self, route: str, body: str) -> tuple[int, str, str]:
        return 200, "text/plain", ""


def serve(arguments: Sequence[str]) -> int:
    """Serve with llama-server's own arguments; what it would exit with."""
    library = ServerLibrary()
    library.connect(Plain(), (), _UNBOUNDED)
    return library.run(arguments)


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:]))
