"""What `serve` and `batch` ask of a server, from the options that they share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flexinfer.cli.options import AUTO
from flexinfer.cli.slots import AUTO_SLOTS
from flexinfer.cli.streams import flush, log
from flexinfer.errors import WorkerError
from flexinfer.gguf.estimate import KV_TYPES, needs_flash_attention

if TYPE_CHECKING:
    from flexinfer.gguf.catalogue import Catalogue
    from flexinfer.gguf.mirrors import Mirror
    from flexinfer.machine.machine import Machine
    from flexinfer.planning.kernels import Kernels
    from flexinfer.serve.settings import Settings


def until_lost(serve: Callable[[], int]) -> int:
    """What `serve` returns; once a worker is lost, this command starts anew in this process.

    It then plans without that worker, and nothing of the old plan is left in memory.
    """
    try:
        return serve()
    except WorkerError as error:
        log(f"{error}; starting again")
        flush()
        os.execv(sys.executable, sys.orig_argv)


def serve_settings(
    catalogue: Catalogue,
    flags: tuple[str, ...],
    *,
    memory: int | None,
    threads: int | None,
    kv_type: str,
    flash_attn: bool | None,
    repack: bool | None,
    rpc: tuple[str, ...],
    gpu_layers: int,
    idle_release: float | None = None,
    slots: int = 1,
    mirrors: tuple[str, ...] = (),
    **options: Any,
) -> Settings:
    """What a server of the model is asked for, from what `engine_options` and others collected.

    Raises:
        RequestError, BudgetError, ModelFileError: of flags, of the budget, of mirrors.
    """
    from flexinfer.gguf.mirrors import find_mirrors
    from flexinfer.machine.machine import Machine
    from flexinfer.serve.arguments import read_extra, refuse_surroundings
    from flexinfer.serve.settings import Settings

    refuse_surroundings(os.environ)
    machine, copies = Machine.detect(), find_mirrors(catalogue, mirrors)
    settings = Settings(
        **_budget(memory, machine),
        threads=threads or machine.cores,
        kv=(kv_type, KV_TYPES[kv_type]),
        flash_attention=True if needs_flash_attention(kv_type) else flash_attn,
        kernels=_kernels(catalogue, machine, rpc, repack, copies),
        idle_seconds=idle_release or 0.0,
        flags=read_extra(flags),
        mirrors=copies,
        **options,
    )
    return _placed(_with_slots(settings, slots, catalogue), catalogue, rpc, gpu_layers)


def _budget(memory: int | None, machine: Machine) -> dict[str, Any]:
    from flexinfer.machine.budget import granted_budget

    follows = memory == AUTO
    return {"budget": granted_budget(None if follows else memory, machine), "follows": follows}


def _kernels(
    catalogue: Catalogue,
    machine: Machine,
    rpc: tuple[str, ...],
    repack: bool | None,
    copies: tuple[Mirror, ...],
) -> Kernels:
    from flexinfer.rates.kernels import kernels_for
    from flexinfer.workers.endpoint import plain_over

    return kernels_for(catalogue, machine, plain_over(rpc, repack), copies)


def _placed(
    settings: Settings, catalogue: Catalogue, rpc: tuple[str, ...], gpu_layers: int
) -> Settings:
    if not rpc and not gpu_layers:
        return settings
    from flexinfer.serve.planned import with_others
    from flexinfer.workers.cards import wished

    return with_others(settings, catalogue, rpc, wished({"n_gpu_layers": gpu_layers}))


def _with_slots(settings: Settings, slots: int, catalogue: Catalogue) -> Settings:
    if slots == AUTO_SLOTS:
        from flexinfer.serve.planned import best_slots

        slots = best_slots(settings, catalogue)
    return replace(settings, slots=slots)
