"""Chat templates of strangers: the parent's text, from a process that cannot take much."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from llama_cpp.llama_chat_format import Jinja2ChatFormatter
from support.api_calls import OPTIONS
from support.tiny_model import TinyModel

from flexinfer import Llama
from flexinfer.binding import chat_template
from flexinfer.binding.chat_template import ChatTemplate
from flexinfer.chat.conversation import Conversation
from flexinfer.errors import RequestError

_MESSAGES = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": 'one "two" <three>'},
]
_TOOLS = [{"type": "function", "function": {"name": "weather"}}]
_TEMPLATES = [
    "{% for m in messages %}{{ m.role }}: {{ m['content'] | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}{{ bos_token }}assistant:{% endif %}",
    "{% for m in messages -%}\n  {% if loop.first %}{% continue %}{% endif %}\n"
    "  {{ m | tojson }}{{ eos_token }}\n{% endfor %}",
    "{%- generation %}{{ tools | tojson(indent=2) }}{% endgeneration %}{{ strftime_now('%Y') }}",
    "{{ functions }}{{ tool_choice }}{{ messages[0].missing }}",
]
_HOSTILE = {
    "{% for m in messages %}": "line 1",
    "{{ messages | nothing }}": "nothing",
    "a\n{% if %}": "line 2",
    "{{ raise_exception('no system message') }}": "no system message",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}": "5 s",
    "{{ 'x' * 9999999999 }}": "512 MiB",
    "{% set n = namespace(t='x') %}{% for i in range(40) %}{% set n.t = n.t ~ n.t %}{% endfor %}"
    "{{ n.t }}": "512 MiB",
    "{{ '%999999999d' % 1 }}": "512 MiB",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "calls itself",
    "{{ ''.__class__.__mro__ }}": "unsafe",
    "{% set a = 9 %}{{ a ** 999999999 }}": "5 s",
    "{{ 'x' * 20000000 }}": "characters",
}


@pytest.mark.parametrize("source", _TEMPLATES)
def test_a_template_says_what_the_parents_says(source: str) -> None:
    given: dict[str, Any] = {"messages": _MESSAGES, "tools": _TOOLS, "tool_choice": "auto"}
    ours = ChatTemplate(source, "</s>", "<s>", stop_token_ids=[2])(**given)
    theirs = Jinja2ChatFormatter(source, "</s>", "<s>", stop_token_ids=[2])(**given)
    assert (ours.prompt, ours.stop, ours.added_special) == (
        theirs.prompt,
        theirs.stop,
        theirs.added_special,
    )
    assert ours.stopping_criteria is not None
    assert theirs.stopping_criteria is not None
    for last in (2, 3):
        assert ours.stopping_criteria([1, last], []) == theirs.stopping_criteria([1, last], [])


@pytest.mark.parametrize("source", _HOSTILE)
def test_a_hostile_template_is_refused_in_one_sentence(source: str) -> None:
    hostile, sound = ChatTemplate(source, "", ""), ChatTemplate("{{ messages }}", "", "")
    with pytest.raises(RequestError) as refused:
        hostile.render(_MESSAGES, answer=True)
    assert _HOSTILE[source] in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600
    assert sound.render("one", answer=True) == "one"


def test_the_child_is_used_again_and_replaced_when_it_is_gone() -> None:
    template = ChatTemplate("{{ messages }}", "", "")
    child = chat_template._child
    assert template.render("one", answer=True) == "one"
    first = child._process
    assert template.render("two", answer=True) == "two"
    assert first is not None
    assert child._process is first
    first.kill()
    first.wait()
    assert template.render("three", answer=True) == "three"
    assert child._process is not first


def test_a_forked_process_has_a_child_of_its_own() -> None:
    template = ChatTemplate("{{ messages }}", "", "")
    assert template.render("one", answer=True) == "one"
    forked = os.fork()
    if not forked:
        found = template.render("two", answer=True)
        chat_template._child.close()
        os._exit(0 if found == "two" else 1)
    assert os.waitpid(forked, 0)[1] == 0
    assert template.render("three", answer=True) == "three"


def test_a_model_with_a_broken_template_answers_what_needs_none(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    sound = tiny_model("tiny-llama", "q4_0")
    with Llama(str(sound), **OPTIONS) as llm:
        template = llm.metadata["tokenizer.chat_template"].encode()
        expected = llm("one", max_tokens=4, temperature=0.0)["choices"]
    broken = tmp_path / "broken.gguf"
    content = sound.read_bytes()
    assert template in content
    broken.write_bytes(content.replace(template, b"{% if %}".ljust(len(template))))
    with Llama(str(broken), **OPTIONS) as llm:
        with pytest.raises(RequestError, match="chat template refuses this"):
            llm.create_chat_completion(_MESSAGES)
        assert llm("one", max_tokens=4, temperature=0.0)["choices"] == expected
        with pytest.raises(RequestError, match="chat template refuses this"):
            next(Conversation(llm).ask("one"))
