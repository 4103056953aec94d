"""Which of llama-server's flags are passed on."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexinfer.errors import RequestError
from flexinfer.serve.arguments import read_extra, refuse_surroundings


def test_what_is_allowed_is_passed_on_as_it_is() -> None:
    flags = ["--temp", "0.2", "--jinja", "--reasoning-format", "none", "-lv", "1"]
    extra = read_extra(flags)
    assert extra.flags == tuple(flags)
    assert (extra.drafts, extra.draft_model, extra.checkpoints) == (0, None, None)
    assert extra.cache_mib is None


def test_caches_are_counted() -> None:
    extra = read_extra(["-cram", "64", "--swa-checkpoints", "3"])
    assert (extra.cache_mib, extra.checkpoints) == (64, 3)


@pytest.mark.parametrize(
    ("flags", "drafts"),
    [
        (["-md", "small.gguf"], 3),
        (["-md", "small.gguf", "--spec-draft-n-max", "7"], 7),
        (["--spec-type", "ngram-simple"], 48),
        (["--spec-type", "ngram-simple,ngram-mod", "--spec-ngram-mod-n-max", "9"], 48),
    ],
)
def test_drafts_are_counted(flags: list[str], drafts: int) -> None:
    assert read_extra(flags).drafts == drafts


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--tools", "all"], "'--tools' is not among"),
        (["--mcp-servers-json", "{}"], "not among"),
        (["--gpt-oss-20b-default"], "not among"),
        (["--sleep-idle-seconds", "9"], "use --idle-release"),
        (["-c", "4096"], "use --ctx"),
        (["-np", "4"], "use --slots"),
        (["--ssl-key-file", "key"], "go together; give both or neither"),
        (
            ["--ssl-key-file", "no-key", "--ssl-cert-file", "none"],
            "none with no-key: no certificate",
        ),
        (["-cram", "-1"], "--cache-ram -1 is no number; give 0 or more"),
        (["--temp"], "--temp after -- lacks its value"),
        (["--temp", "1", "extra"], "'extra' is not among"),
        (["--temp=1"], "'--temp=1' is not among"),
        (["--spec-type", "draft-eagle3"], "draft-eagle3 is not planned for"),
        (["-md", "x", "--spec-draft-n-max", "many"], "--spec-draft-n-max many is no number"),
    ],
)
def test_others_are_refused_by_name(flags: list[str], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        read_extra(flags)


@pytest.mark.parametrize("name", ["LLAMA_ARG_CTX_SIZE", "AIP_MODE", "LLAMA_API_KEY"])
def test_variables_are_refused_by_name(name: str, tmp_path: Path) -> None:
    surroundings = {"XDG_CONFIG_HOME": str(tmp_path), "LLAMA_CPP_LIB": "x"}
    refuse_surroundings(surroundings)
    with pytest.raises(RequestError, match=f"the environment has {name}"):
        refuse_surroundings({**surroundings, name: "1"})


@pytest.mark.parametrize("variable", ["XDG_CONFIG_HOME", "HOME"])
def test_configuration_files_are_refused_by_name(variable: str, tmp_path: Path) -> None:
    folder = tmp_path / ("llama.cpp" if variable == "XDG_CONFIG_HOME" else ".config/llama.cpp")
    folder.mkdir(parents=True)
    refuse_surroundings({variable: str(tmp_path)})
    (folder / "config.ini").write_text("[*]\n")
    with pytest.raises(RequestError, match=r"llama\.cpp/config\.ini sets llama\.cpp's options"):
        refuse_surroundings({variable: str(tmp_path)})
