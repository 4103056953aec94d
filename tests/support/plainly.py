"""Whether this process is plain llama.cpp's: none of our native modules was ever loaded."""

from __future__ import annotations

import sys
from importlib.util import find_spec

_DEVICE = "flexinfer.native.device.device"


def require_plain() -> None:
    """End a process that registers the device, or could without being seen here."""
    assert [name for name in sys.modules if name.startswith("flexinfer.native")] == []
    # By another name it would not be seen. (Looking loads the packages around it.)
    assert find_spec(_DEVICE) is not None, f"{_DEVICE} has another name now"
