"""The plan: which weights stay in memory, how large the window is, and why.

Everything here is frozen data with JSON both ways. `planner` and `strategies` make plans; the
engine carries them out; the command line shows them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flexinfer.planning.pass_time import PassTime
from flexinfer.planning.rates import Rates
from flexinfer.planning.split import Split
from flexinfer.planning.weights import ON_DEMAND, Use, Weight, group_bytes, piece_cost
from flexinfer.sizes import format_figure, format_size

# A smaller batch saves next to nothing and makes prompts slow.
MIN_UBATCH = 32
# A plan does not cut the context below this one, unless it is told to.
LEAST_CONTEXT = 512


@dataclass(frozen=True)
class Costs:
    """Bytes that the process needs besides weights."""

    overhead: int
    kv: int
    compute: int

    @property
    def total(self) -> int:
        return self.overhead + self.kv + self.compute


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        budget: bytes of the whole process.
        weight_memory: a cap in bytes on locked weights and window; `budget` is not enforced.
        window: bytes of the window, when it was set by hand.
        min_ctx: the context may shrink to this when nothing else helps.
        min_ubatch: the batch may shrink to this before the context does.
        split: where layers live, if not all here; the weights are then those that do.
        steady_ubatch: the batch that gives way only where nothing else fits.
    """

    budget: int
    ctx: int
    ubatch: int
    strategy: str = "flex"
    weight_memory: int | None = None
    window: int | None = None
    min_ctx: int = LEAST_CONTEXT
    min_ubatch: int = MIN_UBATCH
    split: Split | None = None
    steady_ubatch: int = 0


# Costs of a context of (ctx, ubatch).
CostsOf = Callable[[int, int], Costs]


@dataclass(frozen=True)
class Plan:
    """A decided plan; see `mode` for one sentence about it.

    Attributes:
        ctx, ubatch: what came out, at most what was asked.
        window: bytes of the ring that streamed weights pass through; 0 when nothing streams.
        room: bytes that locked weights, window and slots may take together.
        slice_bytes: streamed weights above this are cut in row slices.
        locked_rows: for each weight, how many leading rows stay in memory.
        lookahead: False: a weight is read only when it is needed.
        slots: for each group of expert weights, how many experts stay in memory.
        expert_window: bytes that other experts pass through; 0: experts are no different from
            other weights.
        hit_rate: expected share of experts that a token finds in the slots.
        reasons: one sentence for each decision.
    """

    request: Request
    ctx: int
    ubatch: int
    costs: Costs
    weights: tuple[Weight, ...]
    locked_rows: tuple[int, ...]
    window: int
    slice_bytes: int
    rates: Rates
    room: int = 0
    lookahead: bool = True
    slots: tuple[int, ...] = ()
    expert_window: int = 0
    hit_rate: float = 0.0
    reasons: tuple[str, ...] = ()

    @property
    def weight_bytes(self) -> int:
        return sum(weight.nbytes for weight in self.weights)

    @property
    def locked_bytes(self) -> int:
        """Bytes of weights that stay."""
        return sum(
            weight.row_bytes * rows
            for weight, rows in zip(self.weights, self.locked_rows, strict=True)
        )

    @property
    def streamed_bytes(self) -> int:
        """Bytes that each token reads; what is read on demand is not counted."""
        return self.expert_bytes + sum(
            weight.row_bytes * (weight.rows - rows)
            for weight, rows in zip(self.weights, self.locked_rows, strict=True)
            if weight.use not in ON_DEMAND and not self.by_expert(weight)
        )

    def by_expert(self, weight: Weight) -> bool:
        """Whether `weight` is held expert by expert."""
        return bool(self.expert_window) and weight.group is not None

    @property
    def expert_bytes(self) -> int:
        """Bytes of experts that a token is expected to miss."""
        used = sum(weight.token_bytes for weight in self.weights if self.by_expert(weight))
        return round(used * (1.0 - self.hit_rate))

    @property
    def slot_bytes(self) -> int:
        """Bytes of all experts' slots."""
        sizes = group_bytes(self.weights) if self.slots else []
        return sum(count * size for count, size in zip(self.slots, sizes, strict=True))

    @property
    def resident(self) -> bool:
        """Nothing is read once the first pass is over."""
        return self.locked_bytes == self.weight_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes of memory for weights: locked pieces with their aligned ranges, and the window."""
        pieces = zip(self.weights, self.locked_rows, strict=True)
        locked = sum(piece_cost(weight, rows) for weight, rows in pieces if rows)
        return self.window + self.expert_window + self.slot_bytes + locked

    @property
    def total(self) -> int:
        """Bytes the process will use."""
        return self.costs.total + self.held_bytes

    @property
    def packing_s(self) -> float:
        """Seconds that packing what a token reads takes from computing."""
        return self.rates.packing_s(self.streamed_bytes)

    @property
    def bound_tok_s(self) -> float:
        """``1 / max(C, S / B)``: no schedule of this plan can be faster for one sequence.

        ``1 / (C + S / B)`` where nothing is read ahead. C has what packing takes. Seconds elsewhere
        come on top; meanwhile the window is filled.
        """
        slowest = self.pass_time.least
        if self.expert_window:
            compute = self.rates.compute_s + self.packing_s
            # A layer's experts are known only after its router: nothing else hides their reading.
            work = sum(weight.token_bytes for weight in self.weights)
            chosen = sum(weight.token_bytes for weight in self.weights if self.by_expert(weight))
            experts = compute * chosen / work
            missed = self.expert_bytes / self.rates.drive
            slowest = max(slowest, compute - experts + max(experts, missed))
        slowest += self.away_s
        return 1.0 / slowest if slowest > 0 else float("inf")

    @property
    def away_s(self) -> float:
        """Seconds of a token that pass elsewhere."""
        return 0.0 if self.request.split is None else self.request.split.away_s

    @property
    def reading_s(self) -> float:
        """Seconds that a token's reads take while layers here are computed."""
        ahead = min(self.away_s, self.window / self.rates.drive) if self.lookahead else 0.0
        return max(self.streamed_bytes / self.rates.drive - ahead, 0.0)

    @property
    def pass_time(self) -> PassTime:
        """What a token's pass consists of, but for what passes elsewhere."""
        asking = self.streamed_bytes * self.rates.asking
        return PassTime(
            self.rates.compute_s, self.reading_s, self.packing_s, asking, self.lookahead
        )

    @property
    def expected_tok_s(self) -> float:
        """The bound, less what reading and computing cost each other."""
        if self.expert_window or not self.streamed_bytes:
            return self.bound_tok_s
        return 1.0 / (self.pass_time.expected + self.away_s)

    @property
    def computed(self) -> str:
        """Which kernels compute, and whose bits the answers have, in one line."""
        kernels = self.rates.kernels
        return f"{kernels.value} kernels: the bits of {kernels.reference}"

    @property
    def mode(self) -> str:
        """What will happen, in one line."""
        locked = f"{format_size(self.locked_bytes)} of {format_size(self.weight_bytes)}"
        elsewhere = "" if self.request.split is None else self.request.split.away
        if self.resident:
            size = format_size(self.weight_bytes)
            return f"all {size} of weights in memory, nothing streams{elsewhere}"
        if not self.streamed_bytes:
            return f"{locked} locked, nothing streams but rows of the embedding{elsewhere}"
        slots = ""
        if self.slot_bytes:
            size = format_size(self.slot_bytes)
            slots = f"{size} of experts ({self.hit_rate:.0%} hits expected), "
        return (
            f"{locked} locked, {slots}{format_size(self.streamed_bytes)} streamed per token"
            f"{elsewhere}, about {format_figure(self.expected_tok_s)} tokens/s"
        )

    def to_json(self) -> dict[str, Any]:
        """A document that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Plan:
        """The plan in a document of `to_json`, also after a trip through JSON text."""
        fields = dict(document)
        split = fields["request"].get("split")
        split = None if split is None else Split.from_json(split)
        fields["request"] = Request(**{**fields["request"], "split": split})
        fields["costs"] = Costs(**fields["costs"])
        fields["rates"] = Rates.from_json(fields["rates"])
        fields["weights"] = tuple(
            Weight(**{**weight, "use": Use(weight["use"])}) for weight in fields["weights"]
        )
        fields["locked_rows"] = tuple(fields["locked_rows"])
        fields["slots"] = tuple(fields["slots"])
        fields["reasons"] = tuple(fields["reasons"])
        return cls(**fields)
