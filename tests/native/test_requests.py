"""What a request or a caller brings: refused in one sentence, and the model answers as before."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_cpp import LlamaGrammar, LogitsProcessorList
from support.api_calls import OPTIONS
from support.tiny_model import TinyModel

from flexinfer import Llama
from flexinfer.errors import FlexInferError, ModelFileError, ModelNotFoundError, RequestError

_NAN = float("nan")
_MESSAGES = [{"role": "user", "content": "one two"}]
Ask = Callable[[Any], Any]


@pytest.fixture(scope="module")
def path(tiny_model: TinyModel) -> str:
    return str(tiny_model("tiny-llama", "q4_0"))


@pytest.fixture(scope="module")
def llm(path: str) -> Iterator[Llama]:
    with Llama(path, **OPTIONS, logits_all=True) as llm:
        yield llm


def _complete(**options: Any) -> Ask:
    return lambda llm: llm("one two", **{"max_tokens": 4, "temperature": 0.0, **options})


def _constrained(text: str) -> Ask:
    return _complete(grammar=LlamaGrammar.from_string(text, verbose=False))


def _schema(schema: Any) -> Ask:
    return _constrained(LlamaGrammar.from_json_schema(json.dumps(schema))._grammar)


def _chat(schema: Any) -> Ask:
    form = {"type": "json_object", "schema": schema}
    return lambda llm: llm.create_chat_completion(_MESSAGES, response_format=form, max_tokens=2)


def _tool(schema: Any) -> Ask:
    tool = {"type": "function", "function": {"name": "weather", "parameters": schema}}
    choice = {"type": "function", "function": {"name": "weather"}}
    return lambda llm: llm.create_chat_completion(
        _MESSAGES, tools=[tool], tool_choice=choice, max_tokens=2
    )


def _chosen(choice: Any, tools: Any = None, **options: Any) -> Ask:
    given = {"tools": tools, "tool_choice": choice, "max_tokens": 2, **options}
    return lambda llm: llm.create_chat_completion(_MESSAGES, **given)


def _called(name: Any, **function: Any) -> Any:
    return {"type": "function", "function": {"name": name, **function}}


def _branching(rules: int) -> str:
    """A grammar that begins in two to the power of `rules` ways."""
    lines = [f'r{rule} ::= r{rule + 1} | r{rule + 1} "b"' for rule in range(rules)]
    return "\n".join(["root ::= r0", *lines, f'r{rules} ::= "x"'])


def _nested(depth: int) -> Any:
    return {"properties": {"a": _nested(depth - 1)}} if depth else {}


def _endless() -> Any:
    prompt: list[Any] = []
    prompt.append(prompt)
    return prompt


def _fail(*_: Any) -> Any:
    raise RequestError("the processor gives up")


_REQUESTS: dict[str, tuple[Ask, str]] = {
    "text not closed": (_constrained('root ::= x\nx ::= "a'), "line 2: a text is not closed"),
    "unknown rule": (_constrained("root ::= y"), "line 1: there is no rule named y"),
    "no root": (_constrained('x ::= "a"'), "no rule named root"),
    "left recursion": (_constrained('root ::= "a"\ny ::= y "b"'), "line 2: y begins with itself"),
    "hidden left recursion": (_constrained('root ::= "a"? root'), "begins with itself"),
    "nested": (_constrained("root ::= " + "(" * 99_999), "nested deeper"),
    "half a character in a grammar": (_constrained('root ::=\n"\ud800"'), "line 2: half a"),
    "lines in the mistake": (_constrained('root ::= "a"\n"b\n\nc"'), r"\n\nc"),
    "repeats": (_constrained('root ::= "a"{99999999}'), "repeats more than"),
    "repeats downwards": (_constrained('root ::= "a"{3,1}'), "ends before it begins"),
    "repeats too often": (_constrained('root ::= "a"{9,9}{900}{900}'), "does not read"),
    "begins in many ways": (_constrained(_branching(60)), "line 49: r47 begins in more than"),
    "repeats what may be nothing": (
        _constrained('root ::= (("a"{0,200}){0,200}){0,200}'),
        "line 1: root begins in more than",
    ),
    "zero byte": (_constrained('root ::= "\0"'), "zero byte"),
    "no such token": (_constrained("root ::= <[99999999]>"), "allows none"),
    "no such character": (_schema({"const": "\0"}), "allows none"),
    "endless text": (_chat({"type": "string", "maxLength": 10**8}), "maxLength 100000000"),
    "endless pattern": (_chat({"pattern": "^((a{999}){999}){999}$"}), "pattern"),
    "endless list in a tool": (_tool({"type": "array", "minItems": 10**9}), "minItems"),
    "nested schema": (_chat(_nested(200)), "nested deeper"),
    "empty choice": (_schema({"enum": []}), "the grammar"),
    "no choice": (_chat({"type": "object", "properties": {"a": {"enum": []}}}), "an empty enum"),
    "no choice in a tool": (_tool({"anyOf": []}), "an empty anyOf"),
    "a tool of none": (_chosen(_called("weather")), "there are none; give tools"),
    "a tool that must be": (_chosen("required"), "there are none; give tools"),
    "another tool": (
        _chosen(_called("rain"), [_called("weather", parameters={})]),
        "names 'rain', which is not among weather",
    ),
    "a tool without parameters": (
        _chosen(_called("weather"), [_called("weather")]),
        "whose parameters are None",
    ),
    "no choice of a tool": (_chosen({"type": "function"}, [_called("a")]), "tool_choice is {"),
    "a number for a choice": (_chosen(5, [_called("a")]), "tool_choice is 5"),
    "a tool without a name": (_chosen("auto", [_called(None)]), "a tool is {'name': None}"),
    "tools as a text": (_chosen("auto", "weather"), "tools is 'weather'"),
    "a function of none": (_chosen(None, function_call={"name": "a"}), "there are none; give"),
    "functions": (_chosen(None, functions=["a"]), "functions is ['a']"),
    "form of an answer": (_chosen(None, response_format="json"), "response_format is 'json'"),
    "messages as a text": (lambda llm: llm.create_chat_completion("one"), "messages is 'one'"),
    "a message of nobody": (
        lambda llm: llm.create_chat_completion([{"content": "one"}]),
        "a message is {'content': 'one'}",
    ),
    "grammar as a text": (_complete(grammar="root"), "LlamaGrammar.from_string"),
    "temperature": (_complete(temperature=_NAN), "temperature is nan"),
    "top_p": (_complete(temperature=0.5, top_p=None), "top_p is None"),
    "top_k": (_complete(temperature=0.5, top_k=1.5), "top_k is 1.5"),
    "mirostat": (_complete(mirostat_mode=7), "mirostat_mode is 7"),
    "no mirostat_tau": (_complete(mirostat_tau=None), "mirostat_tau is None"),
    "mirostat_tau": (_complete(mirostat_mode=2, mirostat_tau=_NAN), "mirostat_tau is nan"),
    "penalty": (_complete(repeat_penalty=1e300), "repeat_penalty is 1e"),
    "logprobs": (_complete(logprobs=-1), "logprobs is -1"),
    "bias below": (_complete(logit_bias={-1: 1.0}), "token -1"),
    "bias above": (_complete(logit_bias={10**7: 1.0}), "token 10000000"),
    "bias of nan": (_complete(logit_bias={5: _NAN}), "no number"),
    "stop": (_complete(stop=[None]), "stop is None"),
    "half a character in stop": (_complete(stop=["\ud800"]), "half a character"),
    "half a character": (lambda llm: llm("\ud800"), "half a character"),
    "prompt of bytes": (lambda llm: llm(b"x"), "the prompt is"),
    "prompt of lists": (lambda llm: llm([[1]]), "token 1 is [1]"),
    "prompt within itself": (lambda llm: llm(_endless()), "token 1 is [[...]]"),
    "tokens of bytes": (lambda llm: next(llm.generate(b"x")), "the tokens are b'x'"),
    "tokens of nothing": (lambda llm: next(llm.generate(None)), "the tokens are None"),
    "text for tokens": (lambda llm: llm.eval("one"), "the tokens are 'one'"),
    "a number for tokens": (lambda llm: llm.detokenize(5), "the tokens are 5"),
    "tokens to be checked": (lambda llm: llm.check_prompt([2**40]), "token 1 is 1099511627776"),
    "suffix": (_complete(suffix=0), "suffix is 0"),
    "processor": (_complete(logits_processor=[None]), "give a LogitsProcessorList"),
    "criteria": (_complete(stopping_criteria=[len]), "give a StoppingCriteriaList"),
    "seed": (lambda llm: llm.set_seed(None), "seed is None"),
    "cache": (lambda llm: llm.set_cache("x"), "cache is 'x'"),
    "state": (lambda llm: llm.load_state(b"x"), "the state is b'x'"),
    "index": (lambda llm: [llm.eval([5]), llm.sample(idx="x")], "idx is 'x'"),
    "sampled by hand": (lambda llm: [llm.eval([5]), llm.sample(temp=None)], "temperature is None"),
    "prompt of negatives": (lambda llm: llm([-1]), "token 1 is -1"),
    "prompt above": (lambda llm: llm([2**31]), "the model has tokens 0 to"),
    "empty prompt": (lambda llm: [llm.reset(), next(llm.generate([]))], "the prompt is empty"),
    "eval": (lambda llm: llm.eval([10**8]), "the model has tokens 0 to"),
    "eval too much": (lambda llm: [llm.reset(), llm.eval([5] * 300)], "the context holds 256"),
    "detokenize": (lambda llm: llm.detokenize([10**8]), "the model has tokens 0 to"),
    "tokenize a text": (lambda llm: llm.tokenize("x"), "takes bytes"),
    "sample nothing": (lambda llm: [llm.reset(), llm.sample()], "nothing was computed"),
    "sample elsewhere": (lambda llm: [llm.eval([5]), llm.sample(idx=99)], "no logits"),
    "a processor": (_complete(logits_processor=LogitsProcessorList([_fail])), "gives up"),
    "no logit left": (
        _complete(
            grammar=LlamaGrammar.from_string('root ::= "a"', verbose=False),
            logits_processor=LogitsProcessorList([lambda ids, logits: logits - np.inf]),
        ),
        "allows none",
    ),
}


@pytest.mark.parametrize("name", _REQUESTS)
def test_a_request_is_refused_and_the_next_one_is_answered(llm: Llama, name: str) -> None:
    ask, says = _REQUESTS[name]
    llm.reset()
    expected = _complete()(llm)["choices"]
    with pytest.raises(RequestError) as refused:
        ask(llm)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    llm.reset()
    assert _complete()(llm)["choices"] == expected


def test_a_grammar_that_is_read_in_ever_more_ways_is_given_up(llm: Llama) -> None:
    """Each character doubles what llama.cpp keeps: without an end it would take hours."""
    expected = llm("one", max_tokens=8, temperature=0.0)["choices"]
    text = "root ::= [^0-9] root [1] | [^0-9] root [2]"
    with pytest.raises(RequestError, match=r"takes longer than 10 s; give one whose alternatives"):
        llm(
            "one",
            grammar=LlamaGrammar.from_string(text, verbose=False),
            max_tokens=64,
            temperature=0.0,
        )
    assert llm("one", max_tokens=8, temperature=0.0)["choices"] == expected


def test_a_token_that_a_grammar_allows_and_cannot_follow_is_told(llm: Llama) -> None:
    """A token by its number and one by its characters: llama.cpp throws where both may stand."""
    expected = llm("one two", max_tokens=8, temperature=0.0)["choices"]
    text = 'root ::= . <[5]>? !<[7]> "x"'
    with pytest.raises(RequestError, match="cannot follow the grammar here, runtime_error"):
        _complete(grammar=LlamaGrammar.from_string(text, verbose=False), max_tokens=12)(llm)
    assert llm("one two", max_tokens=8, temperature=0.0)["choices"] == expected


@pytest.mark.parametrize("end", ["temp", "stream"])
def test_a_grammar_that_is_taken_still_holds(llm: Llama, end: str) -> None:
    grammar = LlamaGrammar.from_string('root ::= ("yes" | "no") "!"', verbose=False)
    options: dict[str, Any] = {"temperature": 0.9} if end == "temp" else {"stream": True}
    answer = llm("one", grammar=grammar, max_tokens=20, **options)
    parts = [answer] if end == "temp" else list(answer)
    assert "".join(p["choices"][0]["text"] for p in parts) in ("yes!", "no!")


_ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "KV of int8": ({"type_k": 24}, "type_k=24"),
    "KV that was removed": ({"type_v": 4}, "type_v=4"),
    "KV without flash attention": ({"type_v": 8}, "needs flash_attn=True"),
    "no batch": ({"n_batch": 0}, "n_batch is 0"),
    "negative batch": ({"n_batch": -5}, "n_batch is -5"),
    "negative ubatch": ({"n_ubatch": -1}, "n_ubatch is -1"),
    "negative context": ({"n_ctx": -1}, "n_ctx is -1"),
    "large context": ({"n_ctx": 2**40}, "n_ctx is 1099511627776"),
    "no context": ({"n_ctx": None}, "n_ctx is None"),
    "half a thread": ({"n_threads": 1.5}, "n_threads is 1.5"),
    "all threads there are": ({"n_threads": 2**31 - 1}, "n_threads is"),
    "rope": ({"rope_freq_base": _NAN}, "rope_freq_base is nan"),
    "yarn": ({"yarn_ext_factor": float("inf")}, "yarn_ext_factor is inf"),
    "scale": ({"lora_scale": "x"}, "lora_scale is 'x'"),
    "pooling": ({"embedding": True, "pooling_type": 9}, "pooling_type is 9"),
    "override of nan": (
        {"kv_overrides": {"llama.attention.layer_norm_rms_epsilon": _NAN}},
        "layer_norm_rms_epsilon is nan",
    ),
    "override of a list": ({"kv_overrides": {"a": [1]}}, "kv_overrides: a is [1]"),
    "who drafts": ({"draft_model": "small.gguf"}, "draft_model is 'small.gguf'"),
    "who tokenizes": ({"tokenizer": 5}, "tokenizer is 5"),
    "who chats": ({"chat_handler": "llava"}, "chat_handler is 'llava'"),
    "layers": ({"n_gpu_layers": "all"}, "n_gpu_layers is 'all'"),
    "least context": ({"min_ctx": -1}, "min_ctx is -1"),
    "least context of nan": ({"min_ctx": _NAN}, "min_ctx is nan"),
    "switch": ({"logits_all": "no"}, "logits_all is 'no'"),
    "numbers for a switch": ({"use_mmap": np.array([1, 0])}, "use_mmap is array([1, 0])"),
    "no pooling": ({"pooling_type": None}, "pooling_type is None"),
    "numbers for memory": ({"memory": np.array([1, 2])}, "memory is array([1, 2])"),
    "strategy": ({"strategy": ["flex"]}, "no strategy ['flex']"),
    "KV in a list": ({"type_k": [1]}, "type_k is [1]"),
    "workers": ({"rpc": 5}, "rpc is 5"),
    "mirrors": ({"mirrors": [5]}, "mirrors is 5; give a path"),
    "adapter": ({"lora_path": True}, "lora_path is True; give a path"),
    "format": ({"chat_format": ["x"]}, "chat_format is ['x']; give a text"),
    "overrides": ({"kv_overrides": []}, "kv_overrides is []"),
    "header": ({"catalogue": "x"}, "catalogue is 'x'"),
    "who hears of moves": ({"on_move": 5}, "on_move is 5; give a function"),
    "shares": ({"tensor_split": "half"}, "tensor_split is 'half'"),
    "override by a long name": ({"kv_overrides": {"a" * 300: 1}}, "at most 127 bytes"),
}


@pytest.mark.parametrize("name", _ARGUMENTS)
def test_an_argument_is_refused(path: str, name: str) -> None:
    options, says = _ARGUMENTS[name]
    with pytest.raises(FlexInferError) as refused:
        Llama(path, **{**OPTIONS, **options})
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_argument_that_nobody_has_is_named_with_the_nearest(path: str) -> None:
    with pytest.raises(TypeError, match="'memroy'; did you mean memory"):
        Llama(path, memroy="1GiB")


@pytest.mark.parametrize(
    "copied", [{"n_gpu_layers": 35}, {"use_mlock": True}, {"f16_kv": True}, {"n_threads": -1}]
)
def test_arguments_of_other_peoples_code_do_no_harm(
    path: str, llm: Llama, copied: dict[str, Any]
) -> None:
    llm.reset()
    expected = _complete()(llm)["choices"]
    with Llama(path, **{**OPTIONS, **copied}, logits_all=True) as other:
        assert _complete()(other)["choices"] == expected


def test_values_of_numpy_are_taken(path: str, llm: Llama) -> None:
    llm.reset()
    expected = _complete(seed=3, temperature=0.9)(llm)["choices"]
    same = {"n_batch": np.int32(32), "n_ctx": np.int64(OPTIONS["n_ctx"]), "seed": np.int64(7)}
    switches = {"logits_all": np.bool_(True), "n_gpu_layers": None, "rpc": None, "mirrors": None}
    with Llama(path, **{**OPTIONS, **same, **switches}) as other:
        assert _complete(seed=np.int64(3), temperature=0.9)(other)["choices"] == expected
        assert _complete()(other)["choices"] == _complete()(llm)["choices"]
        with pickle.loads(pickle.dumps(other)) as third:
            assert _complete()(third)["choices"] == _complete()(llm)["choices"]


def test_what_is_sampled_by_hand_follows_its_own_options(llm: Llama) -> None:
    def by_hand() -> int:
        llm.reset()
        llm.eval([5, 6])
        return llm.sample(temp=0.0)

    expected = by_hand()
    only = LlamaGrammar.from_string('root ::= "e" "e"*', verbose=False)
    assert set(llm("one", grammar=only, max_tokens=3)["choices"][0]["text"]) == {"e"}
    assert by_hand() == expected


def test_a_bias_beside_a_processor(llm: Llama) -> None:
    calls: list[int] = []

    def note(tokens: Any, scores: Any) -> Any:
        calls.append(len(tokens))
        return scores

    processors = LogitsProcessorList([note])
    wanted = llm.tokenize(b"two", add_bos=False)[-1]
    options: dict[str, Any] = {"logits_processor": processors, "logit_bias": {wanted: 1000.0}}
    for _ in range(2):
        answer = _complete(**options, max_tokens=2)(llm)["choices"][0]["text"]
        assert answer == llm.detokenize([wanted, wanted]).decode()
    assert len(calls) == 4
    assert processors == [note]


@pytest.mark.parametrize(
    "broken",
    [
        {"llama_state": b"short"},
        {"llama_state": lambda whole: whole[:-1]},
        {"llama_state": None},
        {"llama_state_size": -1},
        {"llama_state_size": "x"},
        {"n_tokens": 100},
        {"n_tokens": -5},
        {"scores": None},
        {"scores": np.zeros(3)},
        {"input_ids": None},
    ],
)
def test_a_state_that_is_broken(llm: Llama, broken: dict[str, Any]) -> None:
    llm.reset()
    expected = _complete()(llm)["choices"]
    state = pickle.loads(pickle.dumps(llm.save_state()))
    for name, value in broken.items():
        setattr(state, name, value(getattr(state, name)) if callable(value) else value)
    with pytest.raises(RequestError, match="the state is another model's"):
        llm.load_state(state)
    assert _complete()(llm)["choices"] == expected


def test_what_is_no_longer_asked_is_not_taken_in_silence(llm: Llama) -> None:
    with pytest.raises(AttributeError, match="assign memory, or open it anew with weight_memory=1"):
        llm.weight_memory = 1


def test_a_batch_beyond_the_context_takes_nothing(path: str, llm: Llama) -> None:
    llm.reset()
    expected = _complete()(llm)["choices"]
    with Llama(path, **{**OPTIONS, "n_batch": 10**8, "n_ubatch": 10**8}) as large:
        assert large.n_batch == large.n_ctx() == large.scores.shape[0]
        assert _complete()(large)["choices"] == expected


def test_a_chat_format_that_nobody_knows(path: str) -> None:
    with (
        Llama(path, **OPTIONS, chat_format="nope") as llm,
        pytest.raises(RequestError, match="chat_format='nope'"),
    ):
        llm.create_chat_completion([{"role": "user", "content": "x"}])


def test_embedding_refuses_what_has_no_vector(path: str) -> None:
    with Llama(path, **OPTIONS, embedding=True) as llm:
        expected = llm.embed("one")
        for wrong in ([], [[99]], "\ud800", None):
            with pytest.raises(RequestError):
                llm.embed(wrong)
        assert llm.embed("one") == expected
    with (
        Llama(path, **OPTIONS, embedding=True, pooling_type=4) as llm,
        pytest.raises(RequestError, match="scores"),
    ):
        llm.embed("one")


def _adapter(folder: Path, **change: Any) -> str:
    """An adapter for a model of width 256, with `change` in what makes it one."""
    from gguf import GGUFWriter

    file = folder / "adapter.gguf"
    writer = GGUFWriter(file, change.get("architecture", "llama"))
    writer.add_type(change.get("type", "adapter"))
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    name, width = change.get("name", "blk.0.attn_q.weight"), change.get("width", 256)
    writer.add_tensor(f"{name}.lora_a", np.ones((4, width), np.float32))
    if change.get("both", True):
        writer.add_tensor(f"{name}.lora_b", np.ones((width, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if change.get("cut"):
        file.write_bytes(file.read_bytes()[:-100])
    return str(file)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"type": "model"}, "is no LoRA adapter"),
        ({"architecture": "gemma"}, "architecture gemma"),
        ({"name": "blk.99.attn_q.weight"}, "which the model does not have"),
        ({"width": 255}, "has the shape"),
        ({"both": False}, "does not take this adapter"),
        ({"cut": True}, "adapter.gguf"),
    ],
)
def test_an_adapter_of_something_else(
    path: str, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    with pytest.raises(ModelFileError) as refused:
        Llama(path, **OPTIONS, lora_path=_adapter(tmp_path, **change))
    assert says in str(refused.value)
    with Llama(path, **OPTIONS, lora_path=_adapter(tmp_path)) as llm:
        assert llm("one", max_tokens=2)["choices"]


def test_an_adapter_that_is_not_there(path: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        Llama(path, **OPTIONS, lora_path=str(tmp_path / "nowhere"))
    with pytest.raises(ModelFileError):
        Llama(path, **OPTIONS, lora_path=path)


def test_a_vocabulary_alone(path: str, llm: Llama) -> None:
    from flexinfer.errors import EngineError

    with Llama(path, vocab_only=True, verbose=False) as alone:
        assert repr(alone).endswith("its vocabulary alone>")
        ids = alone.tokenize(b"one two", special=True)
        assert ids == llm.tokenize(b"one two", special=True)
        assert alone.detokenize(ids) == llm.detokenize(ids)
        assert (alone.n_vocab(), alone.token_eos()) == (llm.n_vocab(), llm.token_eos())
        for use in (alone.n_ctx, lambda: alone("x"), lambda: alone.plan, lambda: alone.eval([1])):
            with pytest.raises(EngineError, match="vocab_only=True"):
                use()
    with pytest.raises(EngineError, match="closed"):
        alone.tokenize(b"one")


def test_a_model_without_a_vocabulary(path: str) -> None:
    overrides = {"tokenizer.ggml.model": "no_vocab"}
    with Llama(path, **OPTIONS, kv_overrides=overrides) as llm:
        for use in (lambda: llm("one"), lambda: llm.tokenize(b"x"), lambda: llm.detokenize([5])):
            with pytest.raises(RequestError, match="no vocabulary"):
                use()
        llm.eval([5, 6])
        assert llm.n_tokens == 2
