# SPDX-License-Identifier: Apache-2.0
"""R-KV (arXiv 2505.24133, section 3): attention that the newest queries pay, against similarity to
other keys. Where the paper and its released code differ the code is followed, as that is what was
measured; without its two bugs (only the first sequence of a batch is looked at; survivors are
stored in order of score), which sorted single sequences do not have.
"""
from __future__ import annotations

import numpy as np

from .follow import Follower, softmax
from .recording import Recording

OBSERVATION = 8  # alpha: so many of the newest tokens ask, and stay
LAMBDA = 0.1
SIMILAR = 0.5  # T
POOL = 7  # the kernel that importance is max-pooled with
FLOOR = 1e-8  # of norms


def max_pool(x: np.ndarray) -> np.ndarray:
    reach = POOL // 2
    padded = np.pad(x, reach, constant_values=-np.inf)
    return np.lib.stride_tricks.sliding_window_view(padded, POOL).max(axis=-1)


def importance(queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Of candidates. `queries`: [OBSERVATION, heads of the group, D]."""
    logits = queries @ keys.T / np.sqrt(keys.shape[1])
    attention = softmax(logits.max(axis=1))  # the heads of a group are pooled before the softmax
    return max_pool(attention.mean(axis=0))


def redundancy(keys: np.ndarray, *, paper_axis: bool, zero_first_column: bool) -> np.ndarray:
    """Of all tokens, the newest too."""
    unit = keys / (np.linalg.norm(keys, axis=1, keepdims=True) + FLOOR)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, 0.0)
    for row in similarity:
        similar = np.flatnonzero(row > SIMILAR)
        if len(similar) > 0:
            row[similar[-1]] = 0.0  # the most recent of a token's duplicates is not held against
        elif zero_first_column:
            row[0] = 0.0
    return softmax(similarity.mean(axis=1 if paper_axis else 0))


class Rkv(Follower):
    LITERAL = {"protect_prompt": False, "paper_axis": True, "zero_first_column": True}

    def __init__(self, recording: Recording, *, protect_prompt: bool = True,
                 paper_axis: bool = False, zero_first_column: bool = False):
        """protect_prompt: it stays, apart from the budget and from the scores; else it competes,
        the budget being the same number of tokens in all.
        paper_axis: redundancy is averaged along the axis in which links were cut, as in the paper's
        Equation 6; its code averages along the other one, which alone makes recency count.
        zero_first_column: the code's accident: a key without duplicates cuts its link to the first
        token, which protects that one."""
        super().__init__(recording)
        self.redundancy = {"paper_axis": paper_axis, "zero_first_column": zero_first_column}
        self.first = self.prompt if protect_prompt else 0
        self.keep = self.budget if protect_prompt else self.budget + self.prompt

    def act(self, window_ended: bool) -> None:
        """The buffer is full."""
        if not window_ended:
            return
        for layer, head, tokens in self.lanes_above(self.keep, self.first):
            self.compress(layer, head, tokens)

    def compress(self, layer: int, head: int, tokens: np.ndarray) -> None:
        recording = self.recording
        keys = self.k[tokens, layer, head]
        newest = slice(self.tokens - OBSERVATION, self.tokens)
        queries = recording.q[newest, layer, recording.queries_of(head)]
        candidates = len(tokens) - OBSERVATION
        wanted = importance(queries, keys[:candidates])
        similar = redundancy(keys, **self.redundancy)[:candidates]
        # The two parts may cancel: differences are judged by what they are made of.
        self.keep_best(layer, head, tokens, LAMBDA * wanted - (1 - LAMBDA) * similar, self.keep,
                       recent=OBSERVATION, sizes=LAMBDA * wanted + (1 - LAMBDA) * similar)
