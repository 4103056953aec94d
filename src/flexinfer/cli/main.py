"""The command line: one module a command, imported only when it is called.

Results go to stdout, progress and logs to stderr. Exit code 0, 1 with one sentence, 2 for wrong
usage.
"""

from __future__ import annotations

import importlib
import os
import sys

import click

from flexinfer import __version__
from flexinfer.errors import FlexInferError

_COMMANDS = {
    "run": "answer one prompt",
    "chat": "talk with a model; earlier turns are kept",
    "serve": "answer requests as llama.cpp's server does, inside the budget",
    "plan": "show what a memory budget would do",
    "demo": "a small model streamed, beside plain llama.cpp",
    "doctor": "what this machine offers, and what to change",
    "bench": "measure budgets and strategies for one model",
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
        _group(standalone_mode=False, color=_color())
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output left; what is left in the buffer has nowhere to go.
        sys.stdout = None
        sys.exit(1)
    except FlexInferError as error:
        click.echo(f"flexinfer: {error}", err=True)
        sys.exit(1)
    except MemoryError as error:
        what = str(error) or "the system has no memory left"
        click.echo(f"flexinfer: {what}; give a smaller --memory", err=True)
        sys.exit(1)
