"""Files that are no GGUF, and names that no file has: what they are, and what to do."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import socket
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexinfer.errors import ModelFileError, ModelNotFoundError, ReadError
from flexinfer.gguf.catalogue import read_catalogue
from flexinfer.gguf.strangers import name_stranger
from flexinfer.synth.write import write_model

MODEL = b"GGUF" + bytes(3000)
CONVERT = "convert_hf_to_gguf.py"


def _zip(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, MODEL)
    return file.getvalue()


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        info = tarfile.TarInfo("model.gguf")
        info.size = len(MODEL)
        archive.addfile(info, io.BytesIO(MODEL))
    return file.getvalue()


def _safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(16)


_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4108916416\n"
_MANIFEST = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
    "layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:6a"}],
}
STRANGERS = {
    "git-lfs": (_POINTER, "git-lfs pointer", "git lfs pull"),
    "page": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "HTML page", "/resolve/"),
    "page of hub": (b"<html class='x'>", "HTML page", "/resolve/"),
    "server": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "XML", "fetch"),
    "error": (b'{"error":"Repository not found"}', "JSON document", "fetch"),
    "word": (b"Entry not found", "text that begins with 'Entry not found'", "fetch"),
    "headers": (b"HTTP/1.1 200 OK\r\n\r\nGGUF", "server's answer", "fetch"),
    "safetensors": (_safetensors(), "a safetensors file", CONVERT),
    "index": (b'{"metadata": {}, "weight_map": {}}', "index of a safetensors model", CONVERT),
    "config": (b'{"architectures": ["Llama"]}', "config.json", CONVERT),
    "pytorch": (_zip("archive/data.pkl"), "a PyTorch checkpoint", CONVERT),
    "pickle": (pickle.dumps({"w": 1}, protocol=2), "pickle", CONVERT),
    "ggml": (struct.pack("<I", 0x67676D6C), "format before GGUF", CONVERT),
    "ggmf": (struct.pack("<II", 0x67676D66, 1), "format before GGUF", CONVERT),
    "ggjt": (struct.pack("<II", 0x67676A74, 3), "format before GGUF", CONVERT),
    "ggla": (struct.pack("<I", 0x67676C61), "LoRA adapter", "convert_lora_to_gguf.py"),
    "ggsn": (struct.pack("<I", 0x6767736E), "session of llama.cpp", "give the model"),
    "gzip": (gzip.compress(MODEL), "a gzip archive", "gunzip"),
    "bzip2": (bz2.compress(MODEL), "a bzip2 archive", "unpack"),
    "xz": (lzma.compress(MODEL), "an xz archive", "unpack"),
    "zstd": (b"\x28\xb5\x2f\xfd" + MODEL, "a zstd archive", "zstd -d"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + MODEL, "a 7z archive", "unpack"),
    "rar": (b"Rar!\x1a\x07\1" + MODEL, "a rar archive", "unpack"),
    "zip": (_zip("model.gguf"), "a zip archive", "unpack"),
    "tar": (_tar(), "a tar archive", "unpack"),
    "ollama": (json.dumps(_MANIFEST).encode(), "manifest of ollama", "blob"),
    "llamafile": (b"MZqFpD='\n", "a llamafile", "unzip"),
    "empty": (b"", "is empty", "fetch"),
    "zeros": (bytes(9000), "full of zeros where it begins", "fetch"),
    "noise": (b"\x01\xff\x00\x93\x02" * 30, "no GGUF file", "fetch"),
    "reversed": (b"FUGG" + bytes(40), "no GGUF file", "fetch"),
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_a_stranger_is_named_with_what_to_do(kind: str, tmp_path: Path) -> None:
    body, what, todo = STRANGERS[kind]
    path = tmp_path / "model.gguf"
    path.write_bytes(body)
    with pytest.raises(ModelFileError) as error:
        read_catalogue(path)
    said = str(error.value)
    assert said.startswith(f"{path} is ")
    assert what in said
    assert todo in said
    assert "\n" not in said


@given(head=st.binary(max_size=600), size=st.integers(0, 1 << 40))
def test_whatever_comes_is_one_line(head: bytes, size: int) -> None:
    what, todo = name_stranger(head, size)
    assert what.isprintable()
    assert todo.isprintable()


# -- parts and shards ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "join"),
    [
        (".part1of2", "cat model.gguf.part* > model.gguf"),
        (".part01", "cat model.gguf.part* > model.gguf"),
        (".001", "cat model.gguf.* > model.gguf"),
        (".aa", "cat model.gguf.* > model.gguf"),
        ("-split-a", "cat model.gguf-split-* > model.gguf"),
        (".partaa", "cat model.gguf.part* > model.gguf"),
        (".gguf-00001-of-00002", "cat model.gguf.gguf-* > model.gguf.gguf"),
        ("-part-1.gguf", "cat model.gguf-part-*.gguf > model.gguf.gguf"),
        (".part1.gguf", "cat model.gguf.part*.gguf > model.gguf.gguf"),
        ("_part1of2.gguf", "cat model.gguf_part*of2.gguf > model.gguf.gguf"),
        ("-1-of-2.gguf", "cat model.gguf-*-of-2.gguf > model.gguf.gguf"),
        ("-split-a.gguf", "cat model.gguf-split-*.gguf > model.gguf.gguf"),
        (".part", "download is not finished"),
        (".crdownload", "download is not finished"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_part_of_a_file_is_to_be_joined(
    tmp_path: Path, suffix: str, join: str, first: bool
) -> None:
    [path] = write_model("tiny-llama", tmp_path / "whole.gguf", "q4_0")
    body = Path(path).read_bytes()
    part = tmp_path / f"model.gguf{suffix}"
    part.write_bytes(body[: len(body) // 2] if first else body[len(body) // 2 :])
    with pytest.raises(ModelFileError) as error:
        read_catalogue(part)
    assert join in str(error.value)
    assert "download it again" not in str(error.value)


def test_a_whole_file_may_be_called_a_part(tmp_path: Path) -> None:
    [path] = write_model("tiny-llama", tmp_path / "model.gguf.part1", "q4_0")
    assert read_catalogue(path).architecture == "llama"


@pytest.mark.parametrize("name", ["m.gguf.gz", "m.gguf.xz", "my-part-model.gguf", "m-1b.gguf"])
def test_a_name_that_is_no_part(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(MODEL))
    with pytest.raises(ModelFileError, match="is a gzip archive; gunzip"):
        read_catalogue(path)


def test_a_socket_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("m.gguf")
        with pytest.raises(ModelFileError, match=r"m\.gguf is no regular file; give the path"):
            read_catalogue("m.gguf")


def test_an_empty_path_is_said_to_be_empty() -> None:
    with pytest.raises(ModelNotFoundError, match=r"^the path of the model is empty; give that"):
        read_catalogue("")


def test_a_split_model_names_the_shard_that_is_meant(tmp_path: Path) -> None:
    first, second = write_model("tiny-llama", tmp_path / "model.gguf", "q4_0", split=2)
    with pytest.raises(ModelFileError, match=r"shard 2 of 2; give the path of the first"):
        read_catalogue(second)
    Path(second).unlink()
    with pytest.raises(ModelNotFoundError) as error:
        read_catalogue(first)
    assert "shard 2 of 2 is missing" in str(error.value)
    assert "hf:" not in str(error.value)


# -- names that no file has ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("user/repo", "write hf:user/repo "),
        ("user/repo:Q4_K_M", "write hf:user/repo:Q4_K_M "),
        ("https://huggingface.co/user/repo", "write hf:user/repo "),
        ("https://huggingface.co/user/repo/tree/main", "write hf:user/repo "),
        ("https://huggingface.co/user/repo/tree/v2", "write hf:user/repo@v2 "),
        ("https://huggingface.co/u/r/resolve/main/a/b.gguf?download=true", "hf:u/r:a/b.gguf "),
        ("https://huggingface.co/u/r/blob/v1/b.gguf", "hf:u/r@v1:b.gguf "),
        ("hf.co/user/repo:Q4_0", "write hf:user/repo:Q4_0 "),
        ("hf://user/repo", "write hf:user/repo "),
        ("hf:user/repo", "Llama.from_pretrained"),
        ("https://example.org/m.gguf", "download the file"),
        ("llama3", "names of ollama's library"),
        ("llama3.2:3b", "names of ollama's library"),
        ("registry.ollama.ai/library/llama3", "names of ollama's library"),
        ("models/m.gguf", "give the path of a GGUF file"),
        ("/no/such/model.gguf", "give the path of a GGUF file"),
        ("m.gguf", "give the path of a GGUF file"),
        ("HF:user/repo:Q4_0", "write hf:user/repo:Q4_0"),
        ("user/repo/m.Q4_0.gguf", "hf:user/repo:m.Q4_0.gguf "),
        ("-", "give the path of a GGUF file"),
        ("x" * 200, "give the path of a GGUF file"),
    ],
)
def test_a_name_that_no_file_has_gets_a_hint(
    name: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError) as error:
        read_catalogue(name)
    said = str(error.value)
    assert said.startswith(f"{name}: no such file or directory; ")
    assert hint in said


def test_a_tilde_that_nobody_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m.gguf").write_bytes(MODEL)
    with pytest.raises(ModelNotFoundError, match=f"write {tmp_path}/m.gguf"):
        read_catalogue("~/m.gguf")


@pytest.mark.parametrize("written", ["$NOWHERE_BUT_HERE/m.gguf", "'{0}/m.gguf'", "{0}/m.gguf\r"])
def test_a_path_as_a_shell_was_to_see_it(
    written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOWHERE_BUT_HERE", str(tmp_path))
    (tmp_path / "m.gguf").write_bytes(MODEL)
    with pytest.raises(ModelNotFoundError, match=f"; write {tmp_path}/m.gguf,"):
        read_catalogue(written.format(tmp_path))


def test_a_folder_says_what_is_in_it(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="directory; give the path of a GGUF file"):
        read_catalogue(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelFileError, match=f"no GGUF file: convert it .*{CONVERT}"):
        read_catalogue(tmp_path)
    (tmp_path / "b.gguf").touch()
    (tmp_path / "a.gguf").touch()
    with pytest.raises(ModelFileError, match=r"directory; give a file in it: a\.gguf, b\.gguf"):
        read_catalogue(tmp_path)


# -- reading ---------------------------------------------------------------------------------------


def test_no_descriptor_left_is_not_the_models_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "open", none_left)
    with pytest.raises(ModelNotFoundError, match=r"too many open files; raise .* ulimit -n 4096"):
        read_catalogue(tmp_path / "m.gguf")


@pytest.mark.parametrize("most", [1, 7, 1_001])
def test_a_header_may_come_in_crumbs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    [path] = write_model("tiny-llama", tmp_path / "m.gguf", "q4_0")
    expected = read_catalogue(path)
    real, calls = os.pread, [0]

    def pread(fd: int, nbytes: int, offset: int) -> bytes:
        calls[0] += 1
        if calls[0] == 3:
            return b""
        if calls[0] == 5:
            raise OSError(5, "Input/output error")
        return real(fd, min(nbytes, most if calls[0] < 50 else nbytes), offset)

    monkeypatch.setattr(os, "pread", pread)
    assert read_catalogue(path) == expected


def test_a_mount_that_gives_nothing_is_not_called_truncated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [path] = write_model("tiny-llama", tmp_path / "m.gguf", "q4_0")
    monkeypatch.setattr(os, "pread", lambda *_: b"")
    with pytest.raises(ReadError, match="no bytes come from byte 0 on, though the file has"):
        read_catalogue(path)
