"""llama-server as llama.cpp means it, in a process that is seen to hold nothing of ours.

python -m support.plain_server ARGUMENTS
"""

from __future__ import annotations

import sys

from flexinfer.bench.plain_server import serve
from support.plainly import require_plain

if __name__ == "__main__":
    require_plain()
    sys.exit(serve(sys.argv[1:]))
