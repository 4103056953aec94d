"""`flexinfer synth`."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from flexinfer.cli.synth import command
from flexinfer.errors import RequestError
from flexinfer.gguf.catalogue import read_catalogue


def test_a_model_is_written_and_can_be_read(tmp_path: Path) -> None:
    out = tmp_path / "tiny.gguf"
    result = CliRunner().invoke(command, ["tiny-llama", str(out), "--quant", "q8_0"])
    assert result.exit_code == 0, result.output
    assert read_catalogue(out).architecture == "llama"
    assert str(out) in result.output


def test_shards_are_written(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["tiny-moe", str(tmp_path / "m.gguf"), "--split", "2"])
    assert result.exit_code == 0, result.output
    assert len(read_catalogue(tmp_path / "m-00001-of-00002.gguf").paths) == 2
    again = CliRunner().invoke(command, ["tiny-moe", str(tmp_path / "m.gguf"), "--split", "2"])
    assert isinstance(again.exception, RequestError)


def test_a_file_is_not_replaced_unasked(tmp_path: Path) -> None:
    out = tmp_path / "mine.gguf"
    out.write_text("mine")
    refused = CliRunner().invoke(command, ["tiny-llama", str(out)])
    assert isinstance(refused.exception, RequestError)
    assert out.read_text() == "mine"
    assert CliRunner().invoke(command, ["tiny-llama", str(out), "--force"]).exit_code == 0
    assert out.stat().st_size > 1000


def test_presets_are_listed() -> None:
    result = CliRunner().invoke(command, [])
    assert "llama2-7b" in result.output
    assert "128 experts of which 8 are used" in result.output


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(command, ["tiny-llama"]).exit_code == 2
    unknown = runner.invoke(command, ["tiny-lama", str(tmp_path / "x.gguf")])
    assert isinstance(unknown.exception, RequestError)
    nowhere = runner.invoke(command, ["tiny-llama", str(tmp_path / "no" / "x.gguf")])
    assert isinstance(nowhere.exception, RequestError)
    nameless = runner.invoke(command, ["tiny-llama", ""])
    assert isinstance(nameless.exception, RequestError)
