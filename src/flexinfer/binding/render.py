"""Renders chat templates of strangers, in a process of its own that may not have much.

One request a line of bytes on standard input, one answer a line of JSON on standard output. It
ends with its input, or when nobody asked for a while.
"""

from __future__ import annotations

import base64
import json
import pickle
import resource
import select
import sys
from datetime import datetime
from functools import lru_cache
from typing import Any

ADDRESS_SPACE = 512 << 20
IDLE_SECONDS = 30.0
MAX_TEXT = 16 << 20


@lru_cache(maxsize=8)
def compiled(source: str) -> Any:
    """The template, as llama-cpp-python and transformers compile one."""
    from jinja2 import BaseLoader
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The tag around what a model said, which only training looks at."""

        tags = {"generation"}  # noqa: RUF012  (as jinja2 declares it)

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        loader=BaseLoader(),
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, loopcontrols],
    )
    environment.filters["tojson"] = _to_json
    return environment.from_string(source)


def render(source: str, values: dict[str, Any]) -> str:
    """The template's text for `values`.

    Raises:
        ValueError: it refuses them, or makes an endless text.
    """
    text = compiled(source).render(
        raise_exception=_refuse, strftime_now=lambda form: datetime.now().strftime(form), **values
    )
    if len(text) > MAX_TEXT:
        raise ValueError(f"it makes {len(text)} characters")
    return str(text)


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while select.select([sys.stdin], [], [], IDLE_SECONDS)[0]:
        line = sys.stdin.buffer.readline()
        if not line:
            return
        sys.stdout.write(json.dumps(_answer(line)) + "\n")
        sys.stdout.flush()


def _answer(line: bytes) -> dict[str, str]:
    try:
        source, values = pickle.loads(base64.b64decode(line))
        return {"text": render(source, values)}
    except MemoryError:
        return {"error": f"it wants more than {ADDRESS_SPACE >> 20} MiB of memory"}
    except RecursionError:
        return {"error": "it calls itself without an end"}
    except Exception as error:
        place = f", line {error.lineno}" if hasattr(error, "lineno") else ""
        return {"error": f"{' '.join(str(error).split())[:400]}{place}"}


def _refuse(message: str) -> None:
    raise ValueError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


if __name__ == "__main__":
    main()
