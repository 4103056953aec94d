"""What a path tells about a file that cannot be read: a part, a reference, somebody's address."""

from __future__ import annotations

import os
import re
from pathlib import Path

_PART = re.compile(
    r"(?P<stem>(?P<whole>.+\.gguf)[.\-_]?(?:part|split|chunk|p)?[.\-_]?)"
    # Letters as split gives them; gz and xz are none.
    r"(?P<number>\d{1,5}(?:[-_]?of[-_]?\d{1,5})?|[a-z]|[a-f][a-z])\Z",
    re.IGNORECASE,
)
_OF = r"[-_]?of[-_]?\d{1,4}"
# Shards of llama.cpp have numbers of five digits, and are files of their own.
_INNER_PARTS = (
    r"(?P<name>.+?)(?P<mark>[.\-_](?:part|split|chunk)[.\-_]?)"
    rf"(?:\d{{1,4}}|[a-f]?[a-z])(?P<of>{_OF})?\.gguf\Z",
    rf"(?P<name>.+?)(?P<mark>[.\-_])\d{{1,4}}(?P<of>{_OF})\.gguf\Z",
)
_UNFINISHED = re.compile(
    r"\.(part|partial|crdownload|download|opdownload|tmp|incomplete|aria2|!ut|flexinfer-part)\Z",
    re.IGNORECASE,
)
_ADDRESS = re.compile(
    r"(?:hf://|(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/)(?:models/)?"
    r"(?P<repo>[\w.-]+/[\w.-]+)"
    r"(?:/(?:resolve|blob|tree|raw)/(?P<revision>[^/?#]+)(?:/(?P<file>[^?#]+))?)?"
    r"(?::(?P<quant>[\w.-]+))?/?(?:[?#].*)?\Z"
)
_REPOSITORY = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w.-]+)(?::(?P<want>[\w.-]+))?\Z")
_HUB_FILE = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w.-]+)/(?P<file>[^:]+\.gguf)\Z", re.IGNORECASE)
_OLLAMA = re.compile(r"\w[\w.-]{0,80}(?::[\w.-]+)?\Z|registry\.ollama\.ai/.+|ollama://.+")
_FOLDER_LIMIT = 5


def part_of(path: str) -> str:
    """What to do with a file that is one part of a whole; empty where its name says nothing."""
    match = _PART.fullmatch(path)
    if match is not None:
        whole = Path(match["whole"]).name
        stem = Path(match["stem"]).name
        return f"it is one part of {whole}: join all parts in order (cat {stem}* > {whole})"
    for pattern in _INNER_PARTS:
        match = re.fullmatch(pattern, path, re.IGNORECASE)
        if match is not None:
            name, of = Path(match["name"]).name, match["of"] or ""
            all_parts = f"{name}{match['mark']}*{of}.gguf"
            whole = f"{name}.gguf"
            return f"it is one part of {whole}: join all parts in order (cat {all_parts} > {whole})"
    if _UNFINISHED.search(path):
        return "its download is not finished: complete it"
    return ""


def meant_by(path: str) -> str:
    """What to do where no file has this path."""
    expanded = os.path.expanduser(os.path.expandvars(path))
    if expanded != path and os.path.exists(expanded):
        return f"write {expanded}, as nobody else expands what a shell would"
    bare = path.strip(" \t\r\n'\"")
    if bare != path and os.path.exists(bare):
        return f"write {bare}, without the signs around it"
    if path.lower().startswith("hf:") and not path.startswith("hf:"):
        return f"for a model of the hub write hf:{path[3:]}"
    if path.startswith("hf:") and not path.startswith("hf://"):
        return (
            "the commands run, chat and plan fetch models of the hub; in Python take "
            "Llama.from_pretrained, or give the path of a file"
        )
    address = _ADDRESS.fullmatch(path)
    if address is not None:
        return _hub(address["repo"], address["revision"], address["file"] or address["quant"])
    if "://" in path:
        return "an address cannot be opened: download the file and give its path"
    repository = _REPOSITORY.fullmatch(path)
    if repository is not None and not path.lower().endswith(".gguf"):
        return _hub(repository["repo"], None, repository["want"])
    file = _HUB_FILE.fullmatch(path)
    if file is not None and not os.path.exists(path.partition("/")[0]):
        return f"give the path of a GGUF file; {_hub(file['repo'], None, file['file'])}"
    if _OLLAMA.fullmatch(path) and not path.lower().endswith(".gguf"):
        return (
            "names of ollama's library are not known here: give the path of a GGUF file, or "
            "hf:user/repo[:quant] for a model of the hub"
        )
    return "give the path of a GGUF file that you may read"


def in_folder(path: str) -> str:
    """What to give instead of a folder."""
    try:
        names = sorted(os.listdir(path))
    except OSError:
        names = []
    models = [name for name in names if name.lower().endswith(".gguf")]
    if models:
        more = ", ..." if len(models) > _FOLDER_LIMIT else ""
        return f"give a file in it: {', '.join(models[:_FOLDER_LIMIT])}{more}"
    if any(name.endswith((".safetensors", ".bin", ".pth")) for name in names):
        return "it holds no GGUF file: convert it with llama.cpp's convert_hf_to_gguf.py"
    return "give the path of a GGUF file"


def _hub(repo: str, revision: str | None, want: str | None) -> str:
    at = f"@{revision}" if revision and revision != "main" else ""
    reference = f"hf:{repo}{at}" + (f":{want}" if want else "")
    return f"for a model of the hub write {reference} (in Python take Llama.from_pretrained)"
