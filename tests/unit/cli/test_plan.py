"""`flexinfer plan`, as a person calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.tiny_model import TinyModel

from flexinfer.cli.plan import command
from flexinfer.errors import BudgetError, RequestError
from flexinfer.machine.machine import Machine
from flexinfer.planning.plan import Plan


def _plan(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))


def test_the_picture_names_tensors_and_the_formula(tiny_model: TinyModel) -> None:
    result = _plan(str(tiny_model("tiny-wide")), "--memory", "80MiB")
    assert result.exit_code == 0, result.output
    for part in ("attn_q", "ffn_down", "overhead", "window", "S/B", "tokens/s"):
        assert part in result.output


def test_json_is_one_document_with_the_plan(tiny_model: TinyModel) -> None:
    path = str(tiny_model("tiny-moe"))
    result = _plan(path, "--memory", "70MiB", "--json", "--curve")
    document = json.loads(result.stdout)
    plan = Plan.from_json(document["plan"])
    assert document["budget"] == 70 << 20
    assert plan.weight_bytes == document["weight_bytes"]
    assert plan.bound_tok_s == document["bound_tok_s"]
    assert plan.expected_tok_s == document["expected_tok_s"]
    assert document["curve"][-1]["budget"] >= document["smallest_budget"]


def test_a_rate_that_cannot_be_reached_is_one_sentence(tiny_model: TinyModel) -> None:
    result = _plan(str(tiny_model("tiny-llama")), "--for", "999999999999tok/s")
    assert isinstance(result.exception, RequestError)


def test_for_names_the_budget(tiny_model: TinyModel) -> None:
    result = _plan(str(tiny_model("tiny-llama")), "--for", "0.5tok/s")
    assert "0.5 tokens/s need --memory" in result.output


def test_a_rate_that_is_none_is_wrong_usage(tiny_model: TinyModel) -> None:
    assert _plan(str(tiny_model("tiny-llama")), "--for", "fast").exit_code == 2


def test_too_small_a_budget_has_the_arithmetic(tiny_model: TinyModel) -> None:
    result = _plan(str(tiny_model("tiny-llama")), "--memory", "1MiB")
    assert isinstance(result.exception, BudgetError)
    assert "smallest that would do" in str(result.exception)


def test_a_picture_file(tiny_model: TinyModel, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "plan.png"
    assert _plan(str(tiny_model("tiny-llama")), "--png", str(out)).exit_code == 0
    assert out.stat().st_size > 1000


def test_a_small_plan_needs_no_native_library(tiny_model: TinyModel) -> None:
    code = (
        "import sys; from flexinfer.cli.plan import command;"
        "command([sys.argv[1]], standalone_mode=False); assert 'llama_cpp' not in sys.modules"
    )
    path = str(tiny_model("tiny-llama"))
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_budget_may_be_a_share(tiny_model: TinyModel) -> None:
    model = str(tiny_model("tiny-llama"))
    result = CliRunner().invoke(command, [model, "--memory", "50%", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["budget"] == Machine.detect().memory_existing // 2
    wrong = CliRunner().invoke(command, [model, "--memory", "120%"])
    assert wrong.exit_code == 2
    assert "not a share" in wrong.output
