"""Each public method and property of a class, so that it is used in turns or refused.

Generated from the class itself: what a later parent adds takes turns like the rest.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from flexinfer.binding.turns import Request, Turns

T = TypeVar("T")

# What a vocabulary alone has.
VOCABULARY = frozenset(
    {
        *("model", "n_embd", "n_vocab", "token_bos", "token_eos", "token_nl", "tokenizer"),
        *("tokenize", "detokenize"),
    }
)
# What only reads what never changes, or has locks of its own: used beside a request that computes.
BESIDE = VOCABULARY | {
    *("ctx", "n_ctx", "pooling_type", "check_prompt", "eval_tokens", "eval_logits"),
    *(
        "plan",
        "stats",
        "drafting",
        "drives",
        "experts",
        "pinned",
        "read_bytes",
        "memory",
        "memory_use",
        "release",
    ),
}
# What has a context of its own from its first token to its last.
REQUESTS = frozenset(
    {
        *("__call__", "create_completion", "create_chat_completion", "generate", "embed"),
        *("create_chat_completion_openai_v1", "create_embedding"),
    }
)
# What may be called at any time.
ALWAYS = frozenset({"close"})


def public(cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties of a class, its parents' too, by name; as they are defined."""
    for name in dir(cls):
        attribute = inspect.getattr_static(cls, name)
        if name.startswith("_") and name != "__call__":
            continue
        if inspect.isfunction(attribute) or isinstance(attribute, property):
            yield name, attribute


def gated(turns: Callable[[Any], Turns[Any]]) -> Callable[[type[T]], type[T]]:
    """A decorator of a class whose objects have turns; see `Turns`."""

    def decorate(cls: type[T]) -> type[T]:
        for name, attribute in list(public(cls)):
            if name not in ALWAYS:
                setattr(cls, name, _gated(name, attribute, turns))
        return cls

    return decorate


def _gated(name: str, attribute: Any, turns: Callable[[Any], Turns[Any]]) -> Any:
    if name in BESIDE:
        enter = functools.partial(_beside, weights=name not in VOCABULARY)
    else:
        enter = functools.partial(_request if name in REQUESTS else _turn)
    if not isinstance(attribute, property):
        return enter(attribute, turns)
    return property(
        attribute.fget and enter(attribute.fget, turns),
        attribute.fset and enter(attribute.fset, turns),
        attribute.fdel and enter(attribute.fdel, turns),
        attribute.__doc__,
    )


def _beside(
    call: Callable[..., Any], turns: Callable[[Any], Turns[Any]], *, weights: bool
) -> Callable[..., Any]:
    @functools.wraps(call)
    def gated(self: Any, *arguments: Any, **options: Any) -> Any:
        with turns(self).beside(weights=weights):
            return call(self, *arguments, **options)

    return gated


def _turn(call: Callable[..., Any], turns: Callable[[Any], Turns[Any]]) -> Callable[..., Any]:
    @functools.wraps(call)
    def gated(self: Any, *arguments: Any, **options: Any) -> Any:
        with turns(self).turn():
            return call(self, *arguments, **options)

    return gated


def _request(call: Callable[..., Any], turns: Callable[[Any], Turns[Any]]) -> Callable[..., Any]:
    @functools.wraps(call)
    def gated(self: Any, *arguments: Any, **options: Any) -> Any:
        mine = turns(self)
        if mine.is_mine:
            return call(self, *arguments, **options)
        request: Request[Any] = Request()
        try:
            with mine.turn(request):
                result = call(self, *arguments, **options)
        except BaseException:
            # Else the next one would put aside what nobody goes on with.
            mine.over(request)
            raise
        if isinstance(result, Iterator):
            return mine.stream(request, result)
        mine.over(request)
        return result

    return gated
