"""The command line: one module a command, imported only when it is called.

Results go to stdout, progress and logs to stderr. Exit code 0, 1 with one sentence, 2 for wrong
usage.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys

import click

from flexinfer import __version__
from flexinfer.cli.signals import Ended, end_by_signals
from flexinfer.cli.streams import OutputLost, flush, log, open_streams
from flexinfer.errors import FlexInferError
from flexinfer.text import one_line

_COMMANDS = {
    "run": "answer one prompt",
    "chat": "talk with a model; earlier turns are kept",
    "serve": "answer requests as llama.cpp's server does, inside the budget",
    "batch": "answer a file of requests, as many at a time as pays",
    "worker": "lend this machine's memory to models that run on others",
    "plan": "show what a memory budget would do",
    "demo": "a small model streamed, beside plain llama.cpp",
    "doctor": "what this machine offers, and what to change",
    "bench": "measure budgets and strategies for one model",
    "pack": "write a copy of a model that need not be packed while it is read",
    "synth": "write a random-weight model of a real shape",
}


class _Lazy(click.Group):
    """A group that knows its commands by name and summary; importing one imports its module."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module = importlib.import_module(f"flexinfer.cli.{name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", prog_name="flexinfer")
def _group() -> None:
    """Run GGUF language models inside a memory budget, with exactly llama.cpp's output."""


def _color() -> bool | None:
    """False where nobody wants colours or sees them; None lets each stream decide.

    See https://no-color.org; a dumb terminal shows the codes as they are.
    """
    unwanted = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return False if unwanted else None


def main() -> None:
    """Entry point of `flexinfer`."""
    try:
        open_streams()
        end_by_signals()
        code = _run()
        flush()
    except OutputLost as error:
        # A reader that left knows; what came after is dropped.
        code = 1 if error.gone else _fail(str(error))
    except Ended as error:
        code = error.code
    except KeyboardInterrupt:
        code = 130
    # The interpreter would write what is left at its end, and complain.
    with contextlib.suppress(OutputLost):
        flush()
    sys.exit(code)


def _run() -> int:
    """Carry out a command; every error is one sentence on standard error."""
    try:
        # What `--help` and its like end with is returned.
        return int(_group(standalone_mode=False, color=_color()) or 0)
    except click.ClickException as error:
        return _misused(error)
    except click.Abort:
        return 130
    except FlexInferError as error:
        return _fail(str(error))
    except MemoryError as error:
        return _fail(f"{str(error) or 'the system has no memory left'}; give a smaller --memory")
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
        return _fail(f"{where}{(error.strerror or str(error)).lower()}")


def _fail(sentence: str) -> int:
    log(f"flexinfer: {one_line(sentence)}")
    return 1


def _misused(error: click.ClickException) -> int:
    if isinstance(error, click.UsageError) and error.ctx is not None:
        log(f"{error.ctx.get_usage()}\nTry '{error.ctx.command_path} -h'.")
    log(f"flexinfer: {one_line(error.format_message())}")
    return error.exit_code
