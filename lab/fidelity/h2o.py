# SPDX-License-Identifier: Apache-2.0
"""H2O (arXiv 2306.14048, section 4 and Algorithm 1): half of the budget for the newest tokens, half
for the heavy hitters, those with the most attention summed over all steps since they were written;
the least of them is evicted greedily, at every step, in every head by itself.

Attention is the softmax over what is live at that step. With grouped queries a lane has the sum
over the query heads that share it.
"""
from __future__ import annotations

import numpy as np

from .follow import Follower, softmax
from .recording import Recording


class H2o(Follower):
    LITERAL = {"every_step": True, "protect_prompt": False, "count_prefill": True}

    def __init__(self, recording: Recording, *, every_step: bool = False,
                 protect_prompt: bool = True, count_prefill: bool = False):
        """every_step: a token goes at every step, not 16 where a group ends.
        protect_prompt: it stays, apart from the budget; else it competes, the budget being the same
        number of tokens in all.
        count_prefill: what the prompt's tokens attend to counts too."""
        super().__init__(recording)
        self.received = np.zeros(self.live.shape)
        self.every_step, self.count_prefill = every_step, count_prefill
        self.first = self.prompt if protect_prompt else 0
        self.keep = self.budget if protect_prompt else self.budget + self.prompt

    def attended(self, new: range) -> None:
        # Pieces of a prompt are read several tokens a step.
        if len(new) > 1 and not self.count_prefill:
            return
        for position in new:
            for layer, head in self.recording.lanes():
                tokens = self.live_in(layer, head)
                tokens = tokens[tokens <= position]
                probability = softmax(self.logits(position, layer, head, tokens))
                self.received[layer, head, tokens] += probability.sum(axis=0)

    def acts(self) -> bool:
        return self.every_step or super().acts()

    def act(self, window_ended: bool) -> None:
        if not (window_ended or self.every_step):
            return
        for layer, head, tokens in self.lanes_above(self.keep, self.first):
            self.keep_best(layer, head, tokens, self.received[layer, head, tokens], self.keep,
                           recent=self.budget // 2)
