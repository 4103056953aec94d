"""From what was asked to what is started: files are looked at, sizes decided, arguments built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flexinfer.engine.elsewhere import Elsewhere
from flexinfer.engine.options import Options
from flexinfer.errors import BudgetError
from flexinfer.gguf.catalogue import Catalogue
from flexinfer.gguf.heads import trunk_of
from flexinfer.gguf.mirrors import Mirror
from flexinfer.machine.machine import Machine
from flexinfer.native.cards import cards
from flexinfer.planning.many import Together, best, together
from flexinfer.rates.drives import drives_for
from flexinfer.serve.about import gives_vectors
from flexinfer.serve.comforts import LARGEST_UBATCH
from flexinfer.serve.drafting import Drafting, plan_drafting
from flexinfer.serve.forecasts import check_served, forecast_of, rows_of_passes
from flexinfer.serve.models import ModelFile
from flexinfer.serve.other_files import adapter_bytes, projector_bytes
from flexinfer.serve.reserve import Sizes, Wish
from flexinfer.serve.settings import Settings
from flexinfer.serve.sizing import LARGEST_CONTEXT, decide
from flexinfer.workers.cards import CardWish
from flexinfer.workers.dividing import divided

# Tokens of a slot where the number of slots is to be found, and no context was asked for.
SLOT_CTX = 2048
# Whoever reads nothing of an answer for so many seconds has gone; a flag after `--` says otherwise.
_PATIENCE = ("--timeout", "60")


@dataclass(frozen=True)
class Planned:
    """Everything that the server is started with; `files` by the path it will name."""

    sizes: Sizes
    files: dict[str, ModelFile]
    arguments: tuple[str, ...]
    drafting: Drafting

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
    check_served(catalogue)
    wish = Wish(
        budget=settings.budget,
        slots=settings.slots,
        ctx=settings.ctx,
        ubatch=settings.ubatch,
        checkpoints=settings.flags.checkpoints,
        cache_mib=settings.flags.cache_mib,
        vectors=gives_vectors(settings.embeddings, settings.flags),
        lora=adapter_bytes(settings.lora, catalogue),
        projector=projector_bytes(settings.mmproj),
    )
    drafting = plan_drafting(settings, catalogue, wish)
    settings = drafting.beside(settings)
    steady = drafting.steady_ubatch
    wish = drafting.among(wish)
    sizes = drafting.tell(decide(wish, catalogue, forecast_of(catalogue, settings)))
    main = _file(catalogue, settings, sizes, settings.budget - sizes.reserve, settings.mirrors)
    unread = _unread(catalogue, trunk_of(catalogue) if drafting.read else catalogue)
    main = replace(main, options=replace(main.options, steady_ubatch=steady, unread=unread))
    if settings.split is not None:
        found = {card.name: card.address for card in cards()}
        elsewhere = Elsewhere(settings.split, found)
        main = replace(main, options=replace(main.options, elsewhere=elsewhere))
    files = {catalogue.paths[0]: main}
    files |= _beside(settings, drafting, sizes)
    arguments = _arguments(settings, catalogue, sizes, swa_full=drafting.swa_full)
    return Planned(sizes, files, tuple(arguments), drafting)


def _beside(settings: Settings, drafting: Drafting, sizes: Sizes) -> dict[str, ModelFile]:
    """The model that drafts, by the path that the server will name."""
    if drafting.model is None or drafting.plan is None:
        return {}
    file = _file(drafting.model, settings, sizes, drafting.nbytes, ())
    unread = _unread(drafting.model, drafting.read or drafting.model)
    # What it costs beside its weights was taken off the budget already.
    options = replace(file.options, weight_memory=drafting.plan.room, unread=unread)
    file = replace(file, options=options, read=drafting.read)
    if drafting.read is None:
        file = replace(file, least_ubatch=1, ubatch=drafting.plan.ubatch)
    return {drafting.path: file}


def _unread(catalogue: Catalogue, read: Catalogue) -> frozenset[str]:
    """Names of the weights that are not among those that are read."""
    return frozenset(catalogue.types.keys() - read.types.keys())


def best_slots(settings: Settings, catalogue: Catalogue) -> int:
    """The number of slots with the highest rate together, of those that the server can hold.

    Raises:
        BudgetError: not even one.
    """
    forecast, times = rows_of_passes(settings, catalogue)
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
    forecast, times = rows_of_passes(settings, catalogue)
    left = replace(forecast.request, budget=settings.budget - sizes.reserve)
    return together(replace(forecast, request=left), times, sizes.ctx, sizes.slots)


def with_others(
    settings: Settings, catalogue: Catalogue, rpc: Sequence[str], wish: CardWish | None
) -> Settings:
    """The settings with layers at workers and on cards, whose memory holds all slots' caches.

    Raises:
        UnsupportedError: the model cannot be split.
    """
    whole = forecast_of(catalogue, settings)
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
    drives = drives_for(catalogue, mirrors)
    options = Options(
        budget=budget,
        strategy=settings.strategy,
        weight_memory=settings.weight_memory,
        window=settings.window,
        min_ctx=sizes.total_ctx,
        memlock=Machine.detect().memlock,
        kernels=settings.kernels,
        mirror_bytes=drives.overhead,
        packed=drives.packed,
    )
    return ModelFile(catalogue, options, settings.threads, sizes.least_ubatch, mirrors)


def _quoted(path: str) -> str:
    """One field of a row of CSV."""
    return '"' + path.replace('"', '""') + '"'


def _arguments(
    settings: Settings, catalogue: Catalogue, sizes: Sizes, *, swa_full: bool
) -> list[str]:
    """llama-server's; what is forced stands last, so that nothing before it prevails."""
    flags = [part for pair in _forced(settings, catalogue, sizes).items() for part in pair]
    switches = [
        "--kv-unified",
        "--no-repack",
        "--no-warmup",
        "--no-ui",
        "--metrics",
        "--offline",
    ]
    if swa_full:
        switches.append("--swa-full")
    given = _given(settings, catalogue)
    return [*_PATIENCE, *settings.flags.flags, *given, *flags, *switches]


def _given(settings: Settings, catalogue: Catalogue) -> list[str]:
    given = ["--alias", settings.alias or catalogue.name]
    if settings.api_key is not None:
        given += ["--api-key", settings.api_key]
    if settings.lora:
        given += ["--lora", ",".join(map(_quoted, settings.lora))]
    if settings.mmproj is not None:
        given += ["--mmproj", settings.mmproj, "--no-mmproj-offload"]
    if settings.embeddings:
        given.append("--embeddings")
    return given


def _forced(settings: Settings, catalogue: Catalogue, sizes: Sizes) -> dict[str, str]:
    kv = settings.kv[0]
    flash = {None: "auto", True: "on", False: "off"}[settings.flash_attention]
    threads = str(settings.threads)
    return {
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
