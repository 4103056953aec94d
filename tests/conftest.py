from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support.tiny_model import TinyModel

pytest_plugins = [
    "support.beside",
    "support.hub_client",
    "support.own_process",
    "support.victims.starting",
]

# What the tests of a folder need; those of `unit` need nothing.
_NEEDS = {
    "native": ("native",),
    "bad_days": ("native", "alone"),
    "slow": ("native", "slow", "alone"),
}

# Compute threads that wait sleep: spinning ones starve whatever runs beside the tests.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# How long an example takes is the machine's business, which may be busy.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")
# Programs that tests start find what supports tests, too.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")])
)
# Whoever starts the tests in the background, or to outlive a terminal, has them and their children
# ignore these.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        for mark in _NEEDS.get(folder, ()):
            item.add_marker(mark)


def pytest_collection_finish() -> None:
    """What all tests take as long as the run lasts: no collection of garbage looks at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """Writes a preset in a quantisation, once a session: ``tiny_model("tiny-moe", "q4_K")``."""
    from flexinfer.synth.write import write_model

    folder = tmp_path_factory.mktemp("models")

    def make(preset: str, quant: str = "q4_0") -> Path:
        path = folder / f"{preset}-{quant}.gguf"
        if not path.exists():
            write_model(preset, path, quant)
        return path

    return make


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fails a test that leaves a thread or a descriptor behind."""
    gc.collect()
    threads, descriptors = set(threading.enumerate()), _descriptors()
    yield
    gc.collect()
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline and set(threading.enumerate()) - threads:
        time.sleep(0.01)
    assert set(threading.enumerate()) - threads == set()
    assert _descriptors() - descriptors == set()


def _descriptors() -> set[tuple[str, str]]:
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue
        if not target.startswith("/proc/"):
            found.add((number, target))
    return found
