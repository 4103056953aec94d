"""Build llama.cpp's server and its RPC backend over the llama.cpp that pip installs.

    python build.py FOLDER PACKAGE

works in FOLDER and leaves both libraries in their places in PACKAGE, as `src/flexinfer`. Needs pip
and a C++ compiler; cmake and ninja are the system's or come by pip. The source is that of
llama-cpp-python, fetched by pip and checked against the hash in requirements.txt.
"""

from __future__ import annotations

import hashlib
import os
import runpy
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Each library with its folder in the package.
LIBRARIES = {"libflexinfer-server.so": "serve", "libflexinfer-rpc.so": "native"}
_PARTS = (
    *("cmake", "common", "ggml/include", "include", "licenses", "scripts/ui-assets.cmake"),
    *("ggml/src/ggml-backend-impl.h", "ggml/src/ggml-impl.h", "ggml/src/ggml-rpc"),
    *("src/llama-ext.h", "src/llama-grammar", "src/llama-impl.h", "src/llama-sampler.h"),
    *("src/llama-vocab.h", "tools/mtmd", "tools/server", "tools/ui/CMakeLists.txt", "tools/ui/ui."),
    "vendor",
)
_SUFFIXES = (".c", ".cpp", ".h", ".hpp", ".txt", ".cmake", ".in")


def pinned() -> str:
    """The requirement, as ``llama-cpp-python==0.3.36``."""
    lines = (HERE / "requirements.txt").read_text().splitlines()
    return next(line.split()[0] for line in lines if line and not line.startswith("#"))


def build(folder: Path, package: Path) -> None:
    """Build in `folder`, unless that was done from the same files before, and copy to `package`.

    Raises:
        RuntimeError: a tool is missing or a step failed; says which.
        OSError: a folder cannot be written.
    """
    place = folder / _digest()
    if not all((place / name).is_file() for name in LIBRARIES):
        shutil.rmtree(place, ignore_errors=True)
        _compile(_fetch(folder), place)
    for name, part in LIBRARIES.items():
        library = package / part / name
        library.parent.mkdir(parents=True, exist_ok=True)
        partial = library.with_suffix(".part")
        shutil.copyfile(place / name, partial)
        partial.replace(library)


def _sources() -> str:
    return str(runpy.run_path(str(HERE / "digest.py"))["sources_digest"](HERE))


def _digest() -> str:
    """Names what a build depends on."""
    found = hashlib.sha256(_sources().encode())
    for name in ("CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS"):
        found.update(os.environ.get(name, "").encode() + b"\0")
    return found.hexdigest()[:16]


def _fetch(folder: Path) -> Path:
    """llama.cpp's source in `folder`: only what is compiled."""
    name, version = pinned().split("==")
    # Another name where other parts are wanted than before.
    source = folder / f"llama.cpp-{version}-grammar"
    if source.is_dir():
        return source
    downloads = folder / "download"
    requirements = str(HERE / "requirements.txt")
    _pip("download", "--no-deps", "--no-binary", name, "--require-hashes", "--requirement",
         requirements, "--dest", str(downloads))  # fmt: skip
    partial = folder / "llama.cpp.part"
    shutil.rmtree(partial, ignore_errors=True)
    (archive,) = downloads.glob("llama_cpp_python-*.tar.gz")
    with tarfile.open(archive) as tar:
        for member in tar:
            _, _, path = member.name.partition("/vendor/llama.cpp/")
            wanted = path.startswith(_PARTS) and (path.endswith(_SUFFIXES) or "LICENSE" in path)
            stream = tar.extractfile(member) if wanted and ".." not in path else None
            if stream is not None:
                target = partial / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(stream.read())
    partial.rename(source)
    shutil.rmtree(downloads)
    return source


def _compile(source: Path, place: Path) -> None:
    work = place / "work"
    environment = _with_tools(place / "tools")
    jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(len(os.sched_getaffinity(0)))
    _run(
        ["cmake", "-S", str(HERE), "-B", str(work), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
         "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG", f"-DSRC={source}", f"-DSOURCE={pinned()}",
         f"-DDIGEST={_sources()}"],
        environment,
    )  # fmt: skip
    target = ["--target", "flexinfer-server", "flexinfer-rpc", "--parallel", jobs]
    _run(["cmake", "--build", str(work), *target], environment)
    for name in LIBRARIES:
        (work / name).replace(place / name)
    shutil.rmtree(work)


def _with_tools(folder: Path) -> dict[str, str]:
    """An environment that has cmake and ninja; those of pip in `folder`, where there are none."""
    environment = dict(os.environ)
    missing = [tool for tool in ("cmake", "ninja") if shutil.which(tool) is None]
    if missing:
        _pip("install", "--target", str(folder), *missing)
        environment["PATH"] = f"{folder / 'bin'}{os.pathsep}{environment.get('PATH', '')}"
        environment["PYTHONPATH"] = str(folder)
    return environment


def _pip(*arguments: str) -> None:
    quiet = ("--quiet", "--disable-pip-version-check")
    _run([sys.executable, "-m", "pip", *arguments[:1], *quiet, *arguments[1:]], dict(os.environ))


def _run(command: Sequence[str], environment: dict[str, str]) -> None:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-30:])
        raise RuntimeError(f"`{' '.join(command[:5])} ...` failed:\n{tail}")


if __name__ == "__main__":
    try:
        build(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
    except (RuntimeError, OSError) as error:
        sys.exit(f"flexinfer's server could not be built: {error}")
