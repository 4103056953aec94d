"""What is told of the server itself, beside the plan of its model."""

from __future__ import annotations

from typing import Any

from flexinfer.gguf.catalogue import Catalogue
from flexinfer.serve.arguments import Extra
from flexinfer.serve.reserve import Sizes
from flexinfer.serve.settings import Settings

_TEMPLATES = {"--chat-template", "--chat-template-file"}
_RANKS = {"--rerank", "--reranking"}


def about(settings: Settings, sizes: Sizes, catalogue: Catalogue) -> dict[str, Any]:
    """Name of the model, slots and what gave way for them, and what it answers with."""
    return {
        "model": settings.alias or catalogue.name,
        "slots": sizes.slots,
        "slot_ctx": sizes.ctx,
        "answers": _answers(settings.embeddings, settings.flags, catalogue),
        "said": list(sizes.said),
    }


def gives_vectors(embeddings: bool, flags: Extra) -> bool:
    """Whether texts are answered by their vectors, or ranks that are made of them."""
    return embeddings or bool(_RANKS & set(flags.flags))


def _answers(embeddings: bool, flags: Extra, catalogue: Catalogue) -> str:
    """ "chat", "text" where the model has no chat template, "vectors" where it gives no text."""
    given = set(flags.flags)
    if gives_vectors(embeddings, flags):
        return "vectors"
    own = any(key.startswith("tokenizer.chat_template") for key in catalogue.metadata)
    return "chat" if own or given & _TEMPLATES else "text"
