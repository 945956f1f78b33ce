# SPDX-License-Identifier: Apache-2.0
"""Lanes of one layer that hold different numbers of tokens. A lane's slots beyond its own are dead;
tokens go on being appended behind them."""
from __future__ import annotations

import torch

from .lanes import GappedLanes
from .residue import Residue


class UnevenResidue(Residue):
    """`count` is that of all lanes together."""

    def __init__(self) -> None:
        super().__init__()
        self._lost: torch.Tensor | int = 0  # [batch, KV heads]

    def add(self, keys: torch.Tensor, values: torch.Tensor, lost: torch.Tensor) -> None:
        """As Residue's, of `lost` [batch, KV heads] tokens."""
        super().add(keys, values, int(lost.sum()))
        self._lost = self._lost + lost

    def _mean(self, sums: torch.Tensor) -> torch.Tensor:
        return sums / self._lost.clamp(min=1)[..., None]

    def logits(self, queries: torch.Tensor, scale: float, weight: float = 1.0) -> torch.Tensor:
        bonus = (weight * self._lost.clamp(min=1).log()).masked_fill(self._lost == 0, float("-inf"))
        return (queries @ self._mean(self._keys)[..., None]) * scale + bonus[..., None, None]

    @property
    def value(self) -> torch.Tensor:
        return self._mean(self._values)[:, :, None]


class UnevenLanes(GappedLanes):
    def __init__(self) -> None:
        super().__init__()
        self.residue = UnevenResidue()

    @property
    def count_mean(self) -> float:
        return 0 if self.positions is None else (~self.dead).sum(-1).double().mean().item()

    def keep_best_of_each(self, score: torch.Tensor, counts: torch.Tensor, with_residue: bool
                          ) -> None:
        """score [batch, KV heads, live], -inf where a slot is dead; counts [batch, KV heads], at
        most what the lane has."""
        slots, alive = score.shape[-1], (~self.dead).sum(-1)
        top = score.topk(int(counts.max()), -1).indices
        beyond = torch.arange(top.shape[-1], device=top.device) >= counts[..., None]
        index = top.masked_fill(beyond, slots).sort(-1).values
        beyond, index = index == slots, index.clamp(max=slots - 1)
        wide = index[..., None].expand(-1, -1, -1, self.keys.shape[-1])
        keys, values = self.keys, self.values
        self.keys = keys.gather(2, wide).masked_fill(beyond[..., None], 0)
        self.values = values.gather(2, wide).masked_fill(beyond[..., None], 0)
        self.positions = self.positions.gather(2, index).masked_fill(beyond, -1)
        if with_residue:
            self.residue.add(keys.sum(2) - self.keys.sum(2), values.sum(2) - self.values.sum(2),
                             alive - counts)
