"""`flexinfer demo` and the plain run that it compares with."""

from __future__ import annotations

from importlib import resources

import pytest
from click.testing import CliRunner

from flexinfer.bench import plain
from flexinfer.cli.demo import command
from flexinfer.errors import EngineError


def test_the_demo_streams_and_agrees_with_plain_llama_cpp() -> None:
    result = CliRunner().invoke(command, ["-n", "12"])
    assert result.exit_code == 0, (result.output, result.exception)
    assert "ROMEO:" in result.output
    assert "streamed per token" in result.output
    assert "all 12 tokens are the same" in result.output


def test_the_cap_is_below_the_models_size() -> None:
    size = (resources.files("flexinfer") / "data/shakespeare.gguf").read_bytes()
    result = CliRunner().invoke(command, ["-n", "2", "--weight-memory", "2M"])
    assert result.exit_code == 0, result.output
    assert "memory for weights: 2.00 MiB" in result.output or "memory for weights: 1." in (
        result.output
    )
    assert len(size) > 2 << 20


def test_a_difference_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(path: str, prompt: object, count: int, *rest: object) -> list[int]:
        return [0] * count

    monkeypatch.setattr(plain, "plain_tokens", other)
    result = CliRunner().invoke(command, ["-n", "3"])
    assert isinstance(result.exception, EngineError)
    assert "differ from token 1" in str(result.exception)


def test_a_plain_run_that_fails_says_why() -> None:
    with pytest.raises(EngineError, match=r"nothing\.gguf"):
        plain.plain_tokens("nothing.gguf", [1, 5], 2, {}, {})
