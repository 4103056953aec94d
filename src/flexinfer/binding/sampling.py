"""The chain of samplers that chooses each token, as the parent builds it, but none of it can fail.

llama.cpp throws when a token is chosen that a grammar does not allow, asserts where there are no
logits, and Python loses what is raised in a callback. Here each is an error of the request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from flexinfer.binding import private
from flexinfer.binding.check_grammar import check_grammar
from flexinfer.binding.check_request import check_sampling
from flexinfer.binding.grammar_sampler import SECONDS, GrammarSampler, Survive, fields
from flexinfer.errors import RequestError
from flexinfer.kinds import INT32

# How many tokens of the paper's estimate the first version of mirostat looks at.
_MIROSTAT_TOKENS = 100


class Processors(llama_cpp.LogitsProcessorList):  # type: ignore[misc]
    """Processors of the logits of one request; the parent goes on with what `extend` returns."""

    def extend(self, more: Iterable[Callable[..., Any]]) -> Processors:
        """These and `more`: the list itself is the caller's."""
        return Processors([*self, *more])


class Chain(private.Sampler):  # type: ignore[misc]
    """Samplers of one request, applied in the order in which they were added."""

    def __init__(self) -> None:
        self.failure: BaseException | None = None
        self._constraint: GrammarSampler | None = None
        super().__init__()

    def sample(self, ctx: Any, idx: int = -1) -> int:
        """The next token after the one at `idx` of the last batch, counted from its end.

        Raises:
            RequestError: there are no logits, or no token is allowed.
            Exception: what a processor of logits raised.
        """
        if not llama_cpp.llama_get_logits_ith(ctx.ctx, idx):
            raise RequestError(f"there are no logits at {idx}; evaluate a token first")
        self.failure = None
        token = int(super().sample(ctx, idx))
        if self.failure is not None:
            raise self.failure
        return token

    def close(self) -> None:
        """Free all samplers; may be called again."""
        super().close()
        if self._constraint is not None:
            self._constraint.close()

    def add_processors(
        self, processors: Iterable[Callable[..., Any]], tokens: Callable[[], npt.NDArray[np.intc]]
    ) -> None:
        """Let functions of tokens and logits change the logits."""

        def apply(candidates: Any) -> None:
            array = candidates.contents
            logits = fields(array.data, int(array.size))["logit"]
            for process in processors:
                logits[:] = process(tokens(), logits)

        self.add_custom(self._kept(apply))

    def add_grammar_sampler(self, grammar: GrammarSampler) -> None:
        """Choose among what `grammar` allows."""
        self._constraint = grammar
        self.add_custom(self._kept(grammar.apply))
        accept = self._kept(grammar.accept)
        custom = self.custom_samplers[-1][1]
        custom.accept_kept = llama_cpp.llama_sampler_i_accept(lambda _, token: accept(token))
        custom.sampler.iface.contents.accept = custom.accept_kept

    def _kept(self, call: Callable[[Any], None]) -> Callable[[Any], None]:
        """`call`, whose failure is raised after the native call instead of being lost in it."""

        def guarded(given: Any) -> None:
            if self.failure is None:
                try:
                    call(given)
                except BaseException as error:
                    self.failure = error

        return guarded


def chain(
    llm: llama_cpp.Llama,
    options: Mapping[str, Any],
    seed: int,
    survive: Survive,
    known: Callable[[], npt.NDArray[np.intc]],
) -> Chain:
    """The samplers that the parent's options mean, in the parent's order.

    Args:
        known: the tokens before the one that is chosen; more may be computed.

    Raises:
        RequestError: an option that is no number for it, or a grammar that does not parse.
    """
    check_sampling(options)
    made = Chain()
    if options["logits_processor"] is not None:
        made.add_processors(options["logits_processor"], known)
    made.add_penalties(
        n_vocab=llm.n_vocab(),
        # No more tokens are ever remembered.
        penalty_last_n=min(llm.last_n_tokens_size, llm.n_ctx()),
        penalty_repeat=options["repeat_penalty"],
        penalty_freq=options["frequency_penalty"],
        penalty_present=options["presence_penalty"],
    )
    if options["grammar"] is not None:
        grammar = _parse(private.vocabulary(llm), options["grammar"], survive)
        made.add_grammar_sampler(GrammarSampler(grammar, llm.n_vocab(), survive))
    _add_choice(made, options, llm.n_vocab(), seed)
    return made


def _add_choice(made: Chain, options: Mapping[str, Any], tokens: int, seed: int) -> None:
    temperature = options["temp"]
    if temperature < 0.0:
        made.add_dist(seed)
    elif temperature == 0.0:
        made.add_greedy()
    elif options["mirostat_mode"] == 1:
        tau, eta = options["mirostat_tau"], options["mirostat_eta"]
        made.add_mirostat(tokens, seed, tau, eta, _MIROSTAT_TOKENS)
    elif options["mirostat_mode"] == 2:
        made.add_mirostat_v2(seed, options["mirostat_tau"], options["mirostat_eta"])
    else:
        made.add_top_k(max(min(int(options["top_k"]), INT32), -1))
        made.add_typical(options["typical_p"])
        made.add_top_p(options["top_p"])
        made.add_min_p(options["min_p"])
        made.add_temp(temperature)
        made.add_dist(seed)


def _parse(vocabulary: Any, grammar: Any, survive: Survive) -> Any:
    text, root = private.grammar_text(grammar)
    check_grammar(text, root)
    made = survive(
        lambda: llama_cpp.llama_sampler_init_grammar(vocabulary, text.encode(), root.encode()),
        lambda condition: RequestError(
            f"llama.cpp does not read the grammar, {condition}; give another one"
        ),
        seconds=SECONDS,
    )
    if not made:
        raise RequestError(
            "llama.cpp does not read the grammar: it repeats too much, or names tokens that the "
            "model does not have; give another one"
        )
    return made
