# SPDX-License-Identifier: Apache-2.0
"""What the cache of one layer holds: tokens that differ by (text, KV head), in equal counts (where
they are not: uneven.py, ragged.py)."""
from __future__ import annotations

import torch

from .residue import Residue


class Lanes:
    """All tensors are [batch, KV heads, live tokens, ...], ascending by position."""

    def __init__(self) -> None:
        self.keys: torch.Tensor | None = None  # as stored, after RoPE
        self.values: torch.Tensor | None = None
        self.positions: torch.Tensor | None = None
        self.received: torch.Tensor | None = None  # attention, for the policies that score by it
        # Queries [batch, KV heads, group, n, dim]: the newest after RoPE, sampled ones before.
        self.newest: torch.Tensor | None = None
        self.past: torch.Tensor | None = None
        self.residue = Residue()

    @property
    def count(self) -> int:
        return 0 if self.keys is None else self.keys.shape[2]

    @property
    def count_mean(self) -> float:
        """Live tokens of a lane."""
        return self.count

    @property
    def dead(self) -> torch.Tensor | None:
        """[batch, KV heads, live]: slots that hold nothing. None: none does."""
        return None

    def append(self, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor) -> None:
        if self.keys is None:
            self.keys, self.values, self.positions = keys, values, positions
            return
        self.keys = torch.cat([self.keys, keys], 2)
        self.values = torch.cat([self.values, values], 2)
        self.positions = torch.cat([self.positions, positions], 2)

    def keep_best(self, score: torch.Tensor, count: int, with_residue: bool) -> None:
        """Keeps the `count` tokens of each lane with the largest scores [batch, KV heads, live]."""
        index = score.topk(count, -1).indices.sort(-1).values
        wide = index[..., None].expand(-1, -1, -1, self.keys.shape[-1])
        keys, values = self.keys, self.values
        self.keys, self.values = keys.gather(2, wide), values.gather(2, wide)
        self.positions = self.positions.gather(2, index)
        if self.received is not None:
            self.received = self.received.gather(2, index)
        if with_residue:
            self.residue.add(keys.sum(2) - self.keys.sum(2), values.sum(2) - self.values.sum(2),
                             keys.shape[2] - count)

    def note_queries(self, rotated: torch.Tensor, plain: torch.Tensor, newest: int, sampled: int,
                     stride: int, thin: bool) -> None:
        """Keeps the `newest` last queries, and of all of them up to twice `sampled`, both in groups
        [batch, KV heads, group, tokens, dim]."""
        if newest:
            seen = rotated if self.newest is None else torch.cat([self.newest, rotated], 3)
            self.newest = seen[:, :, :, -newest:]
        if sampled:
            add = plain[:, :, :, ::stride]
            past = add if self.past is None else torch.cat([self.past, add], 3)
            if past.shape[3] > 2 * sampled:
                older, newer = past[:, :, :, :sampled:2], past[:, :, :, sampled:]
                past = torch.cat([older, newer], 3) if thin else past[:, :, :, -sampled:]
            self.past = past


class GappedLanes(Lanes):
    """Lanes some of whose slots hold nothing: their position is -1."""

    @property
    def dead(self) -> torch.Tensor | None:
        return None if self.positions is None else self.positions < 0
