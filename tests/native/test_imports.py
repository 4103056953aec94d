"""What is loaded, and when: the native library and its binding come late."""

from __future__ import annotations

from support.loaded import loaded_by


def test_a_plan_does_not_wait_for_the_bindings_package() -> None:
    probe = (
        "from flexinfer.rates.processor import measure_types\n"
        "from flexinfer.planning.kernels import Kernels\n"
        "measure_types([], 1, Kernels.PACKED)"
    )
    loaded = loaded_by(f"import flexinfer.cli.plan\n{probe}")
    assert loaded & {"llama_cpp", "jinja2"} == set()
    assert "ctypes" in loaded


def test_the_class_is_loaded_on_demand() -> None:
    assert "llama_cpp" in loaded_by("from flexinfer import Llama")
