"""Builds llama.cpp's server and RPC backend into the wheel, or into an editable install.

FLEXINFER_NO_SERVER=1 leaves them out: without, `serve`, `batch` and workers are missing.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_PACKAGE = Path("flexinfer")


class ServerHook(BuildHookInterface):  # type: ignore[type-arg]
    def dependencies(self) -> list[str]:
        if not self._wanted():
            return []
        # The source comes by pip, which a build environment does not have.
        return ["pip", *(tool for tool in ("cmake", "ninja") if shutil.which(tool) is None)]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        sources = Path(self.root, "server-build")
        # What `flexinfer serve --build` needs later.
        if version != "editable":
            build_data["force_include"][str(sources)] = str(_PACKAGE / "serve" / "server-build")
        if not self._wanted():
            return
        server_build = _load(sources / "build.py")
        folder = Path(self.root, "build", "server")
        editable = version == "editable"
        package = Path(self.root, "src") / _PACKAGE if editable else folder / "package"
        try:
            server_build.build(folder, package)
        except (RuntimeError, OSError) as error:
            raise SystemExit(
                f"flexinfer's server could not be built: {error}\n"
                "Without it everything but `flexinfer serve` works: set FLEXINFER_NO_SERVER=1"
            ) from None
        if not editable:
            for name, part in server_build.LIBRARIES.items():
                library = package / part / name
                build_data["force_include"][str(library)] = str(_PACKAGE / part / name)
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform}"

    def _wanted(self) -> bool:
        return self.target_name == "wheel" and not os.environ.get("FLEXINFER_NO_SERVER")


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("server_build", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A cache beside the sources would be packed with them.
    sys.dont_write_bytecode = True
    spec.loader.exec_module(module)
    return module
