# SPDX-License-Identifier: Apache-2.0
"""Lanes of one batch that differ in length: what a chain holds stands at the front, in equal counts
over heads, and the rest is dead."""
from __future__ import annotations

import torch

from .lanes import GappedLanes

_STEP = 256  # slots by which tensors grow


class RaggedLanes(GappedLanes):
    """keys, values and positions are the front of larger tensors, written in place."""

    def __init__(self, batch: int, device: str):
        super().__init__()
        self.live = torch.zeros(batch, dtype=torch.long, device=device)
        self._most = 0  # of live
        self._room: list[torch.Tensor] = []  # keys, values, positions

    def append(self, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor) -> None:
        """Behind what is live; it is the caller's to say so to set_live."""
        heads, count, dim = keys.shape[1:]
        if not self._room or self._room[0].shape[2] < self._most + count:
            self._grow(keys, positions)
        at = self.live[:, None] + torch.arange(count, device=keys.device)
        at = at[:, None].expand(-1, heads, -1)
        wide = at[..., None].expand(-1, -1, -1, dim)
        for room, new, index in zip(self._room, (keys, values, positions), (wide, wide, at)):
            room.scatter_(2, index, new)
        self._show(self._most + count)

    def _grow(self, keys: torch.Tensor, positions: torch.Tensor) -> None:
        batch, heads, _, dim = keys.shape
        empty = (keys.new_zeros(batch, heads, _STEP, dim), keys.new_zeros(batch, heads, _STEP, dim),
                 positions.new_full((batch, heads, _STEP), -1))
        self._room = [torch.cat([old, new], 2) for old, new in zip(self._room, empty)] or list(empty)

    def _show(self, slots: int) -> None:
        self.keys, self.values, self.positions = (room[:, :, :slots] for room in self._room)

    def set_live(self, live: torch.Tensor, most: int) -> None:
        """live [batch], `most` the largest of them."""
        self.live, self._most = live, most
        self._show(most)

    def of_rows(self, rows: torch.Tensor) -> RaggedLanes:
        """A copy of what these chains hold."""
        part = RaggedLanes(len(rows), rows.device)
        part.keys, part.values = self.keys[rows], self.values[rows]
        part.positions = self.positions[rows]
        return part

    def keep(self, rows: torch.Tensor, part: RaggedLanes, stay: torch.Tensor, live: torch.Tensor
             ) -> None:
        """part: of_rows(rows); stay [rows, KV heads, slots], the first `live` [rows] of which stay
        in every lane. Closes the gaps."""
        order = (~stay).to(torch.uint8).argsort(dim=-1, stable=True)
        gone = torch.arange(stay.shape[-1], device=rows.device) >= live[:, None, None]
        wide = order[..., None].expand(-1, -1, -1, part.keys.shape[-1])
        self.keys[rows], self.values[rows] = part.keys.gather(2, wide), part.values.gather(2, wide)
        self.positions[rows] = part.positions.gather(2, order).masked_fill(gone, -1)
