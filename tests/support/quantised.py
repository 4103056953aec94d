"""Models in any quantisation: llama.cpp's own quantiser over a model of floats.

As a program it quantises one file: ``python -m support.quantised SOURCE OUT FTYPE``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Numbers of llama.cpp's ``llama_ftype``, whose mixed ones take several types for one model.
FTYPES = {
    "q4_0": 2,
    "q8_0": 7,
    "q2_K": 10,
    "q3_K_M": 12,
    "q4_K_M": 15,
    "q5_K_M": 17,
    "iq4_nl": 25,
    "mxfp4": 38,
}


def quantised(source: Path, ftype: str, folder: Path) -> Path:
    """The model of `source` in another quantisation, in a file of its own."""
    out = folder / f"{source.stem}-{ftype}.gguf"
    command = [sys.executable, "-m", "support.quantised", str(source), str(out), ftype]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return out


def _main(source: str, out: str, ftype: str) -> int:
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FTYPES[ftype]
    params.allow_requantize = True
    params.nthread = 2
    return int(llama_cpp.llama_model_quantize(source.encode(), out.encode(), params))


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
