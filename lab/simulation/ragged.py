# SPDX-License-Identifier: Apache-2.0
"""Lanes of one batch that differ in length: what a chain holds stands at the front, in equal counts
over heads, and the rest is dead."""
from __future__ import annotations

import torch

from .lanes import Lanes


class RaggedLanes(Lanes):
    def __init__(self, batch: int, device: str):
        super().__init__()
        self.live = torch.zeros(batch, dtype=torch.long, device=device)

    @property
    def dead(self) -> torch.Tensor | None:
        return None if self.positions is None else self.positions < 0

    def append(self, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor) -> None:
        """Behind what is live; `live` is the caller's to raise."""
        batch, heads, count, dim = keys.shape
        room = [(self.positions, keys.new_full((batch, heads, count), -1, dtype=torch.long)),
                (self.keys, torch.zeros_like(keys)), (self.values, torch.zeros_like(values))]
        if self.positions is not None:
            room = [(None, torch.cat(pair, 2)) for pair in room]
        at = self.live[:, None] + torch.arange(count, device=keys.device)
        at = at[:, None].expand(-1, heads, -1)
        wide = at[..., None].expand(-1, -1, -1, dim)
        self.positions = room[0][1].scatter(2, at, positions)
        self.keys = room[1][1].scatter(2, wide, keys)
        self.values = room[2][1].scatter(2, wide, values)

    def keep(self, stay: torch.Tensor, live: torch.Tensor) -> None:
        """stay [batch, KV heads, slots], `live` [batch] of them in every lane; closes the gaps."""
        self.live = live
        most = int(live.max())
        order = (~stay).to(torch.uint8).argsort(dim=-1, stable=True)[..., :most]
        gone = torch.arange(most, device=live.device) >= live[:, None, None]
        wide = order[..., None].expand(-1, -1, -1, self.keys.shape[-1])
        self.keys, self.values = self.keys.gather(2, wide), self.values.gather(2, wide)
        self.positions = self.positions.gather(2, order).masked_fill(gone, -1)
