"""A model's chat template, compiled and rendered where it cannot take memory or time.

A template is a stranger's program. It runs in a child with little address space that is ended when
it takes too long; nothing but a text comes back. One child serves the process, ends itself when
nobody asks for a while, and is started again when it is needed.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import select
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from llama_cpp import StoppingCriteriaList
from llama_cpp.llama_chat_format import (
    ChatFormatterResponse,
    chat_formatter_to_chat_completion_handler,
)

from flexinfer.awake import POLL_SECONDS, AwakeClock
from flexinfer.errors import RequestError
from flexinfer.own_python import own_python

SECONDS = 5.0
# Beside the 5 seconds, what a start of Python takes on a busy machine.
_START_SECONDS = 25.0
_PROGRAM = "from flexinfer.binding.render import main; main()"


class Child:
    """The process that renders; one at a time asks it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._forked()
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        # Another process's child, and perhaps a lock that nobody will give back.
        self._asking = threading.Lock()
        self._process = None

    def render(self, source: str, values: Mapping[str, Any]) -> str:
        """The text of the template `source` for `values`.

        Raises:
            RequestError: it does not parse, refuses the values, or takes too much.
        """
        try:
            request = base64.b64encode(pickle.dumps((source, dict(values)))) + b"\n"
        except Exception as error:
            raise RequestError(f"a chat template cannot be given this: {error}") from error
        with self._asking:
            answer = self._ask(request)
        if "text" not in answer:
            raise RequestError(f"the model's chat template refuses this: {answer['error']}")
        return answer["text"]

    def close(self) -> None:
        """End the child, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.communicate()

    def _ask(self, request: bytes) -> dict[str, str]:
        try:
            process, allowed = self._running()
            return self._answer(process, request, allowed)
        except OSError:
            # It ended itself meanwhile.
            self.close()
        try:
            process, allowed = self._running()
            return self._answer(process, request, allowed)
        except OSError as error:
            self.close()
            return {"error": f"the process that renders it ended ({error})"}

    def _running(self) -> tuple[subprocess.Popen[bytes], float]:
        if self._process is not None and self._process.poll() is None:
            return self._process, SECONDS
        self.close()
        self._process = subprocess.Popen(
            own_python(_PROGRAM),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Ctrl-C in the terminal is not meant for it.
            start_new_session=True,
        )
        return self._process, SECONDS + _START_SECONDS

    def _answer(
        self, process: subprocess.Popen[bytes], request: bytes, seconds: float
    ) -> dict[str, str]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(request)
        process.stdin.flush()
        clock = AwakeClock()
        line = b""
        while not line.endswith(b"\n"):
            if clock() >= seconds:
                self.close()
                return {"error": f"it takes longer than {SECONDS:.0f} s"}
            if not select.select([process.stdout], [], [], POLL_SECONDS)[0]:
                continue
            part = os.read(process.stdout.fileno(), 1 << 16)
            if not part:
                raise BrokenPipeError("no answer came")
            line += part
        answer = json.loads(line)
        return {str(key): str(value) for key, value in answer.items()}


_child = Child()


def render_elsewhere(source: str, values: Mapping[str, Any]) -> str:
    """The text of the template `source` for `values`, from the one child of this process.

    Raises:
        RequestError: it does not parse, refuses the values, or takes too much.
    """
    return _child.render(source, values)


class ChatTemplate:
    """A formatter of the parent's kind: messages become a prompt.

    Nothing is compiled before it is needed, so a template that is broken only stops who uses it.
    """

    def __init__(
        self,
        template: str,
        eos_token: str,
        bos_token: str,
        add_generation_prompt: bool = True,
        stop_token_ids: Sequence[int] | None = None,
    ) -> None:
        self._source = template
        self._values = {"eos_token": eos_token, "bos_token": bos_token}
        self._answers = add_generation_prompt
        self._stops = None if stop_token_ids is None else frozenset(stop_token_ids)

    def render(self, messages: Any, *, answer: bool, **values: Any) -> str:
        """The prompt of `messages`; with `answer` it ends where the model is to answer.

        Raises:
            RequestError: the template does not parse, refuses them, or takes too much.
        """
        given = {**self._values, **values, "messages": messages, "add_generation_prompt": answer}
        return render_elsewhere(self._source, given)

    def __call__(
        self,
        *,
        messages: Any,
        functions: Any = None,
        function_call: Any = None,
        tools: Any = None,
        tool_choice: Any = None,
        **values: Any,
    ) -> ChatFormatterResponse:
        prompt = self.render(
            messages,
            answer=self._answers,
            functions=functions,
            function_call=function_call,
            tools=tools,
            tool_choice=tool_choice,
            **values,
        )
        return ChatFormatterResponse(
            prompt=prompt,
            stop=[self._values["eos_token"]],
            stopping_criteria=self._criteria(),
            added_special=True,
        )

    def to_chat_handler(self) -> Any:
        """What the parent calls for a chat."""
        return chat_formatter_to_chat_completion_handler(self)

    def _criteria(self) -> StoppingCriteriaList | None:
        stops = self._stops
        if stops is None:
            return None

        def ends(tokens: np.typing.NDArray[np.intc], logits: Any) -> bool:
            return int(tokens[-1]) in stops

        return StoppingCriteriaList([ends])
