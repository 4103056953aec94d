"""`flexinfer.Llama` beside its parent, call by call: a streamed model answers just the same.

The parent runs in a process of its own; both are asked what `api_calls.CALLS` lists.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import api_calls
from support.tiny_model import TinyModel

from flexinfer.errors import FlexInferError, ModelNotFoundError
from flexinfer.native.packing import other_buffer_types, packer
from flexinfer.planning.kernels import Kernels


@pytest.fixture(scope="module", params=Kernels, ids=str)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    """The set that both compute with; the parent is then stock llama.cpp, or does not repack."""
    if request.param is Kernels.PACKED:
        if packer() is None:
            pytest.skip("this processor's ggml has no packed kernels")
        if others := other_buffer_types():
            pytest.skip(f"stock llama.cpp computes in {', '.join(others)} here")
    found: Kernels = request.param
    return found


@pytest.fixture(scope="module")
def model(tiny_model: TinyModel, kernels: Kernels) -> str:
    return str(tiny_model("tiny-llama", "q4_0" if kernels is Kernels.PACKED else "q8_0"))


@pytest.fixture(scope="module")
def plain(model: str, kernels: Kernels) -> dict[str, Any]:
    """Answers of the parent by name of the call."""
    done = subprocess.run(
        [sys.executable, str(Path(api_calls.__file__)), model, kernels.value],
        capture_output=True,
        text=True,
        check=True,
    )
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


@pytest.fixture(scope="module")
def streamed(model: str, kernels: Kernels) -> Iterator[Callable[..., Any]]:
    """Opens our model half in memory; all are closed at the end."""
    from flexinfer import Llama

    opened: list[Llama] = []

    def make(**options: Any) -> Llama:
        repack = kernels is Kernels.PACKED
        # Half of the model, by its type.
        memory = "1500K" if repack else "2500K"
        llm = Llama(model, weight_memory=memory, repack=repack, **{**api_calls.OPTIONS, **options})
        assert llm.plan.streamed_bytes > 0
        opened.append(llm)
        return llm

    yield make
    for llm in opened:
        llm.close()


@pytest.mark.parametrize("name", list(api_calls.CALLS))
def test_a_call_answers_as_the_parents(
    name: str, plain: dict[str, Any], streamed: Callable[..., Any]
) -> None:
    call = api_calls.CALLS[name]
    ours = json.loads(json.dumps(call.ask(streamed(**api_calls.opened(call))), default=float))
    assert ours == plain[name]
    assert ours


def test_the_adapter_has_an_effect(plain: dict[str, Any]) -> None:
    assert plain["adapter"] != plain["completion"]


def test_infill_sees_the_suffix_in_its_place(plain: dict[str, Any]) -> None:
    texts = [plain[name]["text"] for name in ("infill", "infill, suffix first")]
    assert len({*texts, plain["completion"][0]["text"]}) == 3


def test_the_parents_attributes_are_there(streamed: Callable[..., Any], model: str) -> None:
    llm = streamed()
    assert llm.model_path == model
    assert llm.metadata["general.architecture"] == "llama"
    assert (llm.n_vocab(), llm.n_embd()) == (2048, 256)
    assert "streamed per token" in repr(llm)


def test_closing_twice_and_the_context_manager(model: str) -> None:
    from flexinfer import Llama
    from flexinfer.errors import EngineError

    with Llama(model, weight_memory="2500K", **api_calls.OPTIONS) as llm:
        llm("one", max_tokens=1)
        passes = llm.stats.passes
        assert passes >= 1
    llm.close()
    assert "closed" in repr(llm)
    with pytest.raises(EngineError, match="closed"):
        _ = llm.stats


def test_placing_weights_is_refused_by_name(model: str) -> None:
    from flexinfer import Llama
    from flexinfer.errors import UnsupportedError

    for option in ({"split_mode": 2}, {"tensor_split": [1.0]}, {"main_gpu": 1}):
        with pytest.raises(UnsupportedError, match=next(iter(option))):
            Llama(model, **option, verbose=False)


def test_from_pretrained_opens_a_streamed_model(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    from flexinfer import Llama

    class Files:
        def ls(self, repo: str, recursive: bool) -> list[str]:
            return [f"{repo}/tiny-Q8_0.gguf"]

    monkeypatch.setattr(huggingface_hub, "HfFileSystem", Files)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda **asked: model)
    llm = Llama.from_pretrained(
        "someone/tiny", "*Q8_0.gguf", weight_memory="2500K", **api_calls.OPTIONS
    )
    assert isinstance(llm, Llama)
    llm.close()


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"memroy": "1GiB"}, "'memroy'; did you mean memory"),
        ({"memory": "lots"}, "'lots' is not a size"),
        ({"window": "wide"}, "'wide' is not a size"),
        ({"strategy": "none"}, "no strategy 'none'"),
        ({"n_threads": 513}, "n_threads is 513"),
        ({"main_gpu": 3}, "main_gpu=3 places weights"),
    ],
)
def test_from_pretrained_looks_at_arguments_before_it_asks_the_hub(
    monkeypatch: pytest.MonkeyPatch, option: dict[str, Any], says: str
) -> None:
    import huggingface_hub

    from flexinfer import Llama

    monkeypatch.setattr(huggingface_hub, "HfFileSystem", lambda: pytest.fail("it was asked"))
    with pytest.raises((TypeError, FlexInferError), match=says):
        Llama.from_pretrained("someone/tiny", "*Q8_0.gguf", **option)


def test_a_base_of_an_adapter_that_is_missing_is_told(model: str, tmp_path: Path) -> None:
    from flexinfer import Llama

    with pytest.raises(ModelNotFoundError, match=r"base\.gguf"):
        Llama(model, lora_base=str(tmp_path / "base.gguf"), **api_calls.OPTIONS)


def test_langchain_runs_on_a_streamed_model(model: str, streamed: Callable[..., Any]) -> None:
    community = pytest.importorskip("langchain_community.llms")
    ours = streamed()
    # Its validator opens the model by itself; the client is what it calls afterwards.
    chain = community.LlamaCpp.model_construct(
        client=ours, model_path=model, temperature=0.0, max_tokens=6, streaming=False, stop=[]
    )
    expected = ours("one two", max_tokens=6, temperature=0.0)["choices"][0]["text"]
    assert chain.invoke("one two") == expected
    assert "".join(chain.stream("one two")) == expected


def test_outlines_runs_on_a_streamed_model(streamed: Callable[..., Any]) -> None:
    outlines = pytest.importorskip("outlines")
    wrapped = outlines.from_llamacpp(streamed())
    assert isinstance(wrapped("one two", max_tokens=4, temperature=0.0), str)
