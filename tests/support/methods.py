"""Every public method and property of `flexinfer.Llama`, with arguments that it takes.

The names come from the class; what is missing here fails the test that goes through them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flexinfer.binding.gate import ALWAYS, public

_MESSAGES = [{"role": "user", "content": "one two"}]
_SHORT: dict[str, Any] = {"max_tokens": 6, "temperature": 0.0}

# How each is used; the second argument is a folder for files.
USES: dict[str, Callable[[Any, Path], Any]] = {
    "__call__": lambda llm, _: llm("one two", **_SHORT),
    "create_completion": lambda llm, _: list(llm.create_completion("one", stream=True, **_SHORT)),
    "create_chat_completion": lambda llm, _: llm.create_chat_completion(_MESSAGES, **_SHORT),
    "create_chat_completion_openai_v1": lambda llm, _: llm.create_chat_completion_openai_v1(
        _MESSAGES, **_SHORT
    ),
    "create_embedding": lambda llm, _: llm.create_embedding("one"),
    "embed": lambda llm, _: llm.embed("one"),
    "generate": lambda llm, _: [t for t, _ in zip(llm.generate([5, 6]), range(6), strict=False)],
    "eval": lambda llm, _: llm.eval([5, 6]),
    "sample": lambda llm, _: llm.sample(),
    "reset": lambda llm, _: llm.reset(),
    "save_state": lambda llm, _: llm.save_state(),
    "load_state": lambda llm, _: llm.load_state(STATE),
    "save_state_file": lambda llm, folder: llm.save_state_file(folder / "written"),
    "load_state_file": lambda llm, folder: llm.load_state_file(folder / "read"),
    "set_cache": lambda llm, _: llm.set_cache(None),
    "set_seed": lambda llm, _: llm.set_seed(5),
    "tokenize": lambda llm, _: llm.tokenize(b"one two"),
    "detokenize": lambda llm, _: llm.detokenize([300, 301]),
    "check_prompt": lambda llm, _: llm.check_prompt([5]),
    "release": lambda llm, _: llm.release(),
    "memory": lambda llm, _: setattr(llm, "memory", "1GiB"),
}
# What needs no arguments: called, where it is a method.
_PLAIN = frozenset(
    {
        *("ctx", "model", "n_ctx", "n_embd", "n_vocab", "pooling_type", "tokenizer"),
        *("token_bos", "token_eos", "token_nl", "eval_tokens", "eval_logits", "encodes_prompts"),
        *("plan", "stats", "drafting", "drives", "experts", "pinned", "read_bytes", "memory_use"),
    }
)
STATE: Any = None


def names() -> Iterator[str]:
    """Every public method and property, but those that are for ending it."""
    from flexinfer import Llama

    return (name for name, _ in public(Llama) if name not in ALWAYS)


def use(llm: Any, name: str, folder: Path) -> Any:
    """Use it; `KeyError` for one that nobody wrote down here."""
    if name in USES:
        return USES[name](llm, folder)
    if name not in _PLAIN:
        raise KeyError(name)
    found = getattr(llm, name)
    return found() if callable(found) else found
