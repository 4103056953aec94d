"""The two networks that are trained: Llama (dense) and Qwen3-MoE, as llama.cpp computes them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """The sizes of a network; `experts` of 0 makes it dense."""

    architecture: str
    layers: int
    width: int
    hidden: int  # feed-forward width, of one expert when there are experts
    heads: int
    kv_heads: int
    vocabulary: int
    context: int
    experts: int = 0
    used: int = 0
    rope_base: float = 10000.0
    epsilon: float = 1e-5

    @property
    def head(self) -> int:
        return self.width // self.heads


class Rope(nn.Module):
    """Rotary positions; llama pairs neighbours, qwen3moe pairs the halves of a head."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.neighbours = shape.architecture == "llama"
        rate = shape.rope_base ** -(torch.arange(0, shape.head, 2).float() / shape.head)
        angle = torch.outer(torch.arange(shape.context).float(), rate)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Rotate `x` of shape (batch, heads, tokens, head)."""
        tokens = x.shape[-2]
        cos, sin = self.get_buffer("cos")[:tokens], self.get_buffer("sin")[:tokens]
        if self.neighbours:
            a, b = x.view(*x.shape[:-1], -1, 2).unbind(-1)
            return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class Attention(nn.Module):
    """Causal attention with grouped keys and values; qwen3moe normalises each query and key."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        kv_width = shape.kv_heads * shape.head
        self.q = nn.Linear(shape.width, shape.width, bias=False)
        self.k = nn.Linear(shape.width, kv_width, bias=False)
        self.v = nn.Linear(shape.width, kv_width, bias=False)
        self.output = nn.Linear(shape.width, shape.width, bias=False)
        normed = shape.architecture == "qwen3moe"
        self.q_norm = nn.RMSNorm(shape.head, shape.epsilon) if normed else nn.Identity()
        self.k_norm = nn.RMSNorm(shape.head, shape.epsilon) if normed else nn.Identity()

    def forward(self, x: Tensor, rope: Rope) -> Tensor:
        head = self.shape.head
        q = self.q_norm(self.q(x).unflatten(-1, (-1, head))).transpose(1, 2)
        k = self.k_norm(self.k(x).unflatten(-1, (-1, head))).transpose(1, 2)
        v = self.v(x).unflatten(-1, (-1, head)).transpose(1, 2)
        share = self.shape.heads // self.shape.kv_heads
        k, v = rope(k).repeat_interleave(share, 1), v.repeat_interleave(share, 1)
        mixed = F.scaled_dot_product_attention(rope(q), k, v, is_causal=True)
        merged: Tensor = self.output(mixed.transpose(1, 2).flatten(-2))
        return merged


class FeedForward(nn.Module):
    """SwiGLU; one of these is also one expert."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate = nn.Linear(shape.width, shape.hidden, bias=False)
        self.up = nn.Linear(shape.width, shape.hidden, bias=False)
        self.down = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return mixed


class Experts(nn.Module):
    """Softmax router, the best `used` experts, their weights normalised to one.

    After `forward`, `balance` is the load-balancing loss of the Switch Transformer
    (1 when all experts are used alike) and `load` each expert's share of the choices.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.used = shape.used
        self.router = nn.Linear(shape.width, shape.experts, bias=False)
        self.experts = nn.ModuleList(FeedForward(shape) for _ in range(shape.experts))
        self.balance = torch.zeros(())
        self.load = torch.zeros(shape.experts)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        chance = self.router(rows).float().softmax(-1)
        weights, chosen = chance.topk(self.used, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)
        self.load = torch.bincount(chosen.flatten(), minlength=len(self.experts)) / chosen.numel()
        self.balance = len(self.experts) * (self.load * chance.mean(0)).sum()
        mixed = torch.zeros_like(rows)
        for index, expert in enumerate(self.experts):
            row, rank = (chosen == index).nonzero(as_tuple=True)
            share = weights[row, rank].unsqueeze(-1)
            mixed = mixed.index_add(0, row, (expert(rows[row]) * share).to(mixed.dtype))
        return mixed.view_as(x)


class Layer(nn.Module):
    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(shape.width, shape.epsilon)
        self.attention = Attention(shape)
        self.ffn_norm = nn.RMSNorm(shape.width, shape.epsilon)
        self.ffn = Experts(shape) if shape.experts else FeedForward(shape)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, rope: Rope) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), rope))
        mixed: Tensor = x + self.dropout(self.ffn(self.ffn_norm(x)))
        return mixed


class Network(nn.Module):
    """Token ids (batch, tokens) to logits (batch, tokens, vocabulary); output tied to input."""

    def __init__(self, shape: Shape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.rope = Rope(shape)
        self.layers = nn.ModuleList(Layer(shape, dropout) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, shape.epsilon)
        self.dropout = nn.Dropout(dropout)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                deep = name.endswith(("output.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * shape.layers) if deep else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.dropout(self.embedding(tokens))
        for layer in self.layers:
            x = layer(x, self.rope)
        return F.linear(self.norm(x), self.embedding.weight)

    def routers(self) -> list[Experts]:
        """The expert layers, first to last; none in a dense network."""
        return [module for module in self.modules() if isinstance(module, Experts)]
