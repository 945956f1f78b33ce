# SPDX-License-Identifier: Apache-2.0
"""Sparsity of attention at every step of a chain, with the full cache.

As MeasureSparsity has it (kernels/backend.h, ThinKV appendix C.2): logits of all query heads, max
over the heads of a KV group, softmax over the keys so far, mean over KV heads; then the share of
keys whose weight is below 1 % of the largest.
"""
from __future__ import annotations

import numpy as np
import torch

from simulation.network import Network

_FAINT = 0.01
_ROWS = 512  # queries at once


def of_chain(network: Network, chain: bytes) -> np.ndarray:
    """[layers, tokens], fp32: entry t is what the query of token t sees in the keys 0..t."""
    count = len(chain)
    device = network.device
    found = torch.empty(network.layers, count, device=device)
    positions = torch.arange(count, device=device)

    def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k = (network.rotate(x, positions.float())[0] for x in (q, k))
        q = q.view(network.kv_heads, network.group, count, network.head_dim)
        out = torch.empty_like(q)
        for first in range(0, count, _ROWS):
            rows = slice(first, min(first + _ROWS, count))
            seen = positions[None, :] <= positions[rows, None]
            logits = q[:, :, rows] @ k[:, None].transpose(-1, -2) * network.logit_scale
            logits = logits.masked_fill(~seen, float("-inf"))
            out[:, :, rows] = logits.softmax(-1) @ v[0][:, None]
            weights = logits.amax(1).softmax(-1).mean(0)
            faint = (weights < _FAINT * weights.amax(-1, keepdim=True)) & seen
            found[layer, rows] = faint.sum(-1) / seen.sum(-1)
        return out.view(1, network.query_heads, count, network.head_dim)

    network.read(torch.tensor([list(chain)], device=device), attend)
    return found.cpu().numpy()
