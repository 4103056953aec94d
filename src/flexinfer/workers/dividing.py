"""A forecast for this machine alone becomes one for it and the workers: their layers leave it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flexinfer.errors import BudgetError, UnsupportedError, WorkerError
from flexinfer.gguf.catalogue import Catalogue
from flexinfer.planning.forecast import Forecast
from flexinfer.planning.plan import Costs
from flexinfer.planning.planner import margin
from flexinfer.planning.split import Layer, Payload, Place, Split, divide
from flexinfer.planning.weights import Use, Weight
from flexinfer.workers.cards import CardWish, card_shares
from flexinfer.workers.greeting import Worker, greet
from flexinfer.workers.links import link_of, main_type

# llama.cpp joins operations of these only where their layer's device computes them joined.
OTHER_BITS = ("deepseek4", "glm5-next", "qwen4exp")
_OUTPUT = ("output", "cls")
_EMBEDDING = "token_embd.weight"
_F32 = 4
# Batches under way at once, where llama.cpp overlaps them, each with inputs of its own.
_COMPUTE_SHARE = 1.5
_NEVER = float("inf")
# Of a weight that is sent: as it was read, and as a message.
_COPIES = 2


def divided(
    catalogue: Catalogue,
    forecast: Forecast,
    endpoints: Sequence[str],
    wish: CardWish | None = None,
) -> Forecast:
    """`forecast` with layers at workers and on cards; its weights, costs, rates are what stays.

    A worker that does not answer is left out, and the request's split says so.

    Raises:
        UnsupportedError: the model cannot be split.
    """
    if not endpoints and wish is None:
        return forecast
    if any(info.name.startswith("enc.") for info in catalogue.tensors):
        raise UnsupportedError(
            f"{catalogue.paths[0]}: the layers of a model with an encoder stay on one machine; "
            "leave out --rpc and --gpu-layers"
        )
    kind = main_type(catalogue)
    places, silent = [], []
    for endpoint in endpoints:
        try:
            worker = greet(endpoint)
            places.append(_place(worker, catalogue, kind))
        except WorkerError as error:
            silent.append(str(error))
    count = int(catalogue.parameter("block_count", 0))
    layers, payload = _layers(forecast, count), _payload(catalogue, forecast)
    before = card_shares(wish, layers, payload, kind)

    def seconds(split: Split) -> float:
        return _seconds(forecast, split) if _sends(forecast, layers, split) else _NEVER

    split = divide(layers, places, payload, seconds, before)
    notes = (*silent, *split.notes, *_other_bits(catalogue, split))
    return here(forecast, replace(split, notes=notes))


def _sends(forecast: Forecast, layers: Sequence[Layer], split: Split) -> bool:
    """Whether the budget has room for what is sent; nothing stays here yet."""
    request = forecast.request
    if request.weight_memory is not None:
        return True
    away = (layer for at, layer in enumerate(layers) if not split.is_here(at))
    largest = max((layer.largest for layer in away), default=0)
    overhead = forecast.costs(request.ctx, request.min_ubatch).overhead
    return overhead + _COPIES * largest + margin(request.budget) <= request.budget


def _other_bits(catalogue: Catalogue, split: Split) -> tuple[str, ...]:
    if catalogue.architecture not in OTHER_BITS or not split.away_bytes:
        return ()
    return (
        f"llama.cpp may compute {catalogue.architecture} otherwise when its layers are apart: the "
        "answer may have other bits than on one machine",
    )


def _place(worker: Worker, catalogue: Catalogue, kind: object) -> Place:
    link = link_of(worker, kind)  # type: ignore[arg-type]
    return Place(worker.endpoint, worker.free, link.rate, link.link, link.latency)


def here(forecast: Forecast, split: Split) -> Forecast:
    """What of a forecast stays on this machine under a split."""
    weights = [_kept(weight, split) for weight in forecast.weights if _is_here(weight, split)]
    blocks = max(split.layers - 1, 1)
    kept = min(split.here, blocks) / blocks
    total = sum(weight.compute_s for weight in forecast.weights)
    share = sum(weight.compute_s for weight in weights) / total if total else kept

    def costs(ctx: int, ubatch: int) -> Costs:
        whole = forecast.costs(ctx, ubatch)
        return replace(whole, kv=round(whole.kv * kept))

    return Forecast(
        weights,
        replace(forecast.request, split=split),
        costs,
        replace(forecast.rates, compute_s=forecast.rates.compute_s * share),
    )


def _seconds(forecast: Forecast, split: Split) -> float:
    try:
        return 1.0 / here(forecast, split).plan().expected_tok_s
    except BudgetError:
        return _NEVER


def _layer_of(weight: Weight, output: int) -> int | None:
    """The layer that a weight moves with; None: it is an input, which stays here."""
    if weight.layer is not None:
        return weight.layer
    return output if weight.name.startswith(_OUTPUT) else None


def _is_here(weight: Weight, split: Split) -> bool:
    layer = _layer_of(weight, split.layers - 1)
    return layer is None or split.is_here(layer)


def _kept(weight: Weight, split: Split) -> Weight:
    """An embedding that is the output as well is only looked up here, once that is elsewhere."""
    if weight.name == _EMBEDDING and not split.is_here(split.layers - 1):
        return replace(weight, use=Use.ROWS, row_step=0, compute_s=0.0)
    return weight


def _layers(forecast: Forecast, count: int) -> list[Layer]:
    request = forecast.request
    kv = forecast.costs(request.ctx, request.ubatch).kv // max(count, 1)
    sizes: list[list[int]] = [[] for _ in range(count + 1)]
    embedding = 0
    for weight in forecast.weights:
        layer = _layer_of(weight, count)
        if layer is not None and layer <= count:
            sizes[layer].append(weight.nbytes)
        elif weight.name == _EMBEDDING:
            embedding = weight.nbytes
    if not any(weight.name == "output.weight" for weight in forecast.weights):
        sizes[count].append(embedding)
    layers = [Layer(sum(found), kv, max(found, default=0)) for found in sizes]
    layers[count] = replace(layers[count], kv=0)
    return layers


def _payload(catalogue: Catalogue, forecast: Forecast) -> Payload:
    request = forecast.request
    costs = forecast.costs(request.ctx, request.ubatch)
    embedding = catalogue.get(_EMBEDDING)
    rows, width = (embedding.rows, embedding.shape[0]) if embedding else (0, 0)
    return Payload(_F32 * width, _F32 * rows, round(_COMPUTE_SHARE * costs.compute))
