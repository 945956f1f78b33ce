# SPDX-License-Identifier: Apache-2.0
"""The window: attention sinks, of which four are enough, and the most recent tokens (StreamingLLM,
arXiv 2309.17453, section 3)."""
from __future__ import annotations

from .follow import Follower
from .recording import Recording


class Window(Follower):
    LITERAL = {"four_sinks": True, "every_step": True}

    def __init__(self, recording: Recording, *, four_sinks: bool = False, every_step: bool = False):
        """four_sinks: the first 4 tokens are the sinks, not the prompt.
        every_step: the oldest goes at every step, not 16 where a group ends."""
        super().__init__(recording)
        self.sinks = 4 if four_sinks else self.prompt
        self.every_step = every_step

    def acts(self) -> bool:
        return self.every_step or super().acts()

    def act(self, window_ended: bool) -> None:
        newest = max(self.sinks, self.tokens - self.budget)
        self.live[:, :, self.sinks:newest] = False
