"""Whether this process is plain llama.cpp's: nothing that computes for us was ever loaded."""

from __future__ import annotations

import sys
from importlib.util import find_spec

_DEVICE = "flexinfer.native.device.device"
# Opens the compiled server, whose functions plain llama.cpp gets here too.
_HARMLESS = {"flexinfer.native", "flexinfer.native.built"}


def require_plain() -> None:
    """End a process that registers the device, or could without being seen here."""
    ours = {name for name in sys.modules if name.startswith("flexinfer.native")}
    assert ours <= _HARMLESS, f"loaded here: {sorted(ours - _HARMLESS)}"
    # By another name it would not be seen. (Looking loads the packages around it.)
    assert find_spec(_DEVICE) is not None, f"{_DEVICE} has another name now"
