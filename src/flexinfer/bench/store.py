"""Results of one machine in one JSON file, written after each run, so that a stop loses nothing."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flexinfer import __version__
from flexinfer.bench.cases import Case
from flexinfer.errors import RequestError
from flexinfer.machine.cgroups import PROC, SYS
from flexinfer.machine.machine import Machine, device_of
from flexinfer.planning.kernels import Kernels
from flexinfer.whole_file import whole_file

_FORMAT = 1


class Store:
    """Runs by model, case and round.

    Raises:
        RequestError: the file is none of ours.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.document: dict[str, Any] = {"format": _FORMAT, "machine": {}, "models": {}}
        if path.exists():
            self.document = _load(path)

    def __repr__(self) -> str:
        runs = sum(len(model["runs"]) for model in self.document["models"].values())
        return f"<Store {self.path} {runs} runs>"

    def describe_machine(self, description: dict[str, Any]) -> None:
        self.document["machine"] = description

    def model(self, name: str, **facts: Any) -> ModelRuns:
        """The runs of one model; `facts` are noted beside them.

        Raises:
            RequestError: the file holds runs with other settings.
        """
        entry = self.document["models"].setdefault(name, {**facts, "runs": []})
        for key, value in facts.items():
            if entry.setdefault(key, value) != value:
                raise RequestError(
                    f"{self.path} has runs of {name} with {key} {entry[key]!r}, not {value!r}; "
                    "name another folder with --out"
                )
        return ModelRuns(self, entry)

    def models(self) -> Iterator[tuple[str, dict[str, Any]]]:
        yield from self.document["models"].items()

    def save(self) -> None:
        """Replace the file in one step.

        Raises:
            RequestError: it cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(self.path) as fresh:
                fresh.write_text(json.dumps(self.document, indent=1) + "\n")
        except OSError as error:
            raise RequestError(f"{self.path} cannot be written: {error.strerror}") from error


class ModelRuns:
    """The runs of one model within a store."""

    def __init__(self, store: Store, entry: dict[str, Any]) -> None:
        self._store = store
        self._entry = entry

    def __len__(self) -> int:
        return len(self._entry["runs"])

    def has(self, case: Case, number: int, disturbance: float = 1.0) -> bool:
        """Whether round `number` of `case` is there; a run that failed is to be tried again.

        So is one during which others used more than `disturbance` of the processors.
        """
        runs = self._of(case, number)
        return any(_disturbance(run) <= disturbance for run in runs)

    def failure(self, case: Case, number: int) -> str | None:
        """Why round `number` of `case` gave no figure; None where it did."""
        runs = self._of(case, number)
        return runs[0].get("failed") if runs else "it was not measured"

    def seconds(self, case: Case) -> float | None:
        """What the last run of `case` took, for an estimate of time."""
        took = [run["wall_s"] for run in self._entry["runs"] if Case.from_json(run) == case]
        return took[-1] if took else None

    def add(self, case: Case, number: int, result: dict[str, Any]) -> None:
        """Keep the run, or the earlier one where that was less disturbed, and save the file."""
        runs = self._entry["runs"]
        earlier = self._of(case, number)
        for run in earlier:
            runs.remove(run)
        new = {**result, **case.to_json(), "round": number}
        runs.append(min([new, *earlier], key=_disturbance))
        self._store.save()

    def has_together(self, named: dict[str, Any]) -> bool:
        """Whether streams with these facts were measured; what failed is to be tried again."""
        return any("failed" not in run for run in self._together(named))

    def add_together(self, named: dict[str, Any], result: dict[str, Any]) -> None:
        """Keep what streams with these facts reached in place of what is there; save the file."""
        kept = self._entry.setdefault("together", [])
        for run in self._together(named):
            kept.remove(run)
        kept.append(named | result)
        self._store.save()

    def _together(self, named: dict[str, Any]) -> list[dict[str, Any]]:
        runs: list[dict[str, Any]] = self._entry.get("together", [])
        return [run for run in runs if named.items() <= run.items()]

    def _of(self, case: Case, number: int) -> list[dict[str, Any]]:
        runs = self._entry["runs"]
        return [run for run in runs if run["round"] == number and Case.from_json(run) == case]


def _disturbance(run: dict[str, Any]) -> float:
    """Share of the processors that others used; more than any where the run failed."""
    return float("inf") if "failed" in run else float(run.get("outside_cpu", 0.0))


def describe(model: str) -> dict[str, Any]:
    """The machine and the drive that holds `model`, as a report states them."""
    machine = asdict(Machine.detect())
    keep = ("cores", "memory_total", "swap_total", "cgroup_limit", "huge_pages", "kernel")
    return {
        **{name: machine[name] for name in keep},
        "processor": _processor(),
        "drive": _drive(model),
        "python": platform.python_version(),
        "flexinfer": __version__,
    }


def file_name(description: dict[str, Any]) -> str:
    """A name for the machine's file: processor, cores, memory."""
    gib = round(description["memory_total"] / (1 << 30))
    text = f"{description['processor']}-{description['cores']}c-{gib}g".lower()
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-") + ".json"


def _processor() -> str:
    for line in (PROC / "cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _drive(model: str) -> dict[str, Any]:
    device = device_of(model)
    if device is None:
        return {"kind": "no drive of this machine"}
    folder = SYS / f"dev/block/{device[0]}:{device[1]}"
    return {
        "kind": folder.resolve().name,
        "rotational": _number(folder / "queue/rotational"),
        "readahead_kib": _number(folder / "queue/read_ahead_kb"),
        "file_system": _file_system(model),
    }


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _file_system(path: str) -> str:
    """Kind of the mount with the longest matching path."""
    real, best, kind = os.path.realpath(path), "", "unknown"
    for line in (PROC / "self/mounts").read_text().splitlines():
        _, mounted, name = line.split()[:3]
        inside = real == mounted or real.startswith(mounted.rstrip("/") + "/")
        if inside and len(mounted) >= len(best):
            best, kind = mounted, name
    return kind


def _load(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_text())
        if document["format"] == _FORMAT and isinstance(document["models"], dict):
            for entry in document["models"].values():
                # Files did not say it while there was one set only.
                entry.setdefault("kernels", Kernels.PLAIN.value)
            return document
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(f"{path} holds no benchmark results: {error}") from error
    raise RequestError(f"{path} has format {document['format']}; this version reads {_FORMAT}")
