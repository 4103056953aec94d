"""The page at `/` as one document: its sources inlined, with a policy that allows nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

_SOURCES = Path(__file__).with_name("page")
_STYLE = re.compile(r'<link rel="stylesheet" href="([\w.]+)">')
_SCRIPT = re.compile(r'<script src="([\w.]+)"></script>')
_HEAD = '<meta charset="utf-8">\n'


@cache
def page() -> str:
    """The document; it loads nothing, and runs no script and applies no style but its own."""
    hashes: dict[str, list[str]] = {"style": [], "script": []}

    def inline(kind: str, match: re.Match[str]) -> str:
        text = (_SOURCES / match[1]).read_text("utf-8")
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
        return f"<{kind}>{text}</{kind}>"

    text = (_SOURCES / "index.html").read_text("utf-8")
    text = _STYLE.sub(lambda match: inline("style", match), text)
    text = _SCRIPT.sub(lambda match: inline("script", match), text)
    policy = (
        f"default-src 'none'; style-src {' '.join(hashes['style'])}; "
        f"script-src {' '.join(hashes['script'])}; connect-src 'self'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
    return text.replace(_HEAD, _HEAD + meta, 1)
