# SPDX-License-Identifier: Apache-2.0
"""The network as trained: Llama (RoPE half-split, RMSNorm, SwiGLU, grouped queries, tied head)."""
from __future__ import annotations

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from export import SHAPE


def rope_tables(length: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, [length, head_dim / 2], fp32."""
    half = SHAPE["head_dim"] // 2
    rate = SHAPE["rope_theta"] ** (-torch.arange(half, device=device, dtype=torch.float32) / half)
    angle = torch.arange(length, device=device, dtype=torch.float32)[:, None] * rate
    return angle.cos(), angle.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        d, self.head_dim = SHAPE["hidden_size"], SHAPE["head_dim"]
        self.heads, self.kv_heads = SHAPE["num_attention_heads"], SHAPE["num_key_value_heads"]
        ff, eps = SHAPE["intermediate_size"], SHAPE["rms_norm_eps"]
        self.n1, self.n2 = nn.RMSNorm(d, eps=eps), nn.RMSNorm(d, eps=eps)
        self.q = nn.Linear(d, self.heads * self.head_dim, bias=False)
        self.k = nn.Linear(d, self.kv_heads * self.head_dim, bias=False)
        self.v = nn.Linear(d, self.kv_heads * self.head_dim, bias=False)
        self.o = nn.Linear(self.heads * self.head_dim, d, bias=False)
        self.gate, self.up = nn.Linear(d, ff, bias=False), nn.Linear(d, ff, bias=False)
        self.down = nn.Linear(ff, d, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        rows, length, _ = x.shape
        h = self.n1(x)
        q, k, v = (p(h).view(rows, length, n, self.head_dim).transpose(1, 2) for p, n in
                   ((self.q, self.heads), (self.k, self.kv_heads), (self.v, self.kv_heads)))
        a = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v,
                                           is_causal=True, enable_gqa=True)
        x = x + self.o(a.transpose(1, 2).reshape(rows, length, -1))
        h = self.n2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Model(nn.Module):
    """Token ids [rows, length] to hidden states; `logits` and `loss` apply the tied head."""

    def __init__(self, vocab: int = 128) -> None:
        super().__init__()
        layers = SHAPE["num_hidden_layers"]
        self.embed = nn.Embedding(vocab, SHAPE["hidden_size"])
        self.blocks = nn.ModuleList(Block() for _ in range(layers))
        self.norm = nn.RMSNorm(SHAPE["hidden_size"], eps=SHAPE["rms_norm_eps"])
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)
        for block in self.blocks:
            for w in (block.o.weight, block.down.weight):
                nn.init.normal_(w, std=0.02 / math.sqrt(2 * layers))

    def forward(self, ids: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor,
                eager: bool = False) -> torch.Tensor:
        """`eager` bypasses the compiled blocks, for shapes that are seen once."""
        x = self.embed(ids)
        cos, sin = cos[:ids.shape[1]], sin[:ids.shape[1]]
        for block in self.blocks:
            x = block.forward(x, cos, sin) if eager else block(x, cos, sin)
        return x

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x) @ self.embed.weight.t()

    def loss(self, x: torch.Tensor, targets: torch.Tensor, ignore: int) -> torch.Tensor:
        return F.cross_entropy(self.logits(x).float().flatten(0, 1), targets.flatten(),
                               ignore_index=ignore)
