"""The calls of `llama_cpp.Llama` that streamed and plain models must answer alike.

As a program it asks llama.cpp: `python tests/support/api_calls.py MODEL KERNELS` prints all answers
as JSON, of stock llama.cpp where the kernels are `packed`, else of one that does not repack.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

OPTIONS: dict[str, Any] = {
    "n_ctx": 256,
    "n_batch": 64,
    "n_ubatch": 64,
    "n_threads": 2,
    "n_threads_batch": 2,
    "seed": 5,
    "verbose": False,
}
_GREEDY: dict[str, Any] = {"max_tokens": 8, "temperature": 0.0}
_MESSAGES = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "one two three"},
]
_GRAMMAR = 'root ::= ("yes" | "no") " " [0-9] [0-9]'
_SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer"}, "good": {"type": "boolean"}},
    "required": ["age", "good"],
}
_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"sunny": {"type": "boolean"}},
            "required": ["sunny"],
        },
    },
}


@dataclass(frozen=True)
class Call:
    """A question to a model that was opened with `options` added to `OPTIONS`."""

    ask: Callable[[Any], Any]
    options: dict[str, Any] = field(default_factory=dict)


def _choice(answer: Any) -> Any:
    return answer["choices"][0]


def _completion(llm: Any) -> Any:
    answer = llm.create_completion("one two", **_GREEDY)
    return _choice(answer), answer["usage"]


def _sampled(llm: Any) -> Any:
    return _choice(llm("one two", max_tokens=12, temperature=0.9, top_p=0.9, repeat_penalty=1.1))


def _streamed(llm: Any) -> Any:
    return [_choice(part) for part in llm("one two", stream=True, **_GREEDY)]


def _stopped(llm: Any) -> Any:
    text = _choice(llm("one two", **_GREEDY))["text"]
    return _choice(llm("one two", stop=[text[3:5]], **_GREEDY))


def _chat(llm: Any) -> Any:
    return _choice(llm.create_chat_completion(_MESSAGES, **_GREEDY))


def _chat_streamed(llm: Any) -> Any:
    parts = llm.create_chat_completion(_MESSAGES, stream=True, **_GREEDY)
    return [_choice(part)["delta"] for part in parts]


def _tools(llm: Any) -> Any:
    answer = llm.create_chat_completion(
        _MESSAGES,
        tools=[_TOOL],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        **_GREEDY,
    )
    call = _choice(answer)["message"]["tool_calls"][0]
    return call["function"]


def _tools_streamed(llm: Any) -> Any:
    choice = {"type": "function", "function": {"name": "weather"}}
    parts = llm.create_chat_completion(
        _MESSAGES, tools=[_TOOL], tool_choice=choice, stream=True, **_GREEDY
    )
    calls = [_choice(part)["delta"].get("tool_calls") for part in parts]
    return [call[0]["function"] for call in calls if call]


def _json_schema(llm: Any) -> Any:
    form = {"type": "json_object", "schema": _SCHEMA}
    options = {**_GREEDY, "max_tokens": 40}
    answer = llm.create_chat_completion(_MESSAGES, response_format=form, **options)
    return _choice(answer)["message"]["content"]


def _grammar(llm: Any) -> Any:
    from llama_cpp import LlamaGrammar

    grammar = LlamaGrammar.from_string(_GRAMMAR, verbose=False)
    return _choice(llm("one two", grammar=grammar, **_GREEDY))["text"]


def _logprobs(llm: Any) -> Any:
    return _choice(llm("one two", logprobs=3, echo=True, **_GREEDY))["logprobs"]


def _chat_logprobs(llm: Any) -> Any:
    answer = llm.create_chat_completion(_MESSAGES, logprobs=True, top_logprobs=2, **_GREEDY)
    return _choice(answer)["logprobs"]


def _embedding(llm: Any) -> Any:
    return llm.embed("one two three", normalize=True)


def _embeddings(llm: Any) -> Any:
    answer = llm.create_embedding(["one", "two three"])
    return [entry["embedding"] for entry in answer["data"]]


def _infill(llm: Any) -> Any:
    return _choice(llm.create_completion("one two", suffix=" five six", **_GREEDY))


def _infill_streamed(llm: Any) -> Any:
    parts = llm.create_completion("one two", suffix=" five six", stream=True, **_GREEDY)
    return [_choice(part) for part in parts]


def _tokens(llm: Any) -> Any:
    ids = llm.tokenize(b"one <s> two", special=True)
    return ids, llm.detokenize(ids).decode("utf-8", "replace"), llm.token_bos(), llm.token_eos()


def _eval_and_sample(llm: Any) -> Any:
    llm.eval(llm.tokenize(b"one two"))
    first = llm.sample(temp=0.0)
    llm.eval([first])
    return int(first), int(llm.sample(temp=0.0)), [float(x) for x in llm.eval_logits[-1][:50]]


def _state(llm: Any) -> Any:
    llm.eval(llm.tokenize(b"one two"))
    state = llm.save_state()
    before = _some(llm)
    llm.reset()
    llm.load_state(state)
    digest = hashlib.sha256(state.llama_state).hexdigest()
    return before, _some(llm), state.n_tokens, state.llama_state_size, digest


def _some(llm: Any) -> list[int]:
    return [int(token) for token in islice(llm.generate([5], reset=False, temp=0.0), 6)]


def _cached(llm: Any) -> Any:
    from llama_cpp import LlamaRAMCache

    llm.set_cache(LlamaRAMCache(64 << 20))
    first = _choice(llm("one two", **_GREEDY))
    second = _choice(llm("one two three", **_GREEDY))
    llm.set_cache(None)
    return first, second


def _processors(llm: Any) -> Any:
    from llama_cpp import LogitsProcessorList, StoppingCriteriaList

    def even(ids: Any, scores: Any) -> Any:
        scores[1::2] = -1e9
        return scores

    return _choice(
        llm(
            "one two",
            logits_processor=LogitsProcessorList([even]),
            stopping_criteria=StoppingCriteriaList([lambda ids, scores: len(ids) > 9]),
            **_GREEDY,
        )
    )


def _bias(llm: Any) -> Any:
    return _choice(llm("one two", logit_bias={300: 1000.0}, **_GREEDY))["text"]


def _drafted(llm: Any) -> Any:
    return _choice(llm("one two one two one two", max_tokens=24, temperature=0.0))["text"]


def _draft() -> Any:
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

    return LlamaPromptLookupDecoding(num_pred_tokens=4)


def _adapter() -> str:
    return str(write_adapter(Path(tempfile.mkdtemp()) / "adapter.gguf"))


def write_adapter(path: Path, strength: float = 8.0, rank: int = 4, seed: int = 1) -> Path:
    """Write a LoRA adapter for two matrices of a model of width 256."""
    import numpy as np
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", strength)
    random = np.random.default_rng(seed)
    for name in ("blk.0.attn_q.weight", "blk.2.attn_output.weight"):
        for part, shape in (("lora_a", (rank, 256)), ("lora_b", (256, rank))):
            writer.add_tensor(f"{name}.{part}", random.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


CALLS: dict[str, Call] = {
    "completion": Call(_completion),
    "sampled": Call(_sampled),
    "streamed": Call(_streamed),
    "stop": Call(_stopped),
    "chat": Call(_chat),
    "chat streamed": Call(_chat_streamed),
    "chat in another format": Call(_chat, {"chat_format": "chatml"}),
    "tools": Call(_tools),
    # Its prompt, which explains the tools, has 559 tokens here.
    "tools streamed": Call(
        _tools_streamed, {"chat_format": "chatml-function-calling", "n_ctx": 1024}
    ),
    "json schema": Call(_json_schema),
    "grammar": Call(_grammar),
    "logprobs": Call(_logprobs, {"logits_all": True}),
    "chat logprobs": Call(_chat_logprobs, {"logits_all": True}),
    "embedding": Call(_embedding, {"embedding": True}),
    "embeddings of several": Call(_embeddings, {"embedding": True}),
    "infill": Call(_infill),
    "infill streamed": Call(_infill_streamed),
    "infill, suffix first": Call(_infill, {"spm_infill": True}),
    "tokens": Call(_tokens),
    "eval and sample": Call(_eval_and_sample, {"logits_all": True}),
    "state": Call(_state),
    "cache": Call(_cached),
    "processors": Call(_processors),
    "bias": Call(_bias),
    "adapter": Call(_completion, {"lora_path": _adapter}),
    "draft": Call(_drafted, {"draft_model": _draft}),
}


def opened(call: Call) -> dict[str, Any]:
    """All options for a call; a callable makes its value anew."""
    return {k: v() if callable(v) else v for k, v in {**OPTIONS, **call.options}.items()}


def _ask_parent(path: str, kernels: str) -> dict[str, Any]:
    import llama_cpp
    import llama_cpp.llama_cpp as binding

    load = binding.llama_model_load_from_file

    def load_plain(name: bytes, params: Any) -> Any:
        params.use_extra_bufts = kernels == "packed"
        return load(name, params)

    binding.llama_model_load_from_file = load_plain
    return {name: call.ask(llama_cpp.Llama(path, **opened(call))) for name, call in CALLS.items()}


if __name__ == "__main__":
    json.dump(_ask_parent(*sys.argv[1:]), sys.stdout, default=float)
