"""Synthetic models written: what the shape says, the same bytes again, nothing half done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.tensors import tensor_bytes

from flexinfer.errors import RequestError
from flexinfer.gguf.catalogue import read_catalogue
from flexinfer.gguf.types import QUANT_TYPES
from flexinfer.synth.shapes import PRESETS, Shape, weights
from flexinfer.synth.write import write_model

TINY = [name for name in PRESETS if name.startswith("tiny-")]
QUANT = {t.name: t for t in QUANT_TYPES.values()}


@pytest.mark.parametrize("preset", TINY)
def test_the_file_holds_what_the_shape_says(preset: str, tiny_model: Any) -> None:
    shape = PRESETS[preset]
    catalogue = read_catalogue(tiny_model(preset, "q4_0"))
    expected = weights(shape, QUANT["q4_0"])
    assert [(t.name, t.type, t.shape) for t in catalogue.tensors] == [
        (w.name, w.type, w.shape) for w in expected
    ]
    assert catalogue.architecture == shape.architecture
    assert catalogue.parameter("block_count") == shape.layers
    assert catalogue.parameter("attention.head_count_kv") == shape.kv_heads
    assert catalogue.parameter("expert_count", 0) == shape.experts
    assert catalogue.metadata["tokenizer.ggml.tokens"].length == shape.vocabulary


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    (a,) = write_model("tiny-llama", tmp_path / "a.gguf")
    (b,) = write_model("tiny-llama", tmp_path / "b.gguf")
    (c,) = write_model("tiny-llama", tmp_path / "c.gguf", seed=1)
    assert a.read_bytes() == b.read_bytes()
    assert a.read_bytes() != c.read_bytes()


def test_shards_hold_the_same_model(tmp_path: Path, tiny_model: Any) -> None:
    paths = write_model("tiny-llama", tmp_path / "s.gguf", split=3)
    assert [p.name for p in paths] == [f"s-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    assert len(read_catalogue(paths[0]).paths) == 3
    assert dict(tensor_bytes(paths[0])) == dict(tensor_bytes(tiny_model("tiny-llama", "q4_0")))


def test_progress_reaches_the_total(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    (path,) = write_model(
        "tiny-llama", tmp_path / "m.gguf", progress=lambda done, total: seen.append((done, total))
    )
    total = read_catalogue(path).nbytes
    assert {t for _, t in seen} == {total}
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)
    assert seen[-1][0] == total


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_model("tiny-llama", tmp_path / "m.gguf", progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "gpt-5"}, "unknown preset 'gpt-5'; there are llama2-7b"),
        ({"quant": "q9"}, "unknown quantisation 'q9'; there are q4_0"),
        ({"split": 1000}, "39 tensors cannot be split into 1000 shards"),
        ({"split": -1}, "39 tensors cannot be split into -1 shards"),
        (
            {"preset": Shape(2, 1 << 20, 1 << 22, 64, 64, 32000, 1 << 14)},
            "free; choose another folder",
        ),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        write_model(**{"preset": "tiny-llama", "out": tmp_path / "m.gguf", **arguments})
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []
