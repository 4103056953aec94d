from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flexinfer.errors import RequestError
from flexinfer.gguf.catalogue import read_catalogue
from flexinfer.gguf.header import read_array
from flexinfer.gguf.source import FileSource
from flexinfer.gguf.types import QUANT_TYPES
from flexinfer.synth.blocks import QUANTS
from flexinfer.synth.shapes import PRESETS, Shape, weights
from flexinfer.synth.vocabulary import vocabulary
from flexinfer.synth.write import write_model

TINY = [name for name in PRESETS if name.startswith("tiny-")]
QUANT = {t.name: t for t in QUANT_TYPES.values()}


# -- shapes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "billions"),
    [
        ("llama2-7b", 6.74),
        ("llama2-13b", 13.02),
        ("llama2-70b", 68.98),
        ("codellama-34b", 33.74),
        ("llama3-8b", 8.03),
        ("llama3-1b", 1.24),
        ("qwen3-8b", 8.19),
        ("qwen3-30b-a3b", 30.53),
        ("tinyllama-1.1b", 1.10),
    ],
)
def test_presets_have_the_published_parameter_counts(preset: str, billions: float) -> None:
    count = sum(w.rows * w.shape[0] for w in weights(PRESETS[preset], QUANT["q4_0"]))
    assert count / 1e9 == pytest.approx(billions, abs=0.01)


@pytest.mark.parametrize("quant", QUANTS)
@pytest.mark.parametrize("preset", PRESETS)
def test_rows_divide_into_blocks(preset: str, quant: str) -> None:
    for weight in weights(PRESETS[preset], QUANT[quant]):
        assert weight.shape[0] % weight.type.block == 0, weight.name


def test_one_tensor_of_tiny_wide_is_larger_than_the_rest_of_a_layer(tiny_model: Any) -> None:
    catalogue = read_catalogue(tiny_model("tiny-wide", "q4_0"))
    output = catalogue.get("output.weight")
    assert output is not None
    layer = sum(t.nbytes for t in catalogue.tensors if t.name.startswith("blk.0."))
    assert output.nbytes > 4 * layer


# -- files ------------------------------------------------------------------------------------


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


def tensor_bytes(path: Path) -> Iterator[tuple[str, bytes]]:
    catalogue = read_catalogue(path)
    for tensor in catalogue.tensors:
        with FileSource(catalogue.paths[tensor.file]) as source:
            yield tensor.name, source.read_at(tensor.offset, tensor.nbytes)


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


# -- values -----------------------------------------------------------------------------------


@pytest.mark.parametrize("quant", QUANTS)
def test_values_have_mean_zero_and_the_right_spread(quant: str, tiny_model: Any) -> None:
    gguf = pytest.importorskip("gguf")
    for tensor in gguf.GGUFReader(tiny_model("tiny-llama", quant)).tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(
            tensor.data.shape[0], -1
        )
        if tensor.name.endswith("norm.weight"):
            assert values.mean() == pytest.approx(1.0, abs=0.02)
            continue
        expected = 1.0 if tensor.name == "token_embd.weight" else values.shape[1] ** -0.5
        # The scale of f16 and bf16 is a power of two.
        loose = 0.42 if quant in ("f16", "bf16") else 0.03
        assert np.sqrt((values**2).mean()) == pytest.approx(expected, rel=loose)
        assert abs(values.mean()) < 0.02 * expected
        assert abs(np.sign(values).mean(axis=0)).max() < 0.5, "a column leans to one side"


@pytest.mark.parametrize("quant", QUANTS)
def test_rows_differ_and_only_the_end_token_is_blank(quant: str, tiny_model: Any) -> None:
    tensors = dict(tensor_bytes(tiny_model("tiny-llama", quant)))
    catalogue = read_catalogue(tiny_model("tiny-llama", quant))
    for name in ("blk.0.attn_q.weight", "output.weight", "token_embd.weight"):
        info = catalogue.get(name)
        assert info is not None
        rows = np.frombuffer(tensors[name], np.uint8).reshape(info.rows, -1)
        assert len(np.unique(rows, axis=0)) == info.rows
        blank = np.flatnonzero(~rows.any(axis=1)).tolist()
        assert blank == ([2] if name == "output.weight" else [])


# -- the vocabulary ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [400, 2048, 32000, 151936])
def test_tokens_are_distinct_and_as_many_as_asked(size: int) -> None:
    words = vocabulary(size)
    assert len(words.tokens) == len(words.scores) == len(words.types) == size
    assert len(set(words.tokens)) == size
    assert all(word for word in words.tokens)


def test_the_file_keeps_the_tokens(tiny_model: Any) -> None:
    path = tiny_model("tiny-llama", "q4_0")
    metadata = read_catalogue(path).metadata
    with FileSource(path) as source:
        assert read_array(source, metadata["tokenizer.ggml.tokens"]) == vocabulary(2048).tokens


# -- in llama.cpp -----------------------------------------------------------------------------


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Any]:
    """Opens a model in llama.cpp as it is, without repacked weights."""
    import llama_cpp

    defaults = llama_cpp.llama_model_default_params

    def without_repacking() -> Any:
        parameters = defaults()
        parameters.use_extra_bufts = False
        return parameters

    monkeypatch.setattr(llama_cpp.llama_cpp, "llama_model_default_params", without_repacking)
    monkeypatch.setattr(llama_cpp, "llama_model_default_params", without_repacking)

    def load(path: Path) -> Any:
        return llama_cpp.Llama(str(path), n_ctx=256, n_threads=2, verbose=False, logits_all=True)

    return load


def require_sensible_logits(model: Any) -> None:
    tokens = model.tokenize(b"Hello world: 1 + 2 = 3")
    model.eval(tokens)
    logits = np.array(model.scores[: len(tokens)])
    assert np.isfinite(logits).all()
    assert 0.2 < logits.std() < 5.0
    assert len(set(logits.argmax(axis=1).tolist())) > len(tokens) // 4
    model.close()


@pytest.mark.native
@pytest.mark.parametrize("quant", QUANTS)
@pytest.mark.parametrize("preset", TINY)
def test_llama_cpp_computes_it(preset: str, quant: str, plain: Any, tiny_model: Any) -> None:
    require_sensible_logits(plain(tiny_model(preset, quant)))


@pytest.mark.native
def test_llama_cpp_loads_the_shards(plain: Any, tmp_path: Path) -> None:
    require_sensible_logits(plain(write_model("tiny-moe", tmp_path / "m.gguf", split=4)[0]))


@pytest.mark.native
@pytest.mark.parametrize(
    "text", ["Hello world", "a  b\n\tc", "Grüße, 世界 🌍", "tete nana #!?", "x" * 100]
)
def test_text_survives_the_tokenizer(text: str, plain: Any, tiny_model: Any) -> None:
    model = plain(tiny_model("tiny-llama", "q4_0"))
    tokens = model.tokenize(text.encode(), add_bos=False)
    assert model.detokenize(tokens).decode().removeprefix(" ") == text
    model.close()


@pytest.mark.native
def test_answers_do_not_end_by_themselves(plain: Any, tiny_model: Any) -> None:
    model = plain(tiny_model("tiny-llama", "q4_0"))
    answer = model("Hello", max_tokens=100, temperature=0)
    assert answer["usage"]["completion_tokens"] == 100
    model.close()
