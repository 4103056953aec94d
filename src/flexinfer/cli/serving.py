"""What `serve` and `batch` ask of a server, from the options that they share."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flexinfer.cli.options import AUTO
from flexinfer.cli.slots import AUTO_SLOTS
from flexinfer.errors import UnsupportedError
from flexinfer.gguf.estimate import KV_TYPES, needs_flash_attention

if TYPE_CHECKING:
    from flexinfer.gguf.catalogue import Catalogue
    from flexinfer.serve.settings import Settings


def serve_settings(
    catalogue: Catalogue,
    flags: tuple[str, ...],
    *,
    memory: int | None,
    threads: int | None,
    kv_type: str,
    flash_attn: bool | None,
    repack: bool | None,
    idle_release: float | None = None,
    slots: int = 1,
    **options: Any,
) -> Settings:
    """What a server of the model is asked for, from what `engine_options` and others collected.

    Raises:
        RequestError: a flag that is not passed on, or surroundings that would set options.
        BudgetError: the budget does not hold one slot.
    """
    from flexinfer.machine.budget import granted_budget
    from flexinfer.machine.machine import Machine
    from flexinfer.rates.kernels import kernels_for
    from flexinfer.serve.arguments import read_extra, refuse_surroundings
    from flexinfer.serve.settings import Settings

    refuse_surroundings(os.environ)
    if memory == AUTO:
        raise UnsupportedError("serve does not follow the machine; give --memory a size")
    machine = Machine.detect()
    settings = Settings(
        budget=granted_budget(memory, machine),
        threads=threads or machine.cores,
        kv=(kv_type, KV_TYPES[kv_type]),
        flash_attention=True if needs_flash_attention(kv_type) else flash_attn,
        kernels=kernels_for(catalogue, machine, repack),
        idle_seconds=idle_release or 0.0,
        flags=read_extra(flags),
        **options,
    )
    return _with_slots(settings, slots, catalogue)


def _with_slots(settings: Settings, slots: int, catalogue: Catalogue) -> Settings:
    if slots == AUTO_SLOTS:
        from flexinfer.serve.planned import best_slots

        slots = best_slots(settings, catalogue)
    return replace(settings, slots=slots)
