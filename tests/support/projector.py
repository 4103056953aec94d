"""A tiny random image projector (the CLIP of LLaVA), and what a model answers about an image.

Run as a script it answers with llama-cpp-python's own class, in a process that never registers
the device: ``python projector.py MODEL PROJECTOR`` prints the answer's tokens and its logits.
"""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from PIL import Image

from flexinfer.bench.plain import open_plain
from support.plainly import require_plain

OPTIONS: dict[str, Any] = {
    "n_ctx": 512,
    "n_batch": 128,
    "n_ubatch": 64,
    "n_threads": 2,
    "n_threads_batch": 2,
    "logits_all": True,
}
_SIZE, _PATCH, _WIDTH, _FEED, _LAYERS = 56, 14, 64, 128, 3
_TOKENS = 6


def write_projector(path: Path, embedding: int, feed: int = _FEED) -> Path:
    """Write one for a model whose embeddings have so many numbers; `feed` makes it larger."""
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.use_gelu", True)
    for key, value in {
        "image_size": _SIZE,
        "patch_size": _PATCH,
        "embedding_length": _WIDTH,
        "feed_forward_length": feed,
        "block_count": _LAYERS,
        "projection_dim": embedding,
        "attention.head_count": 2,
    }.items():
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    random = np.random.default_rng(5)
    for name, shape in _shapes(embedding, feed).items():
        values = random.standard_normal(shape).astype(np.float32) * 0.1
        writer.add_tensor(name, values + (1 if "ln" in name and "weight" in name else 0))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _shapes(embedding: int, feed: int) -> dict[str, tuple[int, ...]]:
    patches = (_SIZE // _PATCH) ** 2
    shapes: dict[str, tuple[int, ...]] = {
        "v.class_embd": (_WIDTH,),
        "v.patch_embd.weight": (_WIDTH, 3, _PATCH, _PATCH),
        "v.position_embd.weight": (patches + 1, _WIDTH),
        "mm.0.weight": (embedding, _WIDTH),
        "mm.0.bias": (embedding,),
        "mm.2.weight": (embedding, embedding),
        "mm.2.bias": (embedding,),
    }
    for norm in ("v.pre_ln", *(f"v.blk.{n}.ln{i}" for n in range(_LAYERS) for i in (1, 2))):
        shapes |= {f"{norm}.weight": (_WIDTH,), f"{norm}.bias": (_WIDTH,)}
    for layer in range(_LAYERS):
        for name, rows, columns in [
            *((f"attn_{one}", _WIDTH, _WIDTH) for one in ("q", "k", "v", "out")),
            ("ffn_up", feed, _WIDTH),
            ("ffn_down", _WIDTH, feed),
        ]:
            shapes[f"v.blk.{layer}.{name}.weight"] = (rows, columns)
            shapes[f"v.blk.{layer}.{name}.bias"] = (rows,)
    return shapes


def describe(llm: Any, seed: int = 7) -> tuple[str, bytes]:
    """The answer to a question about an image, and the bits of the logits behind it."""
    pixels = np.random.default_rng(seed).integers(0, 255, (_SIZE, _SIZE, 3), np.uint8)
    image = io.BytesIO()
    Image.fromarray(pixels).save(image, "PNG")
    url = "data:image/png;base64," + base64.b64encode(image.getvalue()).decode()
    question = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "What is in this picture?"},
    ]
    # The rows of image tokens are never written: llama.cpp's helper decodes those by itself.
    llm.scores[:] = 0
    found = llm.create_chat_completion(
        [{"role": "user", "content": question}], temperature=0.0, max_tokens=_TOKENS
    )
    logits = llm.scores[: llm.n_tokens]
    assert np.any(logits[-1])
    return str(found["choices"][0]["message"]["content"]), bytes(logits.tobytes())


def handler(projector: Path | str) -> Any:
    from llama_cpp.llama_chat_format import Llava15ChatHandler

    return Llava15ChatHandler(str(projector), verbose=False)


def describe_plainly(model: Path, projector: Path) -> tuple[str, bytes]:
    """What plain llama.cpp answers, from a process of its own."""
    command = [sys.executable, __file__, str(model), str(projector)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    text, logits = json.loads(done.stdout)
    return text, bytes.fromhex(logits)


def _main(model: str, projector: str) -> None:
    llm = open_plain(model, chat_handler=handler(projector), **OPTIONS)
    text, logits = describe(llm)
    require_plain()
    print(json.dumps([text, logits.hex()]))


if __name__ == "__main__":
    _main(*sys.argv[1:])
