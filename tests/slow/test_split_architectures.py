"""Every architecture with half of its layers at a worker equals llama.cpp split the same way.

And, but for those that are named, llama.cpp that is not split.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support.architectures import tiny
from support.architectures.comparing import compared, groups
from support.workers import worker

from flexinfer.workers.dividing import OTHER_BITS

# Those with an encoder stay on one machine.
_NAMES = tuple(name for name in tiny.models() if not name.startswith(("t5", "neo-bert")))


@pytest.mark.parametrize("names", groups(_NAMES), ids=lambda names: names[0])
def test_each_architecture_over_a_worker(names: tuple[str, ...], tmp_path: Path) -> None:
    paths = [tiny.write(name, tmp_path) for name in names]
    whole = compared("plain", paths, "--quick")
    with worker("1GiB") as one:
        words = ("--quick", "--rpc", one.endpoint)
        plain, ours = compared("plain", paths, *words), compared("streamed", paths, *words)
    assert [line for line in ours.values() if "error" in line] == []
    assert {k: plain[k].get("sha256") for k in plain} == {k: ours[k]["sha256"] for k in ours}
    changed = {k[0] for k in whole if whole[k].get("sha256") != ours[k]["sha256"]}
    assert {name for name in changed if not name.startswith(OTHER_BITS)} == set()
