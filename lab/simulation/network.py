# SPDX-License-Identifier: Apache-2.0
"""A Llama-style network from a Hugging Face folder, in fp32, whose attention the caller supplies.

Queries and keys are handed out before RoPE: a codebook of queries wants them so. Positions, caches
and masks are the caller's business; `rotate` turns what it wants turned.
"""
from __future__ import annotations

import json
import math
import pathlib
from typing import Callable

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

# attend(layer, queries [batch, query heads, n, dim], keys, values [batch, KV heads, n, dim])
# -> [batch, query heads, n, dim]; all before RoPE.
Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Network:
    def __init__(self, folder: pathlib.Path, device: str):
        config = json.loads((folder / "config.json").read_text())
        self.device = device
        self.layers = config["num_hidden_layers"]
        self.query_heads = config["num_attention_heads"]
        self.kv_heads = config["num_key_value_heads"]
        self.group = self.query_heads // self.kv_heads
        self.head_dim = config.get("head_dim") or config["hidden_size"] // self.query_heads
        self.logit_scale = 1 / math.sqrt(self.head_dim)
        self.epsilon = config["rms_norm_eps"]
        self.vocabulary = config["vocab_size"]
        theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
        half = self.head_dim // 2
        self.frequencies = theta ** (-torch.arange(half, device=device, dtype=torch.float32) / half)
        self._load(folder)

    def _load(self, folder: pathlib.Path) -> None:
        tensors = {}
        for file in sorted(folder.glob("model*.safetensors")):
            tensors.update(load_file(str(file)))
        tensors = {name: tensor.to(self.device, torch.float32) for name, tensor in tensors.items()}
        self.embedding = tensors["model.embed_tokens.weight"]
        self.head = tensors.get("lm_head.weight", self.embedding)
        self.last_norm = tensors["model.norm.weight"]
        self.weights = []
        for layer in range(self.layers):
            def of(name: str) -> torch.Tensor:
                return tensors[f"model.layers.{layer}.{name}.weight"]
            self.weights.append({
                "norm": of("input_layernorm"),
                "qkv": torch.cat([of(f"self_attn.{x}_proj") for x in "qkv"]),
                "out": of("self_attn.o_proj"),
                "mlp_norm": of("post_attention_layernorm"),
                "gate_up": torch.cat([of("mlp.gate_proj"), of("mlp.up_proj")]),
                "down": of("mlp.down_proj")})

    def norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon) * weight

    def rotate(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """RoPE. x [..., n, dim]; positions: floats that broadcast to [..., n]."""
        angle = positions[..., None] * self.frequencies
        cos, sin = angle.cos(), angle.sin()
        low, high = x.chunk(2, -1)
        return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)

    def read(self, tokens: torch.Tensor, attend: Attend) -> torch.Tensor:
        """tokens [batch, n] -> what the head reads, [batch, n, width]."""
        batch, count = tokens.shape
        heads = (self.query_heads, self.kv_heads, self.kv_heads)
        split = [count_of * self.head_dim for count_of in heads]
        x = self.embedding[tokens]
        for layer, w in enumerate(self.weights):
            qkv = self.norm(x, w["norm"]) @ w["qkv"].T
            q, k, v = (part.view(batch, count, -1, self.head_dim).transpose(1, 2)
                       for part in qkv.split(split, -1))
            out = attend(layer, q, k, v)
            x = x + out.transpose(1, 2).reshape(batch, count, -1) @ w["out"].T
            gate, up = (self.norm(x, w["mlp_norm"]) @ w["gate_up"].T).chunk(2, -1)
            x = x + (F.silu(gate) * up) @ w["down"].T
        return self.norm(x, self.last_norm)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden @ self.head.T


def hadamard(dim: int, device: str) -> torch.Tensor:
    """An orthonormal Hadamard matrix; dim is a power of two."""
    h = torch.ones(1, 1, device=device)
    while h.shape[0] < dim:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h / math.sqrt(dim)
