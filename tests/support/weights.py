"""Weights as planners see them: made of numbers, and drawn by hypothesis."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st

from flexinfer.planning.plan import Costs, CostsOf
from flexinfer.planning.rates import Rates
from flexinfer.planning.weights import Use, Weight

MIB = 1 << 20
# Machines are slow at times: no example fails for what it takes.
few = settings(max_examples=40, deadline=None)
RATES = Rates(drive=2e9, compute_s=0.4, source="given")


def matrix(name: str, nbytes: int, rows: int, step: int = 32, layer: int | None = None) -> Weight:
    """A weight that may be cut; its role is the last part of its name."""
    role = name.rpartition(".")[2] if layer is not None else None
    return Weight(name, nbytes, rows, Use.MATMUL, step, layer, role)


def llama(
    layers: int = 32, width: int = 4096, ffn: int = 11008, kv: int = 4096, vocabulary: int = 32000
) -> list[Weight]:
    """The weights of a q4_0 Llama: 18 bytes for 32 numbers; by default those of Llama2-7B."""

    def add(layer: int, role: str, rows: int, columns: int) -> None:
        weights.append(matrix(f"blk.{layer}.{role}", rows * columns // 32 * 18, rows, layer=layer))

    table = vocabulary * width // 32 * 18
    weights = [Weight("token_embd", table, vocabulary, Use.ROWS)]
    for layer in range(layers):
        weights.append(Weight(f"blk.{layer}.attn_norm", width * 4, 1, Use.WHOLE, 0, layer))
        add(layer, "attn_q", width, width)
        add(layer, "attn_k", kv, width)
        add(layer, "attn_v", kv, width)
        add(layer, "attn_output", width, width)
        weights.append(Weight(f"blk.{layer}.ffn_norm", width * 4, 1, Use.WHOLE, 0, layer))
        add(layer, "ffn_gate", ffn, width)
        add(layer, "ffn_up", ffn, width)
        add(layer, "ffn_down", width, ffn)
    weights.append(Weight("output_norm", width * 4, 1, Use.WHOLE))
    weights.append(matrix("output", table, vocabulary))
    return weights


def total(weights: list[Weight]) -> int:
    """Bytes of all weights."""
    return sum(weight.nbytes for weight in weights)


def costs_of_7b(ctx: int, ubatch: int) -> Costs:
    """What contexts of the 7B shape cost, to the MiB."""
    return Costs(overhead=150 * MIB, kv=ctx * MIB // 2, compute=ubatch * MIB // 5)


def fixed_costs(overhead: int = 0) -> CostsOf:
    """The same costs for every context."""
    return lambda ctx, ubatch: Costs(overhead, 0, 0)


@st.composite
def any_weight(draw: st.DrawFn, number: int, largest_row: int = 20_000) -> Weight:
    """One weight of any use and any size up to some MiB."""
    use = draw(st.sampled_from([Use.MATMUL] * 4 + [Use.WHOLE, Use.ROWS, Use.EXPERTS, Use.IDLE]))
    rows = draw(st.integers(1, 600))
    step = draw(st.sampled_from([0, 16, 32, 64])) if use is Use.MATMUL else 0
    layer = draw(st.none() | st.integers(0, 5))
    role = draw(st.sampled_from(["attn_q", "attn_k", "ffn_up", "ffn_down", "other"]))
    return Weight(
        name=f"w{number}",
        nbytes=rows * draw(st.integers(1, largest_row)),
        rows=rows,
        use=use,
        row_step=step if rows > step else 0,
        layer=layer,
        role=None if layer is None else role,
        compute_s=draw(st.sampled_from([0.0, 0.001, 0.02])),
    )


@st.composite
def any_weights(draw: st.DrawFn) -> list[Weight]:
    """A model of 1 to 12 weights of any shape."""
    count = draw(st.integers(1, 12))
    return [draw(any_weight(number)) for number in range(count)]
