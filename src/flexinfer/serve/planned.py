"""From what was asked to what is started: files are looked at, sizes decided, arguments built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flexinfer.engine.elsewhere import Elsewhere
from flexinfer.engine.options import Options
from flexinfer.errors import BudgetError, UnsupportedError
from flexinfer.gguf.catalogue import Catalogue, read_catalogue
from flexinfer.gguf.check_metadata import check_parameters
from flexinfer.gguf.estimate import estimate_costs, estimate_weights
from flexinfer.gguf.mirrors import Mirror
from flexinfer.machine.machine import Machine
from flexinfer.native.cards import cards
from flexinfer.planning.forecast import Forecast
from flexinfer.planning.many import RowTimes, Together, best, together
from flexinfer.planning.plan import Request
from flexinfer.rates.drives import drives_for
from flexinfer.rates.rates import measure_rates, remembered_rows
from flexinfer.rates.row_times import row_times
from flexinfer.serve.models import ModelFile
from flexinfer.serve.other_files import adapter_bytes, file_bytes
from flexinfer.serve.reserve import Sizes, Wish
from flexinfer.serve.settings import Settings
from flexinfer.serve.sizing import (
    LARGEST_CONTEXT,
    LARGEST_UBATCH,
    MIN_CONTEXT,
    decide,
)
from flexinfer.workers.cards import CardWish
from flexinfer.workers.dividing import divided, here

# Tokens of a slot where the number of slots is to be found, and no context was asked for.
SLOT_CTX = 2048
# A model that drafts takes at most this share of the budget, and streams beyond.
_DRAFT_SHARE = 4
# Whoever reads nothing of an answer for so many seconds has gone; a flag after `--` says otherwise.
_PATIENCE = ("--timeout", "60")


@dataclass(frozen=True)
class Planned:
    """Everything that the server is started with; `files` by the path it will name."""

    sizes: Sizes
    files: dict[str, ModelFile]
    arguments: tuple[str, ...]

    @property
    def main(self) -> Catalogue:
        """Of the model that answers."""
        return next(iter(self.files.values())).catalogue


def plan_server(settings: Settings, catalogue: Catalogue) -> Planned:
    """Plan before anything is started.

    Raises:
        BudgetError: it does not fit.
        ModelFileError: one of the files cannot be used.
        UnsupportedError: llama.cpp's server does not serve this kind of model.
    """
    _check_model(catalogue)
    draft = (
        None if settings.flags.draft_model is None else read_catalogue(settings.flags.draft_model)
    )
    forecast = _forecast(catalogue, settings, settings.budget)
    share = 0
    if draft is not None:
        _check_model(draft)
        share = min(draft.nbytes * 5 // 4, settings.budget // _DRAFT_SHARE)
    wish = Wish(
        budget=settings.budget,
        slots=settings.slots,
        ctx=settings.ctx,
        ubatch=settings.ubatch,
        drafts=settings.flags.drafts,
        checkpoints=settings.flags.checkpoints,
        embeddings=settings.embeddings,
        lora=adapter_bytes(settings.lora, catalogue),
        projector=file_bytes(() if settings.mmproj is None else (settings.mmproj,)),
        draft=share,
    )
    sizes = decide(wish, catalogue, forecast)
    main = _file(catalogue, settings, sizes, settings.budget - sizes.reserve, settings.mirrors)
    if settings.split is not None:
        found = {card.name: card.address for card in cards()}
        elsewhere = Elsewhere(settings.split, found)
        main = replace(main, options=replace(main.options, elsewhere=elsewhere))
    files = {catalogue.paths[0]: main}
    if draft is not None:
        files[draft.paths[0]] = _file(draft, settings, sizes, share, ())
    return Planned(sizes, files, tuple(_arguments(settings, catalogue, sizes)))


def best_slots(settings: Settings, catalogue: Catalogue) -> int:
    """The number of slots with the highest rate together, of those that the server can hold.

    Raises:
        BudgetError: not even one.
    """
    forecast, times = _rows(settings, catalogue)
    ctx = settings.ctx or min(int(catalogue.parameter("context_length", SLOT_CTX)), SLOT_CTX)
    slots = best(forecast, times, ctx).sequences
    while slots > 1:
        try:
            plan_server(replace(settings, slots=slots, ctx=ctx), catalogue)
        except BudgetError:
            slots -= 1
        else:
            break
    return slots


def foretold(settings: Settings, catalogue: Catalogue, sizes: Sizes) -> Together:
    """What so many slots of that size are expected to reach.

    Raises:
        BudgetError: the budget does not hold them.
    """
    forecast, times = _rows(settings, catalogue)
    left = replace(forecast.request, budget=settings.budget - sizes.reserve)
    return together(replace(forecast, request=left), times, sizes.ctx, sizes.slots)


def _rows(settings: Settings, catalogue: Catalogue) -> tuple[Forecast, RowTimes]:
    forecast = _forecast(catalogue, settings, settings.budget)
    seen = remembered_rows(catalogue, settings.threads, settings.kernels)
    times = row_times(forecast.weights, catalogue.types, forecast.rates, settings.threads, seen)
    return forecast, times


def _check_model(catalogue: Catalogue) -> None:
    check_parameters(catalogue)
    if any(info.name.startswith("enc.") for info in catalogue.tensors):
        raise UnsupportedError(
            f"{catalogue.paths[0]}: llama.cpp's server does not serve models with an encoder; "
            "flexinfer run does"
        )


def _forecast(catalogue: Catalogue, settings: Settings, budget: int) -> Forecast:
    weights = estimate_weights(catalogue, settings.threads)
    kind = settings.kv[1]
    costs = estimate_costs(
        catalogue, (kind, kind), flash_attention=settings.flash_attention is not False
    )
    threads, kernels = settings.threads, settings.kernels
    drives = drives_for(catalogue, settings.mirrors)
    weights, rates = measure_rates(catalogue, weights, drives, threads, kernels)
    request = Request(
        budget=budget,
        ctx=MIN_CONTEXT,
        ubatch=settings.ubatch or 1,
        strategy=settings.strategy,
        weight_memory=settings.weight_memory,
        window=settings.window,
    )
    whole = Forecast(weights, request, drives.costing(costs), rates)
    return whole if settings.split is None else here(whole, settings.split)


def with_others(
    settings: Settings, catalogue: Catalogue, rpc: Sequence[str], wish: CardWish | None
) -> Settings:
    """The settings with layers at workers and on cards, whose memory holds all slots' caches.

    Raises:
        UnsupportedError: the model cannot be split.
    """
    whole = _forecast(catalogue, settings, settings.budget)
    ctx = settings.ctx or min(int(catalogue.parameter("context_length", SLOT_CTX)), LARGEST_CONTEXT)
    request = replace(
        whole.request, ctx=settings.slots * ctx, ubatch=settings.ubatch or LARGEST_UBATCH
    )
    found = divided(catalogue, replace(whole, request=request), rpc, wish)
    return replace(settings, split=found.request.split)


def _file(
    catalogue: Catalogue,
    settings: Settings,
    sizes: Sizes,
    budget: int,
    mirrors: tuple[Mirror, ...],
) -> ModelFile:
    options = Options(
        budget=budget,
        strategy=settings.strategy,
        weight_memory=settings.weight_memory,
        window=settings.window,
        min_ctx=sizes.total_ctx,
        memlock=Machine.detect().memlock,
        kernels=settings.kernels,
        mirror_bytes=drives_for(catalogue, mirrors).overhead,
    )
    return ModelFile(catalogue, options, settings.threads, sizes.least_ubatch, mirrors)


def _quoted(path: str) -> str:
    """One field of a row of CSV."""
    return '"' + path.replace('"', '""') + '"'


def _arguments(settings: Settings, catalogue: Catalogue, sizes: Sizes) -> list[str]:
    """llama-server's; what is forced stands last, so that nothing before it prevails."""
    kv = settings.kv[0]
    flash = {None: "auto", True: "on", False: "off"}[settings.flash_attention]
    given = ["--alias", settings.alias or catalogue.name]
    if settings.api_key is not None:
        given += ["--api-key", settings.api_key]
    if settings.lora:
        given += ["--lora", ",".join(map(_quoted, settings.lora))]
    if settings.mmproj is not None:
        given += ["--mmproj", settings.mmproj, "--no-mmproj-offload"]
    if settings.embeddings:
        given.append("--embeddings")
    threads = str(settings.threads)
    forced = {
        "--model": catalogue.paths[0],
        "--host": settings.host,
        "--port": str(settings.port),
        "--cors-origins": settings.cors_origins,
        "--parallel": str(sizes.slots),
        "--kv-unified-per-slot": str(sizes.ctx),
        "--batch-size": str(sizes.ubatch),
        "--ubatch-size": str(sizes.ubatch),
        "--threads": threads,
        "--threads-batch": threads,
        "--cache-type-k": kv,
        "--cache-type-v": kv,
        "--flash-attn": flash,
        "--cache-ram": str(sizes.cache_mib),
        "--ctx-checkpoints": str(sizes.checkpoints),
        "--threads-http": str(sizes.slots + 4),
        "--fit": "off",
        "--load-mode": "none",
        "--lazy-mode": "off",
    }
    switches = ["--kv-unified", "--no-repack", "--no-warmup", "--no-ui", "--metrics", "--offline"]
    flags = [part for pair in forced.items() for part in pair]
    return [*_PATIENCE, *settings.flags.flags, *given, *flags, *switches]
