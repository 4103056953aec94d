"""An image projector beside a streamed model: same answer as plain llama.cpp, inside the budget."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from llama_cpp.llama_chat_format import MTMDChatHandler
from support.projector import OPTIONS, describe, describe_plainly, handler, write_projector
from support.tiny_model import TinyModel

from flexinfer import Llama
from flexinfer.errors import BudgetError, ModelFileError, RequestError
from flexinfer.machine.machine import process_memory

_WIDTH = 256  # of tiny-llama


def test_an_image_is_described_as_plain_llama_cpp_does(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    """Text and the bits of all logits, the second time from released weights."""
    model = tiny_model("tiny-llama", "q4_0")
    projector = write_projector(tmp_path / "mmproj.gguf", _WIDTH)
    expected = describe_plainly(model, projector)
    chat = handler(projector)
    with Llama(
        str(model), weight_memory="1MiB", chat_handler=chat, verbose=False, **OPTIONS
    ) as llm:
        assert llm.plan.streamed_bytes > 0
        assert describe(llm) == expected
        llm.release()
        assert describe(llm) == expected
        text, logits = expected
        assert (text, describe(llm, seed=8)[1]) != (text, logits)


@pytest.mark.own_process
def test_its_memory_is_charged_and_comes_from_the_weights(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    model = str(tiny_model("tiny-wide", "f16"))
    projector = write_projector(tmp_path / "mmproj.gguf", _WIDTH, feed=20_000)
    size = projector.stat().st_size
    plenty = process_memory() + (300 << 20)
    with Llama(model, memory=plenty, verbose=False, **OPTIONS) as llm:
        base = sum(n for name, n in llm._ledger.accounts.items() if name != "weights")
        weights = llm.plan.held_bytes
    budget = base + weights + size // 2 + (8 << 20)
    chat = handler(projector)
    with Llama(model, memory=budget, chat_handler=chat, verbose=False, **OPTIONS) as llm:
        assert llm._ledger.accounts["projector"] >= size
        assert llm.plan.held_bytes < weights
        assert llm._ledger.used <= budget
        ledger = llm._ledger
        describe(llm)
    assert "projector" not in ledger.accounts
    os.truncate(projector, 8 << 30)
    with pytest.raises(BudgetError, match="projector needs"):
        Llama(model, memory="2GiB", chat_handler=handler(projector), verbose=False, **OPTIONS)
    assert "projector" not in ledger.accounts


_ECHO = "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ 'x' * 9999999999 }}", "512 MiB"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "5 s"),
        ("{{ raise_exception('no images') }}", "no images"),
        ("{% for m in messages %}", "line 1"),
    ],
)
def test_a_handler_renders_the_models_own_template_where_all_are_rendered(
    tiny_model: TinyModel, tmp_path: Path, template: str, why: str
) -> None:
    """The template is a stranger's: it takes neither memory nor time of this process."""
    projector = write_projector(tmp_path / "mmproj.gguf", _WIDTH)
    with Llama(
        str(tiny_model("tiny-llama", "q4_0")),
        weight_memory="1MiB",
        chat_handler=MTMDChatHandler(str(projector), verbose=False),
        verbose=False,
        **OPTIONS,
    ) as llm:
        # As if the file had it.
        llm.metadata["tokenizer.chat_template"] = template
        with pytest.raises(RequestError, match=why):
            describe(llm)
        llm.metadata["tokenizer.chat_template"] = _ECHO
        assert describe(llm) == describe(llm)


@pytest.mark.parametrize("instead", ["nothing", "pipe", "folder", "empty", "part", "model"])
def test_a_projector_that_is_none(tiny_model: TinyModel, tmp_path: Path, instead: str) -> None:
    model = tiny_model("tiny-llama", "q4_0")
    projector = write_projector(tmp_path / "mmproj.gguf", _WIDTH)
    chat, raw = handler(projector), projector.read_bytes()
    projector.unlink()
    if instead == "pipe":
        os.mkfifo(projector)
    elif instead == "folder":
        projector.mkdir()
    elif instead != "nothing":
        other = {"empty": b"", "part": raw[:-999], "model": model.read_bytes()}
        projector.write_bytes(other[instead])
    with pytest.raises(ModelFileError) as refused:
        Llama(str(model), weight_memory="1MiB", chat_handler=chat, verbose=False, **OPTIONS)
    assert str(projector) in str(refused.value)
    assert "\n" not in str(refused.value)
