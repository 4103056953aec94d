"""A process that serves has llama.cpp's functions, and the package's classes once it wants one."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import markupsafe._speedups
from support.served import serving

_HELD = """
import sys
from flexinfer.binding.functions_first import functions_first
functions_first()
import flexinfer.serve.planned
import flexinfer.serve.server
from flexinfer.binding.text_limits import expressions
import llama_cpp.llama_cpp as functions
expressions(functions.LLAMA_VOCAB_TYPE_BPE, {})
def classes():
    return "llama_cpp.llama" in sys.modules, "jinja2" in sys.modules
before = classes()
import llama_cpp
assert llama_cpp.llama_cpp is functions
assert llama_cpp.llama_backend_init is functions.llama_backend_init
from llama_cpp import Llama
functions_first()
assert sys.modules["llama_cpp"] is llama_cpp
assert llama_cpp.Llama is Llama
print(before, classes())
"""


def test_classes_are_imported_once_somebody_wants_one() -> None:
    done = subprocess.run([sys.executable, "-c", _HELD], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("(False, False) (True, True)\n", "")


def test_a_server_does_without_the_classes() -> None:
    """They render templates by jinja2, whose library would be mapped."""
    library = Path(markupsafe._speedups.__file__).name
    model = files("flexinfer") / "data" / "shakespeare.gguf"
    with serving(model, "--ctx", 128, "--weight-memory", "2MiB") as served:
        served.complete(prompt="O", n_predict=2)
        maps = Path(f"/proc/{served.process.pid}/maps").read_text()
    assert "libllama" in maps
    assert library not in maps
