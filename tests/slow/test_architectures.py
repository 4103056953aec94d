"""Streamed output equals llama.cpp's in all other architectures, and in all settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.architectures import tiny
from support.architectures.comparing import KINDS, REST, compare, groups

from flexinfer.native.packing import other_buffer_types, packer

# llama.cpp ends the process for them in types other than floats.
_FLOATS_ONLY = ("qwen4exp-moe", "wavtokenizer-dec-dense")
_PACKED = tuple(name for name in tiny.models() if name not in _FLOATS_ONLY)


@pytest.mark.parametrize("names", groups(REST), ids=lambda names: names[0])
def test_all_other_architectures(names: tuple[str, ...], tmp_path: Path) -> None:
    compare(names, tmp_path, "--quick")


@pytest.mark.parametrize("names", groups(KINDS), ids=lambda names: names[0])
def test_flash_attention_and_threads(names: tuple[str, ...], tmp_path: Path) -> None:
    compare(names, tmp_path)


@pytest.mark.skipif(packer() is None, reason="this processor's ggml has no packed kernels")
@pytest.mark.skipif(bool(other_buffer_types()), reason="stock llama.cpp computes otherwise here")
@pytest.mark.parametrize("names", groups(_PACKED), ids=lambda names: names[0])
def test_packed_weights_beside_stock_llama_cpp(names: tuple[str, ...], tmp_path: Path) -> None:
    compare(names, tmp_path, "--quick", "--repack", ftype="q4_0")
