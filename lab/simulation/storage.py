# SPDX-License-Identifier: Apache-2.0
"""What a lane's cache takes, all bytes, as kernels/layout.h counts them but for pages: no holes.

A token takes its K and V, its position and a bit of the live mask. A scale of one channel serves
the 16 tokens of its group and stays as long as one of them does. The open group is there always.
"""
from __future__ import annotations

import torch

from .formats import BLOCK_ELEMENTS, bytes_of
from .lanes import Lanes
from .spec import Spec

_POSITION_BYTES = 4
_LIVE_BITS = 1


class Storage:
    def __init__(self, spec: Spec, head_dim: int):
        self.token_bytes = _POSITION_BYTES + _LIVE_BITS / 8
        self.group_bytes = 0.0  # scales of a group of tokens
        for name, scales in ((spec.key_format, spec.key_scales),
                             (spec.value_format, spec.value_scales)):
            data, _ = bytes_of(name, head_dim)
            _, beside = bytes_of(name, head_dim * BLOCK_ELEMENTS)
            self.token_bytes += data
            if scales == "token":
                self.token_bytes += beside / BLOCK_ELEMENTS
            else:
                self.group_bytes += beside
        self.fixed_bytes = 2 * BLOCK_ELEMENTS * head_dim * 2  # an open group, bf16
        if spec.residue is not None:
            self.fixed_bytes += 4 * (2 * head_dim + 4)
        self._full_token_bytes = 2 * head_dim * 2
        self._held = self._full = 0.0
        self._tokens = 0

    def held(self, lanes: list[Lanes]) -> torch.Tensor | float:
        """Bytes of one lane as they are now, mean over texts and lanes."""
        count = sum(layer.count_mean for layer in lanes) / len(lanes)
        held = self.fixed_bytes + count * self.token_bytes
        if self.group_bytes:
            groups = sum(_groups(layer.positions) for layer in lanes) / len(lanes)
            held = held + self.group_bytes * groups
        return held

    def see(self, lanes: list[Lanes], count: int) -> None:
        """When `count` tokens have joined the lanes, before a selection. A token read meanwhile
        found half of them, on average."""
        held = self.held(lanes) - count / 2 * self.token_bytes
        self._tokens += count
        self._held += held * count
        self._full += (self._tokens - count / 2) * self._full_token_bytes * count

    def figures(self) -> dict[str, float]:
        """lane_bytes: held when a token is read, mean over tokens, texts and lanes; bytes_percent:
        of K and V of all tokens so far in bf16, both summed over time."""
        held = float(self._held)
        return {"lane_bytes": held / self._tokens, "bytes_percent": held / self._full * 100}


def _groups(positions: torch.Tensor) -> torch.Tensor:
    """Groups that a lane's tokens [batch, KV heads, live], ascending, come from: mean."""
    group = positions // BLOCK_ELEMENTS
    return 1 + (group.diff(dim=-1) != 0).sum(-1).double().mean()
