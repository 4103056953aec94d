"""Write a trained network as a GGUF file that llama.cpp reads."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import torch
from model import Network, Shape
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokens import CONTROL, END, TURN
from torch import Tensor

CHAT_TEMPLATE = (
    "{% for message in messages %}" + TURN + "{% if message['role'] == 'user' %}ROMEO:\n"
    "{% elif message['role'] == 'assistant' %}JULIET:\n{% endif %}"
    "{{ message['content'] }}" + END + "{% endfor %}"
    "{% if add_generation_prompt %}" + TURN + "JULIET:\n{% endif %}"
)

_NAMES = {
    "attention_norm": "attn_norm",
    "attention.q_norm": "attn_q_norm",
    "attention.k_norm": "attn_k_norm",
    "attention.q": "attn_q",
    "attention.k": "attn_k",
    "attention.v": "attn_v",
    "attention.output": "attn_output",
    "ffn_norm": "ffn_norm",
    "ffn.gate": "ffn_gate",
    "ffn.up": "ffn_up",
    "ffn.down": "ffn_down",
    "ffn.router": "ffn_gate_inp",
}


def _tensors(network: Network) -> dict[str, Tensor]:
    """The weights under llama.cpp's names; the experts of a layer become one tensor."""
    state = network.state_dict()
    found = {
        "token_embd.weight": state["embedding.weight"],
        "output_norm.weight": state["norm.weight"],
    }
    for index in range(network.shape.layers):
        for ours, theirs in _NAMES.items():
            weight = state.get(f"layers.{index}.{ours}.weight")
            if weight is not None:
                found[f"blk.{index}.{theirs}.weight"] = weight
        for part in ("gate", "up", "down") if network.shape.experts else ():
            each = [
                state[f"layers.{index}.ffn.experts.{expert}.{part}.weight"]
                for expert in range(network.shape.experts)
            ]
            found[f"blk.{index}.ffn_{part}_exps.weight"] = torch.stack(each)
    return found


def _add_shape(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.hidden * max(1, shape.used))
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head)
    writer.add_value_length(shape.head)
    writer.add_rope_dimension_count(shape.head)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_vocab_size(shape.vocabulary)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.used)
        writer.add_expert_feed_forward_length(shape.hidden)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    size = tokenizer.get_vocab_size()
    pieces = [tokenizer.id_to_token(index) for index in range(size)]
    kinds = [
        gguf.TokenType.CONTROL if piece in CONTROL else gguf.TokenType.NORMAL for piece in pieces
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(pieces)
    writer.add_token_types(kinds)
    writer.add_token_merges(_merges(tokenizer))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(tokenizer.token_to_id(END))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _merges(tokenizer: Tokenizer) -> list[str]:
    return [" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


def _add_weight(
    writer: gguf.GGUFWriter, name: str, weight: Tensor, kind: gguf.GGMLQuantizationType
) -> None:
    values: NDArray[np.float32] = weight.detach().float().numpy()
    # llama.cpp wants norms in f32 and keeps routers so: a rounded router picks other experts.
    if values.ndim == 1 or "ffn_gate_inp" in name or kind == gguf.GGMLQuantizationType.F32:
        writer.add_tensor(name, values)
    else:
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


def export(network: Network, tokenizer: Tokenizer, path: Path, name: str, kind: str) -> None:
    """Write `network` to `path` with its matrices as `kind`, "q8_0" or "f32"."""
    quant = gguf.GGMLQuantizationType[kind.upper()]
    writer = gguf.GGUFWriter(path, network.shape.architecture)
    writer.add_name(name)
    writer.add_description("A small model of Shakespeare's plays")
    writer.add_license("public domain text, MIT weights")
    writer.add_file_type(
        gguf.LlamaFileType[f"MOSTLY_{kind.upper()}" if kind != "f32" else "ALL_F32"]
    )
    _add_shape(writer, network.shape)
    _add_tokenizer(writer, tokenizer)
    for tensor, weight in _tensors(network).items():
        _add_weight(writer, tensor, weight, quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
