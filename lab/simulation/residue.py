# SPDX-License-Identifier: Apache-2.0
"""What evicted tokens leave: one key and one value a lane, the means of theirs, read by every later
query with the weight of as many tokens as were evicted."""
from __future__ import annotations

import math

import torch


class Residue:
    def __init__(self) -> None:
        self.count = 0  # the same in every lane
        self._keys: torch.Tensor | float = 0.0
        self._values: torch.Tensor | float = 0.0

    def add(self, keys: torch.Tensor, values: torch.Tensor, count: int) -> None:
        """Sums over `count` evicted tokens, [batch, KV heads, dim]; keys as stored, after RoPE."""
        self._keys = self._keys + keys
        self._values = self._values + values
        self.count += count

    def logits(self, queries: torch.Tensor, scale: float, weight: float = 1.0) -> torch.Tensor:
        """queries [batch, KV heads, n, dim] -> [batch, KV heads, n, 1]."""
        mean = self._keys / self.count
        return (queries @ mean[..., None]) * scale + weight * math.log(self.count)

    @property
    def value(self) -> torch.Tensor:
        """[batch, KV heads, 1, dim]"""
        return (self._values / self.count)[:, :, None]
