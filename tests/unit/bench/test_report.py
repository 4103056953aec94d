"""The report: how, where and what; what cannot be overlooked."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.bench_runs import MIB, NATIVE, run, together

from flexinfer.bench.cases import MMAP, STOCK, Case
from flexinfer.bench.parts import PARTS, split
from flexinfer.bench.rendering import markdown, page
from flexinfer.bench.summary import Summary, case_of


def test_parts_of_a_step(entry: dict[str, Any]) -> None:
    summary = Summary("m.gguf", entry)
    parts = split(summary, case_of(NATIVE, "sync", 500 * MIB), 100.0 * MIB)
    assert parts == pytest.approx({"compute": 1.5, "wait": 0.75, "other": 0.75, "read": 1.0})
    assert set(split(summary, case_of(NATIVE, MMAP, 500 * MIB), 1e9)) == {"read"}
    assert set(parts) == set(PARTS)


def test_the_report_says_how_where_and_what(document: dict[str, Any]) -> None:
    text = markdown(json.loads(json.dumps(document)))
    for part in (
        "readahead 128 KiB",
        "Outside this window",
        "with the same kernels gave the same tokens",
        "layers at 500 MiB: no memory",
        "| 50% (500 MiB) | 6 (4-8) |",
        "synchronous direct reads | sync / mmap | 2.25x to 2.25x",
    ):
        assert part in text, part
    assert "+25%" in text


def test_streams_together_stand_beside_their_bound_and_llama_server(
    document: dict[str, Any],
) -> None:
    assert "Streams together" not in markdown(document)
    document["models"]["m.gguf"]["together"] = [
        together(8, 6.0, 8.0, plain_tok_s=2.0),
        together(1, 0.5, 1.0),
        together(8, 7.0, 8.0, round=1, plain_failed="no memory"),
        {**together(16, 9.0, 12.0), "cores": 1},
        {"budget": 500 * MIB, "drive": None, "cores": 2, "kv": "f16", "slots": 32, "failed": "no"},
    ]
    text = markdown(document)
    assert "### Streams together, the drive as it is, 2 cores" in text
    assert "| 50% (500 MiB) | f16 | 1 | 0.5 | 1.0 | 1 | 0.5 | 0.9 | - |" in text
    eight = "| 50% (500 MiB) | f16 | 8 | 6.5 (6-7) | 13.0 | 8 (8-8) | 0.812 (0.75-0.875) |"
    assert f"{eight} 7.2 (7.2-7.2) | 2 |" in text
    # What was measured with other cores has no single stream to be held against.
    assert "| 50% (500 MiB) | f16 | 16 | 9 | - | 12 | 0.75 | 10.8 | - |" in text
    assert "| 32 |" not in text


def test_streams_together_are_drawn_with_the_bound(document: dict[str, Any]) -> None:
    pytest.importorskip("matplotlib")
    entry = document["models"]["m.gguf"]
    entry["together"] = [together(1, 0.5, 1.0), together(8, 6.0, 8.0, plain_tok_s=2.0)]
    picture = page(document)
    for label in ("streams together", "500 MiB, cache f16", "llama-server, 500 MiB"):
        assert label in picture, label


def test_the_report_names_the_kernels_and_what_stock_does(document: dict[str, Any]) -> None:
    entry = document["models"]["m.gguf"]
    text = markdown(document)
    assert "plain kernels, the bits of llama.cpp --no-repack" in text
    assert "`stock`" not in text
    entry["runs"].append(run(STOCK, 0, 0.125, kernels="packed"))
    tried = {
        **Case(STOCK, 500 * MIB, None, 2).to_json(),
        "round": 0,
        "seen": "no answer within 60 s",
    }
    entry["runs"].append(tried)
    text = markdown(document)
    assert "`stock` llama.cpp with all weights in memory: 8 tokens/s" in text
    assert "in 500 MiB: no answer within 60 s" in text
    entry["kernels"] = "packed"
    text = markdown(document)
    assert "packed kernels, the bits of stock llama.cpp" in text
    # Computing with packed kernels is what stock llama.cpp does: 0.2 s a token here.
    assert "`stock` llama.cpp with all weights in memory: 5 (5-5) tokens/s" in text


def test_different_tokens_cannot_be_overlooked(document: dict[str, Any]) -> None:
    document["models"]["m.gguf"]["runs"][4]["tokens"] = [1]
    assert "NOT the same" in markdown(document)


def test_disturbed_figures_are_marked(document: dict[str, Any]) -> None:
    for measured in document["models"]["m.gguf"]["runs"]:
        if measured["system"] == "flex":
            measured["outside_cpu"] = 0.6
    text = markdown(document)
    assert "2 of the runs were disturbed" in text
    assert "| ~1 (0.667-1.33) |" in text
    assert "flex / mmap | 4" not in text


def test_the_page_needs_no_other_file(document: dict[str, Any]) -> None:
    pytest.importorskip("matplotlib")
    text = page(document)
    assert text.count("<svg") == 4
    assert "A &amp; B &lt;fast&gt;" in text
    assert "<script" not in text
    assert "src=" not in text
    assert text == page(document)
