"""Functions of another module that one thread replaces for itself, and puts back."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from flexinfer.engine.patching import replaced


def a_module() -> SimpleNamespace:
    return SimpleNamespace(load=lambda name: f"loaded {name}")


def ours(load: Any, name: str) -> str:
    return f"ours, {load(name)}"


def test_calls_of_this_thread_go_to_ours_with_the_function_they_stand_for() -> None:
    module = a_module()
    original = module.load
    with replaced(module, {"load": ours}):
        assert module.load("a") == "ours, loaded a"
    assert module.load is original


def test_after_a_failure_the_functions_are_back() -> None:
    module = a_module()
    original = module.load
    with pytest.raises(KeyError), replaced(module, {"load": ours}):
        raise KeyError
    assert module.load is original


def test_other_threads_are_not_concerned() -> None:
    module, found = a_module(), []
    with replaced(module, {"load": ours}):
        other = threading.Thread(target=lambda: found.append(module.load("b")))
        other.start()
        other.join()
    assert found == ["loaded b"]


def test_a_thread_that_waits_takes_the_function_itself_not_the_replaced_one() -> None:
    module, found = a_module(), []
    original = module.load
    begun = threading.Event()

    def second() -> None:
        begun.set()
        with replaced(module, {"load": ours}):
            found.append(module.load("b"))

    other = threading.Thread(target=second)
    with replaced(module, {"load": ours}):
        other.start()
        begun.wait()
        # It stands before the lock by now; if not, nothing is shown and nothing fails.
        other.join(0.1)
        assert module.load("a") == "ours, loaded a"
    other.join()
    assert found == ["ours, loaded b"]
    assert module.load is original
