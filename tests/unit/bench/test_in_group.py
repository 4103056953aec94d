"""A command in a group: its document, or an error."""

from __future__ import annotations

import sys

import pytest

from flexinfer.bench.in_group import GroupRun, run_in_group
from flexinfer.errors import EngineError


def test_a_command_without_limits_gives_its_document() -> None:
    command = [sys.executable, "-c", "print('{\"a\": 1}')"]
    assert run_in_group(command, "-", None) == GroupRun({"a": 1}, 0, 0)


def test_a_command_that_fails_is_an_error() -> None:
    with pytest.raises(EngineError, match="ended with 3, 0 OOM kills"):
        run_in_group([sys.executable, "-c", "raise SystemExit(3)"], "-", None)
