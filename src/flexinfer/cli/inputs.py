"""What a prompt and what shapes its answer are read from: options, files, standard input."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any, BinaryIO

import click

from flexinfer.errors import RequestError
from flexinfer.sizes import format_size
from flexinfer.text import decode, typed

# No context holds more text, and an endless file is no prompt.
_MOST_TEXT = 64 << 20
_MOST_IMAGE = 256 << 20

EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclass(frozen=True)
class Extras:
    """What `extra_options` collected: files beside the model, and of what bounds the answer."""

    lora: Path | None
    grammar: Path | None
    json_schema: Path | None

    def constraint(self) -> dict[str, Any]:
        """The keyword argument for `Llama.generate`, if the answer is bound.

        Raises:
            RequestError: the file cannot be read, or what is in it is no grammar or schema.
        """
        from flexinfer.binding.constraint import grammar, schema_grammar

        if self.grammar is not None:
            return {"grammar": grammar(read_text(self.grammar))}
        if self.json_schema is not None:
            return {"grammar": schema_grammar(read_text(self.json_schema))}
        return {}

    def model_options(self) -> dict[str, Any]:
        """Keyword arguments for `flexinfer.Llama`."""
        return {} if self.lora is None else {"lora_path": str(self.lora)}


@dataclass(frozen=True)
class Asked:
    """What `prompt_options` collected: where the prompt is, and images beside it."""

    prompt: str | None
    prompt_file: BinaryIO | None
    chat: bool
    mmproj: Path | None
    images: tuple[Path, ...]

    @property
    def as_chat(self) -> bool:
        """Whether to ask through the chat template; images come in no other way."""
        return self.chat or bool(self.images)

    def text(self) -> str:
        """The prompt: an option, a file, or standard input.

        Raises:
            RequestError: it is no text, empty, or endless.
        """
        return _prompt_text(self.prompt, self.prompt_file)

    def seen(self) -> list[bytes]:
        """The images.

        Raises:
            RequestError: one cannot be read, or is endless.
        """
        return [_bytes(image, _MOST_IMAGE) for image in self.images]


def prompt_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """A prompt and images: the command gets an `Asked` as `asked`."""
    names = [field.name for field in fields(Asked)]

    @wraps(command)
    def prompted(**options: Any) -> Any:
        asked = Asked(**{name: options.pop(name) for name in names})
        if asked.images and asked.mmproj is None:
            raise click.UsageError("--image needs --mmproj, the model's image projector")
        return command(asked=asked, **options)

    for option in (
        click.option(
            "--image",
            "images",
            type=EXISTING_FILE,
            multiple=True,
            help="An image to ask about, with --mmproj; may be repeated.",
        ),
        click.option(
            "--mmproj", type=EXISTING_FILE, help="An image projector (GGUF) of the model."
        ),
        click.option("--chat", is_flag=True, help="Ask through the model's chat template."),
        click.option(
            "-f", "--file", "prompt_file", type=click.File("rb"), help="Read the prompt from it."
        ),
        click.option("-p", "--prompt", help="The prompt; default: standard input."),
    ):
        prompted = option(prompted)
    return prompted


def extra_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Files beside the model: the command gets an `Extras` as `extras`."""
    names = [field.name for field in fields(Extras)]

    @wraps(command)
    def extended(**options: Any) -> Any:
        extras = Extras(**{name: options.pop(name) for name in names})
        if extras.grammar is not None and extras.json_schema is not None:
            raise click.UsageError("give either --grammar or --json-schema")
        return command(extras=extras, **options)

    for option in (
        click.option(
            "--json-schema", type=EXISTING_FILE, help="A JSON schema that the answer follows."
        ),
        click.option(
            "--grammar", type=EXISTING_FILE, help="A grammar (GBNF) that the answer follows."
        ),
        click.option("--lora", type=EXISTING_FILE, help="A LoRA adapter (GGUF) of the model."),
    ):
        extended = option(extended)
    return extended


def _prompt_text(prompt: str | None, file: BinaryIO | None) -> str:
    if prompt is not None and file is not None:
        raise click.UsageError("give either -p or -f")
    if prompt is not None:
        text = typed(prompt, "the prompt")
    elif file is not None:
        text = _read(file, f"the prompt in {file.name}")
    elif sys.stdin.isatty():
        raise click.UsageError("give a prompt with -p, -f or on standard input")
    else:
        text = _read(sys.stdin.buffer, "the prompt on standard input")
    if not text:
        raise RequestError("the prompt is empty; give some text")
    return text


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        RequestError: it cannot be read, is no text, or endless.
    """
    return decode(_bytes(path, _MOST_TEXT), str(path))


def _bytes(path: Path, most: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return _all(file, str(path), most)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error


def _read(file: BinaryIO, what: str) -> str:
    try:
        return decode(_all(file, what, _MOST_TEXT), what)
    except OSError as error:
        raise RequestError(f"{what} cannot be read: {error.strerror}") from error


def _all(file: BinaryIO, what: str, most: int) -> bytes:
    found = file.read(most + 1)
    if len(found) > most:
        raise RequestError(f"{what} has more than {format_size(most)}; give a shorter one")
    return found
