"""Writing a synthetic model: header through the `gguf` package, weights as a stream."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from flexinfer.errors import RequestError
from flexinfer.gguf.types import QUANT_TYPES, paths_to_write
from flexinfer.synth.blocks import QUANTS, Bytes, fill
from flexinfer.synth.shapes import PRESETS, RandomWeight, Shape, weights
from flexinfer.synth.vocabulary import BOS, CHAT_TEMPLATE, EOS, vocabulary
from flexinfer.whole_file import require_room, whole_file

if TYPE_CHECKING:
    from gguf import GGUFWriter

_ALIGNMENT = 32
_CHUNK = 4 << 20
# general.file_type, from `enum llama_ftype`.
_FILE_TYPES = {"f16": 1, "q4_0": 2, "q8_0": 7, "q4_K": 14, "q6_K": 18, "bf16": 32}

Progress = Callable[[int, int], None]


def write_model(
    preset: str | Shape,
    out: str | os.PathLike[str],
    quant: str = "q4_0",
    *,
    seed: int = 0,
    split: int | None = None,
    progress: Progress | None = None,
) -> tuple[Path, ...]:
    """Write a random model and return its paths: `out`, or with `split` so many shards.

    The same arguments give the same bytes. `progress` is called with the bytes of weights written
    and their total. Files appear under their names once they are complete.

    Raises:
        RequestError: unknown preset or quantisation, no name, more shards than tensors, no room.
        OSError: a file cannot be written.
    """
    shape = _shape(preset)
    if quant not in QUANTS:
        raise RequestError(f"unknown quantisation {quant!r}; there are {', '.join(QUANTS)}")
    kind = next(t for t in QUANT_TYPES.values() if t.name == quant)
    found = weights(shape, kind, blank=EOS)
    groups = _divide(found, split or 1)
    paths = paths_to_write(Path(out), split or 1)
    total = sum(weight.nbytes for weight in found)
    todo = "choose another folder or a smaller preset"
    require_room(paths[0].parent, "the model", total, todo)
    name = preset if isinstance(preset, str) else "synthetic"
    report = _Report(progress, total)
    seeds = iter(np.random.SeedSequence(seed).spawn(len(found)))
    for number, (path, group) in enumerate(zip(paths, groups, strict=True)):
        writer = _header(shape, name, quant) if number == 0 else _bare(shape)
        if split:
            writer.add_uint16("split.no", number)
            writer.add_uint16("split.count", split)
            writer.add_int32("split.tensors.count", len(found))
        with whole_file(path) as partial:
            _write_file(writer, partial, group, seeds, report)
    return paths


class _Report:
    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def add(self, nbytes: int) -> None:
        self._done += nbytes
        if self._progress is not None:
            self._progress(self._done, self._total)


def _shape(preset: str | Shape) -> Shape:
    if isinstance(preset, Shape):
        return preset
    if preset not in PRESETS:
        raise RequestError(f"unknown preset {preset!r}; there are {', '.join(PRESETS)}")
    return PRESETS[preset]


def _divide(found: Sequence[RandomWeight], shards: int) -> list[Sequence[RandomWeight]]:
    if not 1 <= shards <= len(found):
        raise RequestError(f"{len(found)} tensors cannot be split into {shards} shards")
    bounds = [len(found) * i // shards for i in range(shards + 1)]
    return [found[a:b] for a, b in pairwise(bounds)]


def _bare(shape: Shape) -> GGUFWriter:
    from gguf import GGUFWriter  # late: 0.2 s that a list of presets need not wait for

    return GGUFWriter(None, shape.architecture)


def _header(shape: Shape, name: str, quant: str) -> GGUFWriter:
    writer = _bare(shape)
    writer.add_name(f"{name} (random weights)")
    writer.add_file_type(_FILE_TYPES[quant])
    writer.add_quantization_version(2)
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.ffn * max(1, shape.experts_used))
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_size)
    writer.add_value_length(shape.head_size)
    writer.add_rope_dimension_count(shape.head_size)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocabulary)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.experts_used)
        writer.add_expert_feed_forward_length(shape.ffn)
    _add_tokenizer(writer, shape.vocabulary)
    return writer


def _add_tokenizer(writer: GGUFWriter, size: int) -> None:
    words = vocabulary(size)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words.tokens)
    writer.add_token_scores(words.scores)
    writer.add_token_types(words.types)
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _write_file(
    writer: GGUFWriter,
    path: Path,
    group: Sequence[RandomWeight],
    seeds: Iterator[np.random.SeedSequence],
    report: _Report,
) -> None:
    from gguf import GGMLQuantizationType

    for weight in group:
        byte_shape = (*reversed(weight.shape[1:]), weight.row_bytes)
        writer.add_tensor_info(
            weight.name,
            byte_shape,
            np.dtype(np.uint8),
            weight.nbytes,
            raw_dtype=GGMLQuantizationType(weight.type.id),
        )
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("ab") as file:
        _pad(file)
        for weight in group:
            for chunk in _chunks(weight, np.random.SFC64(next(seeds))):
                file.write(chunk.data)
                report.add(chunk.nbytes)
            _pad(file)


def _chunks(weight: RandomWeight, random: np.random.SFC64) -> Iterator[Bytes]:
    """The weight's bytes, some rows at a time."""
    step = max(1, _CHUNK // weight.row_bytes)
    for row in range(0, weight.rows, step):
        nbytes = min(step, weight.rows - row) * weight.row_bytes
        raw = random.random_raw(-(-nbytes // 8)).view(np.uint8)[:nbytes]
        fill(weight.type.name, raw.reshape(-1, weight.type.nbytes), weight.scale, weight.mean)
        if weight.blank is not None and row <= weight.blank < row + step:
            at = (weight.blank - row) * weight.row_bytes
            raw[at : at + weight.row_bytes] = 0
        yield raw


def _pad(file: IO[bytes]) -> None:
    file.write(bytes(-file.tell() % _ALIGNMENT))
