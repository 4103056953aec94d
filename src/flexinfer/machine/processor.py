"""Which processor this is, by the name that the system has for it."""

from __future__ import annotations

import platform
from pathlib import Path

from flexinfer.machine.cgroups import PROC

# What /proc/cpuinfo has of one: its name, or for ARM the numbers of its maker and its design.
_FIELDS = ("model name", "CPU implementer", "CPU part", "uarch")


def processor_name(proc: Path = PROC) -> str:
    """Of the first processor; its architecture where the system tells nothing else."""
    found = []
    try:
        with open(proc / "cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                name, _, value = line.partition(":")
                if name.strip() in _FIELDS:
                    found.append(value.strip())
                elif not line.strip():
                    break
    except OSError:
        pass
    return " ".join([platform.machine(), *found])
