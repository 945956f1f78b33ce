# SPDX-License-Identifier: Apache-2.0
"""Anticipated queries, ours: in every (layer, KV head) the tokens stay which any of the model's
typical queries, asked from the present position, would miss most; and the newest 16.

What a query with attention p and output o = sum of p v loses with token i is exactly
p_i / (1 - p_i) |v_i - o|, in which 1 - p_i counts as 0.001 at least: the removal error. The
residue, one more key that attention reads instead of all that went, has no part in the scores.

Where the model's queries come with shares, the budget is a mean over lanes: each has 16 tokens of it
in any case and its share of the rest. A lane's newest tokens follow from its own budget. It chooses
at every window's end at which it has more than that, whatever the others have.

Relatives: Expected Attention (arXiv 2510.00636), SnapKV (arXiv 2404.14469), TriAttention (arXiv
2604.04921).
"""
from __future__ import annotations

import numpy as np

from .follow import Follower, softmax
from .recording import Recording

NEWEST_MIN = 16
CHOSEN_FIRST = 128  # of a budget; half of what it has beyond goes to the newest
BUDGET_STEP = 16
REST_MIN = 1e-3  # of attention, what is left to the others


def to_bf16(x: np.ndarray) -> np.ndarray:
    """Rounded to nearest even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = bits + 0x7FFF + (bits >> 16 & 1) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32)


def rotate(queries: np.ndarray, position: int, inverse_frequencies: np.ndarray) -> np.ndarray:
    """RoPE: channel c turns with c + D / 2. In fp32, the angle too, and rounded to bf16 at the end,
    as the model's queries are."""
    angles = np.float32(position) * inverse_frequencies.astype(np.float32)
    cos = np.cos(angles.astype(np.float64)).astype(np.float32)
    sin = np.sin(angles.astype(np.float64)).astype(np.float32)
    first, second = np.split(queries.astype(np.float32), 2, axis=-1)
    turned = np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return to_bf16(turned).astype(np.float64)


def newest_tokens(budget: int) -> int:
    return max(NEWEST_MIN, (budget - CHOSEN_FIRST) // 2)


def lane_budgets(shares: np.ndarray, mean: int) -> np.ndarray:
    """[layers, kv_heads], whole numbers with that mean: NEWEST_MIN and what the mean has beyond
    whole steps each, and the rest by shares, a step at a time. What rounding down leaves goes to
    the largest remainders, of equal ones to the first."""
    least = min(mean, NEWEST_MIN + mean % BUDGET_STEP)
    steps = (mean - least) // BUDGET_STEP * shares.size
    exact = steps * (shares / shares.sum()).ravel()
    whole = np.floor(exact)
    left = steps - int(whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[:left]] += 1
    return least + BUDGET_STEP * whole.astype(int).reshape(shares.shape)


class Anticipate(Follower):
    LITERAL: dict[str, bool] = {}

    # A channel of a query that lies between two numbers of bf16 may come out as either, where sines
    # differ in their last bit.
    TOLERANCE = 1e-3

    def __init__(self, recording: Recording):
        super().__init__(recording)
        self.budgets = lane_budgets(recording.lane_shares, self.budget)

    def act(self, window_ended: bool) -> None:
        if not window_ended:
            return
        for layer, head in self.recording.lanes():
            tokens, own = self.live_in(layer, head, self.prompt), int(self.budgets[layer, head])
            if len(tokens) > own:
                self.keep_best(layer, head, tokens, self.removal_errors(layer, head, tokens), own,
                               recent=newest_tokens(own))

    def removal_errors(self, layer: int, head: int, tokens: np.ndarray) -> np.ndarray:
        """The largest over queries, of each of `tokens`. All live tokens take their share of
        attention, the prompt's too."""
        recording = self.recording
        typical = recording.codebook[layer, recording.queries_of(head)]
        queries = rotate(typical.reshape(-1, recording.head_dim), self.tokens,
                         recording.inverse_frequencies)
        everything = self.live_in(layer, head)
        keys, values = self.k[everything, layer, head], self.v[everything, layer, head]
        probability = softmax(queries @ keys.T / np.sqrt(recording.head_dim))
        outputs = probability @ values
        distance = np.linalg.norm(values[None] - outputs[:, None], axis=-1)  # [queries, tokens]
        errors = probability / np.maximum(1 - probability, REST_MIN) * distance
        return errors.max(axis=0)[np.isin(everything, tokens)]
