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


@pytest.mark.parametrize(
    "command", [["run", "-p", "one"], ["chat"], ["serve", "--port", "0", "--weight-memory", "2MiB"]]
)
def test_a_command_says_that_there_is_no_vocabulary(path: Path, command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flexinfer", command[0], str(path), *command[1:]],
        input="one\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("the model has no vocabulary") == 1
    assert "Traceback" not in done.stderr
