"""Standard streams of each command: full, closed, gone, in encodings that lack its signs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import click
import pytest
from support.command import FLEXINFER, in_shell
from support.packed import require_packed_kernels
from support.terminals import TERMINALS
from support.tiny_model import TinyModel

from flexinfer.cli import main

_RUN = ("-p", "one", "-n", "3", "--temp", "0", "--weight-memory", "2MiB")
_WORDS: dict[str, tuple[str, ...]] = {
    "run": ("MODEL", *_RUN),
    "chat": ("MODEL", "-n", "3", "--temp", "0", "--weight-memory", "2MiB"),
    "plan": ("MODEL", "--memory", "200MiB", "--curve", "-v"),
    "demo": ("-n", "4"),
    "doctor": (),
    "bench": ("MODEL", "--out", "FOLDER", "--report-only"),
    "pack": ("QUANTISED", "COPY", "--force"),
    "synth": (),
}
# What a command writes before it is done; `bench` has nothing to report here.
_SAYS = sorted(set(_WORDS) - {"bench", "chat"})


def test_each_command_is_here() -> None:
    assert isinstance(main._group, click.Group)
    # These need a library that is built apart: `test_serving_streams`.
    assert {*_WORDS, "serve", "batch", "worker"} == {
        *main._group.list_commands(click.Context(main._group))
    }


@pytest.fixture
def words(
    tiny_model: TinyModel, tmp_path: Path, request: pytest.FixtureRequest
) -> dict[str, tuple[str, ...]]:
    """The words of each command."""
    if "name" in request.fixturenames and request.getfixturevalue("name") == "pack":
        require_packed_kernels()
    known = {"MODEL": str(tiny_model("tiny-llama")), "FOLDER": str(tmp_path)}
    known |= {"QUANTISED": str(tiny_model("tiny-llama", "q4_0")), "COPY": str(tmp_path / "copy")}
    return {
        name: (name, *(known.get(word, word) for word in some)) for name, some in _WORDS.items()
    }


@pytest.fixture
def typed(tmp_path: Path) -> str:
    """A file to type from: the redirection that does it."""
    (tmp_path / "typed").write_text("one\n")
    return f"< {tmp_path / 'typed'}"


def _clean(done: subprocess.CompletedProcess[bytes]) -> None:
    for said in (done.stdout, done.stderr):
        assert b"Traceback" not in said
        assert b"Exception ignored" not in said


@pytest.mark.parametrize("name", [*_SAYS, "chat"])
@pytest.mark.parametrize(
    ("redirection", "why"),
    [("> /dev/full", b"no space left on device"), (">&-", b"it is closed")],
)
def test_a_result_that_cannot_be_written_is_told(
    words: dict[str, tuple[str, ...]], typed: str, name: str, redirection: str, why: bytes
) -> None:
    done = in_shell(f"{redirection} {typed}", *words[name])
    _clean(done)
    assert done.returncode == 1
    *_, last = done.stderr.splitlines()
    assert last == b"flexinfer: standard output cannot be written: " + why


@pytest.mark.parametrize("name", [*_SAYS, "chat"])
@pytest.mark.parametrize("redirection", ["2> /dev/full", "2>&-"])
def test_a_log_that_cannot_be_written_costs_no_result(
    words: dict[str, tuple[str, ...]], typed: str, name: str, redirection: str
) -> None:
    done = in_shell(f"{redirection} {typed}", *words[name])
    _clean(done)
    assert done.returncode == 0
    fine = in_shell(typed, *words[name])
    if name == "demo":  # it tells its own times
        assert b"tokens are the same" in done.stdout
    elif name != "doctor":  # what is free changes
        assert done.stdout == fine.stdout
    assert len(done.stdout) > 3


@pytest.mark.parametrize("name", list(_WORDS))
def test_an_input_that_is_closed_is_an_empty_one(
    words: dict[str, tuple[str, ...]], name: str
) -> None:
    done, empty = in_shell("<&-", *words[name]), in_shell("< /dev/null", *words[name])
    _clean(done)
    assert done.returncode == empty.returncode == (1 if name == "bench" else 0)


@pytest.mark.parametrize("name", ["run", "chat"])
def test_an_endless_input_is_refused(words: dict[str, tuple[str, ...]], name: str) -> None:
    some = [word for word in words[name] if word not in ("-p", "one")]
    done = in_shell("< /dev/full", *some)
    _clean(done)
    assert done.returncode == 1
    assert b"has more than 64.0 MiB" in done.stderr


@pytest.mark.parametrize("name", [*_SAYS, "chat"])
def test_a_reader_that_leaves_needs_no_message(
    words: dict[str, tuple[str, ...]], typed: str, name: str
) -> None:
    with subprocess.Popen(
        ["sh", "-c", f'exec "$@" {typed}', "sh", *FLEXINFER, *words[name]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert b"Traceback" not in said
    assert b"Exception ignored" not in said
    assert b"cannot be written" not in said


def test_no_file_takes_the_number_of_a_closed_stream(
    words: dict[str, tuple[str, ...]], typed: str, tmp_path: Path
) -> None:
    """llama.cpp writes to descriptor 2 whoever has it."""
    done = in_shell(f"2>&- {typed}", *words["chat"], "-v", "--session", str(tmp_path / "s.json"))
    assert done.returncode == 0
    assert (tmp_path / "s.json").read_text().startswith("{")
    done = in_shell("<&- 2>&-", *words["run"], "-v")
    assert done.returncode == 0


@pytest.mark.parametrize("name", [*_SAYS, "chat"])
@pytest.mark.parametrize(
    "variables",
    TERMINALS,
    ids=lambda variables: "-".join(f"{name}={value}" for name, value in variables.items()),
)
def test_terminals_of_all_kinds(
    words: dict[str, tuple[str, ...]], typed: str, name: str, variables: dict[str, str]
) -> None:
    done = in_shell(typed, *words[name], **variables)
    _clean(done)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 3
    if "PYTHONIOENCODING" in variables:
        done.stdout.decode(variables["PYTHONIOENCODING"])
    if name == "plan":
        blank = b"." if "PYTHONIOENCODING" in variables or "LC_ALL" in variables else "·".encode()
        assert b"attn_q" in done.stdout
        if variables != {"PYTHONIOENCODING": "latin-1"}:
            assert blank in done.stdout
    assert b"\x1b" not in done.stdout


def test_an_encoding_without_stand_ins_is_not_taken(words: dict[str, tuple[str, ...]]) -> None:
    done = in_shell("", *words["plan"], PYTHONIOENCODING="idna")
    assert done.returncode == 0, done.stderr
    assert "attn_q" in done.stdout.decode("utf-8")
