"""What the server is started with follows from the wish, the model and the budget alone."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from support.weights import RATES, costs_of_7b, llama

from flexinfer.errors import BudgetError, RequestError
from flexinfer.gguf.catalogue import Catalogue, read_catalogue
from flexinfer.gguf.estimate import estimate_costs, estimate_weights
from flexinfer.planning.forecast import Forecast
from flexinfer.planning.plan import MIN_UBATCH, Request
from flexinfer.planning.planner import comfortable_room
from flexinfer.planning.rates import Rates
from flexinfer.serve.reserve import Sizes, Wish
from flexinfer.serve.sizing import decide
from flexinfer.synth.write import write_model

MIB = 1 << 20
BUDGET = 1024 * MIB
SEVEN = Forecast(llama(), Request(BUDGET, ctx=512, ubatch=32), costs_of_7b, RATES)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    path = tmp_path_factory.mktemp("sizing") / "model.gguf"
    write_model("tiny-llama", path, "q4_0")
    return read_catalogue(path)


def sized(catalogue: Catalogue, **wishes: Any) -> Sizes:
    weights = estimate_weights(catalogue, 2)
    request = Request(budget=BUDGET, ctx=512, ubatch=1)
    costs = estimate_costs(catalogue, (1, 1))
    return decided(catalogue, Forecast(weights, request, costs, Rates(1e9, 0.01, "given")), wishes)


def decided(catalogue: Catalogue, forecast: Forecast, wishes: dict[str, Any]) -> Sizes:
    wish = replace(Wish(budget=BUDGET, slots=1, ctx=None, ubatch=None), **wishes)
    request = replace(forecast.request, budget=wish.budget)
    return decide(wish, catalogue, replace(forecast, request=request))


def test_with_room_nothing_gives_way(catalogue: Catalogue) -> None:
    sizes = sized(catalogue)
    assert (sizes.slots, sizes.ctx, sizes.ubatch, sizes.said) == (1, 4096, 512, ())
    assert sizes.cache_mib > 0
    assert sizes.checkpoints == 0


def sized_7b(catalogue: Catalogue, **wishes: Any) -> Sizes:
    """Of a model of 3.6 GiB, with the vocabulary of `catalogue`."""
    return decided(catalogue, SEVEN, {"budget": 2048 * MIB, "ctx": 512, **wishes})


def streamed(budget: int, sizes: Sizes, ubatch: int) -> int:
    """Bytes of a pass over that model, in contexts of these sizes and batches of `ubatch`."""
    total = sizes.total_ctx
    request = Request(budget, ctx=total, min_ctx=total, ubatch=ubatch, min_ubatch=ubatch)
    return replace(SEVEN, request=request).plan().streamed_bytes


def test_one_slot_streams_little_more_than_a_model_alone(catalogue: Catalogue) -> None:
    budget = 2048 * MIB
    sizes = sized_7b(catalogue)
    alone = streamed(budget, sizes, 32)
    assert alone > 1024 * MIB
    assert streamed(budget - sizes.reserve, sizes, sizes.ubatch) < 1.03 * alone
    assert (sizes.ubatch, sizes.cache_mib) == (128, 0)
    assert [line.partition(":")[0] for line in sizes.said] == [
        "128 tokens of a prompt a pass instead of 512",
        "no prompt cache",
    ]


def test_what_is_asked_for_displaces_weights(catalogue: Catalogue) -> None:
    least = sized_7b(catalogue)
    sizes = sized_7b(catalogue, ubatch=512, cache_mib=300)
    assert (sizes.ubatch, sizes.cache_mib, sizes.said) == (512, 300, ())
    assert sizes.reserve == least.reserve + 300 * MIB


def test_texts_whose_vectors_are_wanted_are_one_batch_each(catalogue: Catalogue) -> None:
    assert sized_7b(catalogue, vectors=True).ubatch == 512


def test_several_slots_have_wider_batches(catalogue: Catalogue) -> None:
    one, four = (sized_7b(catalogue, slots=slots, ctx=512 // slots) for slots in (1, 4))
    assert MIN_UBATCH < one.ubatch < four.ubatch < 512


def test_what_no_weight_needs_goes_to_batches_caches_and_texts(catalogue: Catalogue) -> None:
    budget = 6144 * MIB
    sizes = sized_7b(catalogue, budget=budget)
    assert (sizes.ubatch, sizes.cache_mib, sizes.said) == (512, budget // 16 // MIB, ())
    assert sizes.requests == budget // 32


def test_the_window_does_not_shrink_for_batches(catalogue: Catalogue) -> None:
    least = sized_7b(catalogue, budget=500 * MIB)
    forecast = replace(SEVEN, request=Request(500 * MIB - least.reserve, 512, 32))
    assert forecast.plan().room < comfortable_room(SEVEN.weights)
    assert least.ubatch == MIN_UBATCH


def test_a_pool_holds_what_all_slots_may_fill(catalogue: Catalogue) -> None:
    sizes = sized(catalogue, slots=16, ctx=300)
    assert sizes.total_ctx == 16 * 300


def test_a_pass_holds_all_slots_with_their_drafts(catalogue: Catalogue) -> None:
    assert sized(catalogue, slots=16, ctx=256, drafts=64, ubatch=1040).ubatch == 1040
    with pytest.raises(RequestError, match=r"--ubatch 512 is too small for --slots 16; give 1040"):
        sized(catalogue, slots=16, drafts=64, ubatch=512)


def test_a_context_beyond_the_trained_one_is_said(catalogue: Catalogue) -> None:
    sizes = sized(catalogue, ctx=100_000)
    assert sizes.ctx == 4096
    assert sizes.said == ("context 4096 a slot as the model was trained, not 100000",)


def test_the_context_gives_way_where_none_was_asked(catalogue: Catalogue) -> None:
    sizes = sized(catalogue, slots=64, budget=300 * MIB)
    assert sizes.ctx == 512
    assert any("context 512 a slot instead of 4096" in line for line in sizes.said)


def test_other_files_and_caches_are_reserved(catalogue: Catalogue) -> None:
    least = sized(catalogue).reserve
    assert sized(catalogue, lora=7 * MIB).reserve == least + 7 * MIB
    assert sized(catalogue, draft=9 * MIB).reserve == least + 9 * MIB
    assert sized(catalogue, projector=30 * MIB).reserve >= least + 30 * MIB
    assert least > 4 * sized(catalogue).body


def test_what_does_not_fit_is_refused_with_the_arithmetic(catalogue: Catalogue) -> None:
    with pytest.raises(BudgetError, match=r"1 slot of 2048 tokens: .* the server's own") as error:
        sized(catalogue, ctx=2048, budget=64 * MIB)
    sizes = re.findall(r"(?:process|own|cache|buffers|margin) ([0-9.]+) MiB", str(error.value))
    assert len(sizes) == 5
    assert abs(sum(map(float, sizes)) - smallest(error.value)) < 2


def smallest(error: BudgetError) -> int:
    found = re.search(r"the smallest that would do is (\d+) MiB", str(error))
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize(
    "wishes",
    [
        {"ctx": 2048},
        {"slots": 8, "ctx": 1024},
        {"slots": 16, "drafts": 4, "ctx": 512},
        {"projector": 300 * MIB, "ctx": 512},
        {"lora": 90 * MIB, "draft": 40 * MIB},
        {},
    ],
)
def test_the_smallest_budget_that_is_named_is_the_smallest(
    catalogue: Catalogue, wishes: dict[str, Any]
) -> None:
    with pytest.raises(BudgetError) as error:
        sized(catalogue, **wishes, budget=48 * MIB)
    least = smallest(error.value)
    assert sized(catalogue, **wishes, budget=least * MIB).reserve < least * MIB
    # The model's part and the server's are each rounded up to whole MiB.
    with pytest.raises(BudgetError, match=f"the smallest that would do is {least} MiB"):
        sized(catalogue, **wishes, budget=(least - 2) * MIB)


def test_beside_a_projector_texts_and_images_have_shares_of_their_own(
    catalogue: Catalogue,
) -> None:
    alone, beside = sized(catalogue), sized(catalogue, projector=MIB)
    assert (alone.texts, alone.pixels) == (0, 0)
    assert beside.texts == alone.requests
    assert beside.pixels == 64 * MIB
    assert beside.reserve - alone.reserve > beside.requests + beside.pixels
    assert sized(catalogue, projector=MIB, budget=4096 * MIB).pixels == 256 * MIB


@pytest.mark.parametrize(
    ("key", "share"), [("attention.sliding_window", 64), ("ssm.state_size", 16)]
)
def test_checkpoints_are_kept_and_charged_where_they_help(
    catalogue: Catalogue, key: str, share: int
) -> None:
    metadata = {**catalogue.metadata, f"{catalogue.architecture}.{key}": share}
    model = replace(catalogue, metadata=metadata)
    assert sized(model).checkpoints == 8
    assert sized(model).reserve > sized(catalogue).reserve
    assert sized(model, checkpoints=0).said == (
        "no checkpoints: a conversation that goes on otherwise is computed from its start",
    )


def test_one_checkpoint_is_kept_before_weights_and_more_only_beside_them(
    catalogue: Catalogue,
) -> None:
    metadata = {**catalogue.metadata, f"{catalogue.architecture}.attention.sliding_window": 16}
    model = replace(catalogue, metadata=metadata)
    one = sized_7b(model)
    assert one.checkpoints == 1
    assert one.reserve > sized_7b(catalogue).reserve
    assert sized_7b(model, checkpoints=3).reserve - one.reserve == 2 * (
        one.reserve - sized_7b(catalogue).reserve
    )
    assert sized_7b(model, budget=6144 * MIB).checkpoints == 8
