# SPDX-License-Identifier: Apache-2.0
"""The control: the prompt and k tokens drawn at random, in every (layer, KV head) by itself
("Random Attention", arXiv 2609.03430: prompt pinned, random per-head keep).

The draw is a hash of (layer, KV head, position), so every machine draws alike. As a token's number
never changes, those that stay are at any time a uniform sample of all tokens so far.
"""
from __future__ import annotations

import numpy as np

from .follow import Follower

MASK = (1 << 64) - 1


def draw(layer: int, head: int, position: int) -> int:
    """24 bits of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom generators)."""
    x = (layer << 48 | head << 32 | position) + 0x9E3779B97F4A7C15 & MASK
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return (x ^ x >> 31) >> 40


class Random(Follower):
    LITERAL: dict[str, bool] = {}

    def act(self, window_ended: bool) -> None:
        if not window_ended:
            return
        for layer, head, tokens in self.lanes_above(self.budget, self.prompt):
            numbers = np.array([draw(layer, head, int(p)) for p in tokens])
            self.keep_best(layer, head, tokens, numbers, self.budget, recent=0)
