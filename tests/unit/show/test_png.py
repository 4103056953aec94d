"""A plan as a PNG."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexinfer.errors import RequestError, UnsupportedError
from flexinfer.planning.plan import Plan


def test_a_png_is_drawn(plan: Plan, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from flexinfer.show.png import save_png

    save_png(plan, tmp_path / "plan.png", "a model")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(RequestError, match="cannot be written"):
        save_png(plan, tmp_path / "no folder" / "plan.png", "a model")


def test_without_matplotlib_the_error_says_what_to_install(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    from flexinfer.show.png import save_png

    with pytest.raises(UnsupportedError, match="pip install"):
        save_png(plan, tmp_path / "plan.png", "a model")
