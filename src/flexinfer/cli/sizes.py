"""What `run` and `chat` ask for: context and batches in tokens, unless they are told."""

from __future__ import annotations

from flexinfer.errors import RequestError
from flexinfer.foretell import Arguments, Sizes
from flexinfer.gguf.catalogue import Catalogue
from flexinfer.gguf.estimate import estimate_costs
from flexinfer.machine.machine import Machine
from flexinfer.planning.plan import LEAST_CONTEXT, MIN_UBATCH

# Of an answer, so much is to have room whatever the budget.
_RUN_ANSWER = 128
_RUN_STEP = 256
# llama.cpp counts tokens of a context in 32 bits.
_MOST_CONTEXT = (2**31 - 1) // _RUN_STEP * _RUN_STEP
_RUN_UBATCH = 512
_CHAT_CONTEXT = 4096
_CHAT_UBATCH = 128


def run_sizes(prompt: int, tokens: int, ctx: int | None = None, ubatch: int | None = None) -> Sizes:
    """What `run` asks for, by the tokens of its prompt and answer, unless it is told.

    A batch is a power of two that holds the prompt: larger would only cost compute buffers. The
    context always holds the prompt and the beginning of an answer.

    Raises:
        RequestError: the prompt does not fit the context.
    """
    if ctx is not None and prompt >= ctx:
        raise RequestError(
            f"the prompt has {prompt} tokens but the context only {ctx}; "
            f"give --ctx {prompt + tokens} or a shorter prompt"
        )
    holding = max(1 << (prompt - 1).bit_length(), MIN_UBATCH)
    batch = ubatch or min(holding, _RUN_UBATCH)
    return Sizes(
        n_ctx=ctx or min(-(-(prompt + tokens) // _RUN_STEP) * _RUN_STEP, _MOST_CONTEXT),
        n_batch=max(batch, min(prompt, _RUN_UBATCH)),
        n_ubatch=batch,
        min_ctx=max(prompt + min(tokens, _RUN_ANSWER), LEAST_CONTEXT),
    )


def chat_sizes(
    catalogue: Catalogue, arguments: Arguments, ctx: int | None = None, ubatch: int | None = None
) -> Sizes:
    """What `chat` asks for, unless it is told.

    The model's own context, at most 4096, halved until its cache fits half of the budget.
    """
    batch = ubatch or _CHAT_UBATCH
    return Sizes(ctx or _chat_context(catalogue, arguments), max(batch, _CHAT_UBATCH), batch)


def _chat_context(catalogue: Catalogue, arguments: Arguments) -> int:
    trained = catalogue.parameter("context_length", _CHAT_CONTEXT)
    context = min(_CHAT_CONTEXT, trained if isinstance(trained, int) else _CHAT_CONTEXT)
    costs = estimate_costs(catalogue, arguments.kv_types)
    budget = arguments.budget(Machine.detect())
    while context > LEAST_CONTEXT and costs(context, _CHAT_UBATCH).kv > budget // 2:
        context //= 2
    return context
