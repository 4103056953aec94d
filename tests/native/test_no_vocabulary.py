"""A model whose vocabulary llama.cpp aborts for: the commands say so and end in the usual way."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
from support.architectures import tiny


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = copy.deepcopy(tiny.models()["llama-dense"])
    del model["metadata"]["tokens"]
    model["metadata"]["tokenizer.ggml.model"] = ("STRING", "no_vocab")
    return tiny.write_model(model, tmp_path_factory.mktemp("models") / "mute.gguf")


@pytest.mark.parametrize(("command", "code"), [(["run", "-p", "one"], 1), (["chat"], 0)])
def test_a_command_says_that_there_is_no_vocabulary(
    path: Path, command: list[str], code: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flexinfer", command[0], str(path), *command[1:]],
        input="one\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "the model has no vocabulary" in done.stderr
    assert "Traceback" not in done.stderr
