"""Streamed output equals llama.cpp's in all other architectures, and in all settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.architectures.comparing import KINDS, REST, compare, groups


@pytest.mark.parametrize("names", groups(REST), ids=lambda names: names[0])
def test_all_other_architectures(names: tuple[str, ...], tmp_path: Path) -> None:
    compare(names, tmp_path, "--quick")


@pytest.mark.parametrize("names", groups(KINDS), ids=lambda names: names[0])
def test_flash_attention_and_threads(names: tuple[str, ...], tmp_path: Path) -> None:
    compare(names, tmp_path)
