"""From runs to figures: medians with spread, the bound, ratios. Pure functions of the results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flexinfer.bench.cases import COMPUTE, DRIVE, MMAP, REFERENCES, SYSTEMS, Case
from flexinfer.bench.spread import Spread
from flexinfer.planning.kernels import Kernels

# Left of a budget for what no engine can spend on weights: interpreter pages, kernel memory.
MARGIN = 64 << 20
# A run during which others used a larger share of the processors says little about a system.
DISTURBED = 0.1


@dataclass(frozen=True)
class Setting:
    """What a set of curves has in common."""

    drive: int | None
    cores: int

    @property
    def label(self) -> str:
        drive = "the drive as it is" if self.drive is None else f"{self.drive / 1e6:.0f} MB/s"
        return f"{drive}, {self.cores} {'core' if self.cores == 1 else 'cores'}"


@dataclass(frozen=True)
class Bound:
    """``1 / max(C, S* / B)`` of one round.

    Attributes:
        compute_s: seconds a token of plain llama.cpp with all weights in memory.
        drive: bytes/s of our reader with nothing computed.
        streamed: bytes that any engine would have to read for each token.
    """

    compute_s: float
    drive: float
    streamed: int

    @property
    def step_s(self) -> float:
        return max(self.compute_s, self.streamed / self.drive)


class Summary:
    """The figures of one model.

    Args:
        name: file name of the model.
        entry: its part of a results file.
    """

    def __init__(self, name: str, entry: dict[str, Any]) -> None:
        self.name = name
        self.weights: int = entry["weights"]
        self.kernels = Kernels(entry.get("kernels", Kernels.PLAIN))
        self.facts = {key: entry[key] for key in ("prompt", "tokens", "ctx")}
        self.runs: list[dict[str, Any]] = [run for run in entry["runs"] if "failed" not in run]
        self.together: list[dict[str, Any]] = entry.get("together", [])
        self.failed: list[dict[str, Any]] = [run for run in entry["runs"] if "failed" in run]

    def __repr__(self) -> str:
        return f"<Summary {self.name} {len(self.runs)} runs>"

    @cached_property
    def compared(self) -> list[dict[str, Any]]:
        """Runs of what is compared: not those of the bound, nor stock llama.cpp."""
        return [run for run in self.runs if run["system"] not in REFERENCES]

    @property
    def settings(self) -> list[Setting]:
        return settings_of(self.compared)

    def budgets(self, setting: Setting) -> list[int]:
        return sorted({run["budget"] for run in self._within(setting)})

    def systems(self, setting: Setting) -> list[str]:
        found = {run["system"] for run in self._within(setting)}
        return [system for system in SYSTEMS if system in found]

    def windows(self, setting: Setting) -> list[int]:
        found = {run["window"] for run in self._within(setting)}
        return sorted(window for window in found if window is not None)

    def case_runs(self, case: Case) -> list[dict[str, Any]]:
        return [run for run in self.compared if Case.from_json(run) == case]

    def figure(self, case: Case, value: Callable[[dict[str, Any]], float]) -> Spread | None:
        """`value` over the steady rounds of a case; over all where none was steady."""
        runs = self.steady(case) or self.case_runs(case)
        return Spread.of(value(run) for run in runs)

    def is_disturbed(self, case: Case) -> bool:
        """Whether there are runs of a case, and no steady one."""
        return bool(self.case_runs(case)) and not self.steady(case)

    def rate(self, case: Case) -> Spread | None:
        """Tokens/s once the first token is out."""
        return self.figure(case, lambda run: 1 / run["step_s"])

    def bound_rate(self, case: Case) -> Spread | None:
        """The bound in tokens/s for the case's budget, drive and cores."""
        rounds = {run["round"] for run in self.runs if is_steady(run)}
        bounds = [self.bound(case, number) for number in sorted(rounds)]
        return Spread.of(1 / bound.step_s for bound in bounds if bound is not None)

    def share_of_bound(self, case: Case) -> Spread | None:
        """Reached rate over the bound of the same round."""
        pairs = ((run, self.bound(case, run["round"])) for run in self.steady(case))
        return Spread.of(bound.step_s / run["step_s"] for run, bound in pairs if bound)

    def over(self, case: Case, other: Case) -> Spread | None:
        """Rate over the rate of `other` in the same round."""
        others = {run["round"]: run["step_s"] for run in self.steady(other)}
        pairs = ((run, others.get(run["round"])) for run in self.steady(case))
        return Spread.of(step / run["step_s"] for run, step in pairs if step is not None)

    def prediction_error(self, case: Case) -> Spread | None:
        """Predicted over measured rate, less one."""
        runs = [run for run in self.steady(case) if "predicted_s" in run]
        return Spread.of(run["step_s"] / run["predicted_s"] - 1 for run in runs)

    def bound(self, case: Case, number: int) -> Bound | None:
        """The bound of one round; None until both halves and a run of ours at this budget exist."""
        compute = self._half(Case(COMPUTE, 0, None, case.cores), number)
        drive = self._half(Case(DRIVE, 0, case.drive, case.cores), number)
        streamed = self.smallest_streamed(case)
        if drive is None or streamed is None:
            return None
        if compute is None:
            # The drive's half is known then, and is the longer one.
            alone = self.without_compute(case.cores)
            return Bound(0.0, drive["rate"], streamed) if alone else None
        return Bound(compute["step_s"], drive["rate"], streamed)

    def without_compute(self, cores: int) -> bool:
        """Whether C could not be measured, as of a model that is larger than the memory."""
        in_memory = Case(COMPUTE, 0, None, cores)
        return any(Case.from_json(run) == in_memory for run in self.failed)

    def smallest_streamed(self, case: Case) -> int | None:
        """S*: the weights a token uses, less what is left of the budget beside other needs.

        It is never taken from a plan's own streamed bytes: that would excuse a bad plan.
        """
        same = (case.budget, case.drive, case.cores)
        for run in self.compared:
            if (run["budget"], run["drive"], run["cores"]) == same and "memory" in run:
                memory = run["memory"]
                spent = memory["overhead"] + memory["kv"] + memory["compute"] + MARGIN
                needed: int = self.weights - run["rows_bytes"] - (case.budget - spent)
                return max(needed, 0)
        return None

    def drive_rate(self, setting: Setting) -> Spread | None:
        """Bytes/s of our reader alone, over steady runs."""
        runs = self.steady(Case(DRIVE, 0, setting.drive, setting.cores))
        return Spread.of(run["rate"] for run in runs)

    def compute_step(self, setting: Setting) -> Spread | None:
        """Seconds a token of plain llama.cpp in memory, over steady runs."""
        runs = self.steady(Case(COMPUTE, 0, None, setting.cores))
        return Spread.of(run["step_s"] for run in runs)

    @property
    def tokens_agree(self) -> bool:
        """Whether all runs with the same kernels gave the same tokens, as far as each came."""
        return all(map(_agree, self._answers().values()))

    def _answers(self) -> dict[str, list[list[int]]]:
        found: dict[str, list[list[int]]] = {}
        for run in self.runs:
            if "tokens" in run:
                found.setdefault(run.get("kernels", "plain"), []).append(run["tokens"])
        return found

    @property
    def disturbed(self) -> int:
        """How many runs others disturbed."""
        return sum(not is_steady(run) for run in self.runs)

    def _within(self, setting: Setting) -> list[dict[str, Any]]:
        wanted = (setting.drive, setting.cores)
        return [run for run in self.compared if (run["drive"], run["cores"]) == wanted]

    def steady(self, case: Case) -> list[dict[str, Any]]:
        """Runs that others left alone: ratios may be taken from them."""
        return [run for run in self.runs if Case.from_json(run) == case and is_steady(run)]

    def _half(self, case: Case, number: int) -> dict[str, Any] | None:
        """Round `number` of a half of the bound, or the last steady one there is."""
        runs = self.steady(case)
        exact = [run for run in runs if run["round"] == number]
        return (exact or runs)[-1] if runs else None


def settings_of(runs: Iterable[dict[str, Any]]) -> list[Setting]:
    """The settings of runs, the drive as it is first."""
    found = {Setting(run["drive"], run["cores"]) for run in runs}
    return sorted(found, key=lambda each: (each.drive is not None, each.drive or 0, each.cores))


def _agree(answers: Sequence[list[int]]) -> bool:
    longest = max(answers, key=len, default=[])
    return all(longest[: len(answer)] == answer for answer in answers)


def is_steady(run: dict[str, Any]) -> bool:
    """Whether others left the processors alone during a run."""
    return bool(run.get("outside_cpu", 0.0) <= DISTURBED)


def case_of(setting: Setting, system: str, budget: int, window: int | None = None) -> Case:
    return Case(system, budget, setting.drive, setting.cores, None if system == MMAP else window)
