"""The page at `/` as one document: its sources inlined, with a policy that allows nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

_SOURCES = Path(__file__).with_name("page")
_SOURCE = re.compile(r'(?:href|src)="([\w.]+)"')
_STYLES = re.compile(r'(?:<link rel="stylesheet" href="[\w.]+">\n)+')
_SCRIPTS = re.compile(r'(?:<script src="[\w.]+"></script>\n)+')
# Scripts that run while the first frame is drawn delay it by as long, most where they read what the
# browser keeps: that is another process.
_AFTER_FIRST_PAINT = (
    '"use strict";\nnew PerformanceObserver((entries, observer) => {\nobserver.disconnect();\n',
    '}).observe({ type: "paint", buffered: true });\n',
)
_HEAD = '<meta charset="utf-8">\n'


@cache
def page() -> str:
    """The document; it loads nothing, and runs no script and applies no style but its own.

    Scripts run once it is painted.
    """
    text = (_SOURCES / "index.html").read_text("utf-8")
    hashes: dict[str, list[str]] = {"style": [], "script": []}

    def inline(kind: str, match: re.Match[str], around: tuple[str, str] = ("", "")) -> str:
        found = "".join((_SOURCES / name).read_text("utf-8") for name in _SOURCE.findall(match[0]))
        found = found.join(around)
        digest = base64.b64encode(hashlib.sha256(found.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
        return f"<{kind}>{found}</{kind}>\n"

    text = _STYLES.sub(lambda match: inline("style", match), text)
    text = _SCRIPTS.sub(lambda match: inline("script", match, _AFTER_FIRST_PAINT), text)
    policy = (
        f"default-src 'none'; style-src {' '.join(hashes['style'])}; "
        f"script-src {' '.join(hashes['script'])}; connect-src 'self'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
    return text.replace(_HEAD, _HEAD + meta, 1)
