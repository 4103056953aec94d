"""Models for which ggml would end the process: it goes on, and the model is refused."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.architectures import tiny
from support.tiny_model import TinyModel

_TESTS = Path(__file__).parents[1]
# Model, key of the metadata, value, what does not hold and where.
_CONTRADICTIONS = [
    ("deepseek2-moe", "attention.key_length_mla", 7, "n_embd_head_qk_nope >= 1", "deepseek2.cpp"),
    ("gemma3-dense", "attention.key_length", 255, "a->ne[0] == b->ne[0]", "ggml.c"),
    ("gemma3-dense", "attention.value_length", 3, "ggml_can_mul_mat(a, b)", "ggml.c"),
    ("deepseek2-moe", "expert_gating_func", 99, "fatal error", "llama-graph.cpp"),
]


def changed(name: str, key: str, value: int, folder: Path) -> Path:
    model = copy.deepcopy(tiny.models()[name])
    model["metadata"][f"*.{key}"] = ("UINT32", value)
    return tiny.write_model(model, folder / f"{name}-{key}.gguf")


def test_the_process_goes_on_and_says_what_does_not_hold(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    """While loading and while creating a context; it ends as any other, with threads parked."""
    broken = [changed(*change[:3], tmp_path) for change in _CONTRADICTIONS]
    done = subprocess.run(
        [
            *(sys.executable, str(_TESTS / "support" / "victims" / "broken.py")),
            *(str(tiny_model("tiny-llama", "q4_0")), *map(str, broken)),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(_TESTS), *sys.path])},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    equal, *said = done.stdout.splitlines()
    assert equal == "True"
    assert len(said) == len(_CONTRADICTIONS)
    for path, message, (*_, what, where) in zip(broken, said, _CONTRADICTIONS, strict=True):
        assert message.startswith(str(path))
        assert what in message
        assert where in message
        assert "fetch or convert" in message


def test_control_c_waits_and_frees_what_nobody_gets() -> None:
    from flexinfer.native.device.device import device

    freed: list[int] = []

    def call() -> int:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        return 5

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        device().attempt(call, "model", freed.append)
    assert freed == [5]
    assert threading.active_count() == before
    assert device().attempt(lambda: 6, "model", freed.append) == 6
    assert freed == [5]
