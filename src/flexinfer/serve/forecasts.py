"""What the server's models do under any budget, from their headers."""

from __future__ import annotations

from flexinfer.errors import UnsupportedError
from flexinfer.gguf.catalogue import Catalogue
from flexinfer.gguf.check_metadata import check_parameters
from flexinfer.gguf.estimate import PROCESS, estimate_costs, estimate_weights
from flexinfer.planning.forecast import Forecast
from flexinfer.planning.many import RowTimes
from flexinfer.planning.plan import Request
from flexinfer.rates.drives import drives_for
from flexinfer.rates.rates import measure_rates, remembered_rows
from flexinfer.rates.row_times import row_times
from flexinfer.serve.about import gives_vectors
from flexinfer.serve.settings import Settings
from flexinfer.serve.sizing import MIN_CONTEXT
from flexinfer.workers.dividing import here

# Larger by the server's library and what it has begun before a model is opened.
_PROCESS = PROCESS + (3 << 20)


def check_served(catalogue: Catalogue) -> None:
    """Raise where llama.cpp's server does not serve this kind of model.

    Raises:
        ModelFileError, UnsupportedError: says why.
    """
    check_parameters(catalogue)
    if any(info.name.startswith("enc.") for info in catalogue.tensors):
        raise UnsupportedError(
            f"{catalogue.paths[0]}: llama.cpp's server does not serve models with an encoder; "
            "flexinfer run does"
        )
    # Many a request has llama.cpp look for a text of a token, and ends the process there.
    if catalogue.metadata.get("tokenizer.ggml.model") in ("no_vocab", "none"):
        raise UnsupportedError(
            f"{catalogue.paths[0]}: the model has no vocabulary (tokenizer.ggml.model is "
            "no_vocab), without which llama.cpp's server cannot answer; convert it again, with "
            "its tokenizer"
        )


def forecast_of(catalogue: Catalogue, settings: Settings, drafts: int | None = None) -> Forecast:
    """What a model does under any budget, in the smallest context; of layers that are here.

    Of a batch only last tokens of prompts, tokens that are written, and up to `drafts` more of each
    slot have logits (``server_output_limits`` in llama.cpp's server); texts answered by vectors
    have all. By default it is the model that answers, with the drafts of the flags; of another
    `drafts` says them.
    """
    process = PROCESS if drafts is not None else _PROCESS
    drafts = settings.flags.drafts if drafts is None else drafts
    outputs = settings.slots * (1 + drafts)
    vectors = gives_vectors(settings.embeddings, settings.flags)
    weights = estimate_weights(catalogue, settings.threads)
    kind = settings.kv[1]
    costs = estimate_costs(
        catalogue,
        (kind, kind),
        flash_attention=settings.flash_attention is not False,
        sequences=settings.slots,
        outputs=None if vectors else outputs,
        process=process,
    )
    threads, kernels = settings.threads, settings.kernels
    drives = drives_for(catalogue, settings.mirrors)
    weights, rates = measure_rates(catalogue, weights, drives, threads, kernels)
    request = Request(
        budget=settings.budget,
        ctx=MIN_CONTEXT,
        ubatch=settings.ubatch or 1,
        strategy=settings.strategy,
        weight_memory=settings.weight_memory,
        window=settings.window,
    )
    whole = Forecast(weights, request, drives.costing(costs), rates)
    return whole if settings.split is None else here(whole, settings.split)


def rows_of_passes(settings: Settings, catalogue: Catalogue) -> tuple[Forecast, RowTimes]:
    """The same, and how long passes over several rows take to compute."""
    forecast = forecast_of(catalogue, settings)
    seen = remembered_rows(catalogue, settings.threads, settings.kernels)
    threads, kind = settings.threads, settings.kv[1]
    weights, types = forecast.weights, catalogue.types
    times = row_times(weights, types, forecast.rates, threads, (kind, kind), seen)
    return forecast, times
