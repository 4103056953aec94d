"""`Llama.memory_use`: the bytes of one model, by the purposes that its plan and picture have."""

from __future__ import annotations

import gc
import weakref
from typing import Any

from support.tiny_model import TinyModel

from flexinfer import Llama
from flexinfer.show.grid import memory_parts

_OPTIONS: dict[str, Any] = {"n_batch": 64, "n_threads": 1, "verbose": False}


def test_another_open_model_is_not_counted(tiny_model: TinyModel) -> None:
    path = str(tiny_model("tiny-llama"))
    with Llama(path, weight_memory="1MiB", n_ctx=256, **_OPTIONS) as one:
        one.eval([5, 6, 7])
        alone = one.memory_use()
        assert min(alone[part] for part in ("locked", "window", "kv", "compute", "overhead")) > 0
        with Llama(path, weight_memory="2MiB", n_ctx=1024, **_OPTIONS) as two:
            two.eval([5, 6, 7])
            one.eval([8])
            assert one.memory_use() == alone
            assert two.memory_use()["kv"] > 2 * alone["kv"]
            # Whose buffers they are does not depend on which model was used last.
            assert two.memory_use()["compute"] < 2 * alone["compute"]
        assert one.memory_use() == alone


def test_buffers_that_grow_while_computing_are_the_models_own(tiny_model: TinyModel) -> None:
    path = str(tiny_model("tiny-llama"))
    # Logits are handed out at the first batch of such a size, not when the context is made.
    options = _OPTIONS | {"n_ctx": 512, "logits_all": True}
    with (
        Llama(path, weight_memory="1MiB", **options) as one,
        Llama(path, weight_memory="1MiB", **options) as two,
    ):
        before = two.memory_use()
        kv = one.memory_use()["kv"]
        one.eval(list(range(5, 5 + 64)))
        assert one.memory_use()["kv"] > kv
        assert two.memory_use() == before


def test_a_model_that_is_forgotten_is_freed_at_once(tiny_model: TinyModel) -> None:
    """Whose a buffer is does not keep the model."""
    llm = Llama(str(tiny_model("tiny-llama")), weight_memory="1MiB", n_ctx=256, **_OPTIONS)
    llm.eval([5, 6, 7])
    gone = weakref.ref(llm)
    gc.disable()
    try:
        del llm
        assert gone() is None
    finally:
        gc.enable()


def test_the_experts_window_is_window(tiny_model: TinyModel) -> None:
    with Llama(str(tiny_model("tiny-moe")), weight_memory="2MiB", n_ctx=256, **_OPTIONS) as llm:
        assert llm.plan.expert_window > 0
        used, drawn = llm.memory_use(), memory_parts(llm.plan)
    assert (used["locked"], used["window"]) == (drawn["locked"], drawn["window"])
