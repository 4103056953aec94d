"""Files that are no GGUF, named for what they are, with what to do.

By their first bytes. Signatures: the formats' own documents; of older formats of llama.cpp,
``llama.cpp`` before August 2023.
"""

from __future__ import annotations

import re

from flexinfer.gguf.packed_file import MARK

_CONVERT = (
    "take a GGUF of the model, or convert the model's folder with llama.cpp's convert_hf_to_gguf.py"
)
_UNPACK = "unpack it and give the GGUF file in it"
_AGAIN = "fetch the file itself again"
_OLD = "a model in a format before GGUF, which llama.cpp no longer reads"
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a git-lfs pointer, not the model", "run git lfs pull"),
    (b"lmgg", f"{_OLD} (ggml)", _CONVERT),
    (b"fmgg", f"{_OLD} (ggmf)", _CONVERT),
    (b"tjgg", f"{_OLD} (ggjt)", _CONVERT),
    (b"algg", "a LoRA adapter in a format before GGUF", "convert it with convert_lora_to_gguf.py"),
    (b"nsgg", "a session of llama.cpp, not a model", "give the model that wrote it"),
    (b"qsgg", "a saved state of llama.cpp, not a model", "give the model that wrote it"),
    (MARK, "a packed copy of a model", "give the model, and this file with --mirror"),
    (b"\x1f\x8b", "a gzip archive", "gunzip it and give the GGUF file in it"),
    (b"BZh", "a bzip2 archive", _UNPACK),
    (b"\xfd7zXZ\0", "an xz archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it with zstd -d"),
    (b"\x04\x22\x4d\x18", "an lz4 archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "a rar archive", _UNPACK),
    (b"MZqFpD", "a llamafile", "unzip it and give the GGUF file in it"),
    (b"\x89HDF", "an HDF5 file", _CONVERT),
    (b"\x93NUMPY", "a NumPy array", _CONVERT),
    (b"\x89PNG", "a picture", _AGAIN),
    (b"\xff\xd8\xff", "a picture", _AGAIN),
    (b"%PDF", "a PDF document", _AGAIN),
    (b"\x7fELF", "a program", "give the path of a GGUF file"),
    (b"HTTP/", "a server's answer with its headers", _AGAIN),
)
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_TEXT = re.compile(rb"[\t\n\r\x20-\x7e\x80-\xff]*\Z")


def name_stranger(head: bytes, size: int) -> tuple[str, str]:
    """What a file of `size` bytes is that begins with `head`, and what to do about it."""
    for signature, what, todo in _SIGNATURES:
        if head.startswith(signature):
            return what, todo
    named = _by_structure(head, size) or _by_text(head)
    return named or ("no GGUF file: it does not start with 'GGUF'", _AGAIN)


def _by_structure(head: bytes, size: int) -> tuple[str, str] | None:
    if not size:
        return "empty", _AGAIN
    if not head.strip(b"\0"):
        return "full of zeros where it begins: its download was not completed", _AGAIN
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        return "a safetensors file", _CONVERT
    if head.startswith(b"PK\3\4"):
        # PyTorch's archives begin with the pickle, in a folder of the archive's name.
        name = head[30 : 30 + int.from_bytes(head[26:28], "little")]
        if name.endswith((b"/data.pkl", b"/version", b"/byteorder")):
            return "a PyTorch checkpoint", _CONVERT
        return "a zip archive", _UNPACK
    if _PICKLE.match(head):
        return "a Python pickle, as PyTorch writes", _CONVERT
    if head[257:262] == b"ustar":
        return "a tar archive", _UNPACK
    return None


def _by_text(head: bytes) -> tuple[str, str] | None:
    if not _TEXT.match(head):
        return None
    text = head.decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    start = text[:200].lower()
    if re.match(r"<!doctype html|<html|<head|<body", start):
        return (
            "an HTML page under the model's name",
            "fetch the file itself; a hub's page has its address under download (/resolve/)",
        )
    if start.startswith("<?xml"):
        return "an XML document, such as a server's error", _AGAIN
    if start.startswith(("{", "[")):
        return _json(text)
    line = " ".join(text.split())[:60]
    return f"text that begins with {line!r}", _AGAIN


def _json(text: str) -> tuple[str, str]:
    if "vnd.ollama" in text or "vnd.docker.distribution" in text:
        return (
            "a manifest of ollama",
            "give the blob that it names as application/vnd.ollama.image.model",
        )
    if '"weight_map"' in text:
        return "the index of a safetensors model", _CONVERT
    if '"architectures"' in text or '"model_type"' in text:
        return "a model's config.json", _CONVERT
    return "a JSON document, such as a server's error", _AGAIN
