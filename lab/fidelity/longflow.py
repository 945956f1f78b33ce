# SPDX-License-Identifier: Apache-2.0
"""LongFlow (arXiv 2603.11504; released code at 89a68d3): a cache of fixed capacity. Once it is full
every step evicts one token of each layer, for all KV heads together: that of the least attention
weight x L1 norm of the value, under the present query, summed over query heads.
"""
from __future__ import annotations

import numpy as np

from .follow import GROUP, Follower, softmax
from .recording import Recording


class LongFlow(Follower):
    LITERAL = {"protect_open": False, "protect_prompt": False}

    def __init__(self, recording: Recording, *, protect_open: bool = True,
                 protect_prompt: bool = True):
        """protect_open: tokens not yet written to the cache, up to 16 of them, are no candidates,
        and a step evicts only while the next group wants room; else the newest may go too.
        protect_prompt: it stays, apart from the capacity; else it competes, the capacity being the
        same number of tokens in all."""
        super().__init__(recording)
        self.protect_open = protect_open
        self.first = self.prompt if protect_prompt else 0
        self.capacity = self.budget if protect_prompt else self.budget + self.prompt
        self.excess = 0  # tokens to be evicted before the next group is written

    def attended(self, new: range) -> None:
        if self.protect_open:
            if self.excess > 0 and len(new) == 1:
                self.excess -= 1
                sealed = new.stop - 1 - (new.stop - 1) % GROUP
                self.evict_one(new.start, sealed)
        elif new.stop > self.prompt and self.live[0, 0, self.first:].sum() > self.capacity:
            self.evict_one(new.start, new.stop)

    def act(self, window_ended: bool) -> None:
        """Room for the next group."""
        if window_ended:
            live = int(self.live[0, 0, self.first:].sum())
            self.excess = max(0, live - (self.capacity - GROUP))

    def evict_one(self, position: int, end: int) -> None:
        """Of the tokens before `end`, in every layer, under the query at `position`."""
        recording = self.recording
        for layer in range(recording.layers):
            tokens = self.live_in(layer, 0)
            score = np.zeros(len(tokens))
            for head in range(recording.kv_heads):
                weight = softmax(self.logits(position, layer, head, tokens)).sum(axis=0)
                score += weight * np.abs(self.v[tokens, layer, head]).sum(axis=-1)
            candidate = (tokens >= self.first) & (tokens < end)
            tokens, score = tokens[candidate], score[candidate]
            self.live[layer, :, tokens[score.argmin()]] = False
            for head in range(recording.kv_heads):
                self.note(layer, head, tokens, score)
