"""The command `flexinfer` as a person calls it, and what a mistake may say."""

from __future__ import annotations

import os
import subprocess
import sys

FLEXINFER = (sys.executable, "-m", "flexinfer")


def flexinfer(
    *arguments: object, text: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """The command with `text` on standard input and `variables` in its environment."""
    return subprocess.run(
        [*FLEXINFER, *map(str, arguments)],
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | variables,
    )


def in_shell(
    redirections: str, *arguments: object, **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """The command with its streams as a shell would redirect them; what is not is captured."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirections}', "sh", *FLEXINFER, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
        env=os.environ | variables,
    )


def assert_one_sentence(done: subprocess.CompletedProcess[str], *words: str, code: int = 1) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr
