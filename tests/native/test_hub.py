"""A model of the hub, run."""

from __future__ import annotations

from pathlib import Path

from support.fake_hub import FakeHub
from support.hub_client import REPO, Run, blobs


def test_run_downloads_once_and_then_works_offline(
    run: Run, fake_hub: FakeHub, tmp_path: Path
) -> None:
    arguments = ("run", f"hf:{REPO}:q8_0", "-p", "one", "-n", "2", "--weight-memory", "40M", "-q")
    first = run(*arguments, "--seed", "1")
    assert first.returncode == 0, first.stderr
    assert len(blobs(tmp_path)) == 1
    sent = fake_hub.log.sent
    again = run(*arguments, "--seed", "1", HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout
    assert fake_hub.log.sent == sent
