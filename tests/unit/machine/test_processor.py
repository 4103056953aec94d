"""The processor's name, from what Linux shows of it."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from flexinfer.machine.processor import processor_name

X86 = "processor\t: 0\nmodel name\t: Some CPU @ 2.00GHz\n\nprocessor\t: 1\nmodel name\t: x\n"
ARM = "processor\t: 0\nCPU implementer\t: 0x41\nCPU variant\t: 0x3\nCPU part\t: 0xd0c\n\n"


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [(X86, " Some CPU @ 2.00GHz"), (ARM, " 0x41 0xd0c"), ("", ""), (None, "")],
)
def test_the_name_of_the_first_processor(tmp_path: Path, cpuinfo: str | None, name: str) -> None:
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert processor_name(tmp_path) == platform.machine() + name
