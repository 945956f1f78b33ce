# SPDX-License-Identifier: Apache-2.0
"""What the transcriptions share: which tokens are live, when a policy acts, and how two choices
that differ are judged."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .recording import Recording

GROUP = 16  # tokens; the cache writes whole groups, and policies act where one ends


class Follower:
    """A policy at work on a recording, step by step. `live` is all that it says."""

    # Two scores no further apart than this, of their size, may come out either way in fp32.
    TOLERANCE = 1e-5

    def __init__(self, recording: Recording):
        self.recording = recording
        self.budget = recording.spec["budget_tokens"]
        self.prompt = recording.prompt_tokens
        self.tokens = 0  # of the sequence so far
        self.window_start = self.prompt
        # As the cache holds them now: in full until their group is written, and then as stored.
        self.k, self.v = recording.new_k.copy(), recording.new_v.copy()
        self.live = np.zeros((recording.layers, recording.kv_heads, len(self.k)), bool)
        # Of each lane's latest choice: the score of every position that could have gone, and what
        # differences of it are to be measured by. NaN: not up for choice.
        self.scores = np.full(self.live.shape, np.nan)
        self.sizes = np.full(self.live.shape, np.nan)

    def step(self, count: int) -> None:
        """One step of the engine: `count` tokens are appended and attend; then the policy acts."""
        new = range(self.tokens, self.tokens + count)
        self.live[:, :, new.start:new.stop] = True
        self.tokens = new.stop
        self.attended(new)
        if self.tokens % GROUP == 0:
            group = slice(self.tokens - GROUP, self.tokens)
            self.k[group], self.v[group] = self.recording.k[group], self.recording.v[group]
        if self.acts():
            self.act(self.end_window())

    # What a policy fills in.

    def attended(self, new: range) -> None:
        """The tokens `new` have attended to all that is live: for what is counted at every step."""

    def acts(self) -> bool:
        return self.tokens % GROUP == 0

    def act(self, window_ended: bool) -> None:
        """Evicts."""
        raise NotImplementedError

    # What they use.

    def window_due(self) -> bool:
        """Windows begin where the prompt or the window before ended, and are at least window_tokens
        long: they end with the first group that makes them so."""
        return self.tokens >= self.window_start + self.recording.spec["window_tokens"]

    def end_window(self) -> bool:
        """Ends the window if it is due."""
        if not self.window_due():
            return False
        self.window_start = self.tokens
        return True

    def live_in(self, layer: int, head: int, first: int = 0) -> np.ndarray:
        """Live positions of a lane from `first` on, ascending."""
        return first + np.flatnonzero(self.live[layer, head, first:self.tokens])

    def lanes_above(self, most: int, first: int) -> Iterator[tuple[int, int, np.ndarray]]:
        """(layer, head, live positions from `first` on) where those are more than `most`."""
        for layer, head in self.recording.lanes():
            tokens = self.live_in(layer, head, first)
            if len(tokens) > most:
                yield layer, head, tokens

    def logits(self, position: int, layer: int, head: int, tokens: np.ndarray) -> np.ndarray:
        """[query heads of the KV head, tokens]: of the queries at `position`."""
        queries = self.recording.q[position, layer, self.recording.queries_of(head)]
        return queries @ self.k[tokens, layer, head].T / np.sqrt(self.recording.head_dim)

    def keep_best(self, layer: int, head: int, tokens: np.ndarray, scores: np.ndarray, keep: int,
                  recent: int, sizes: np.ndarray | None = None) -> None:
        """Of `tokens`, ascending positions, `keep` stay live: the `recent` newest, and of the
        others those with the highest `scores`; of equal ones the earlier. Scores of the newest may
        be left out."""
        old = len(tokens) - recent
        scores = np.asarray(scores, np.float64)[:old]
        best_first = np.argsort(-scores, kind="stable")
        self.live[layer, head, tokens] = False
        self.live[layer, head, tokens[best_first[:keep - recent]]] = True
        self.live[layer, head, tokens[old:]] = True
        self.note(layer, head, tokens[:old], scores, sizes)

    def note(self, layer: int, head: int, tokens: np.ndarray, scores: np.ndarray,
             sizes: np.ndarray | None = None) -> None:
        """Remembers the scores of a choice."""
        self.scores[layer, head] = self.sizes[layer, head] = np.nan
        self.scores[layer, head, tokens] = scores
        self.sizes[layer, head, tokens] = np.abs(scores) if sizes is None else sizes

    # How the recorded choice is judged.

    def gap(self, layer: int, head: int, theirs: np.ndarray) -> float:
        """How far a lane's latest choice and `theirs` (live, by position) are from a tie: the
        largest difference between scores of exchanged tokens, of their size. Infinite where they
        do not differ by such an exchange."""
        mine = self.live[layer, head]
        out, into = np.flatnonzero(mine & ~theirs), np.flatnonzero(theirs & ~mine)
        exchanged = np.concatenate([out, into])
        scores, sizes = self.scores[layer, head, exchanged], self.sizes[layer, head, exchanged]
        if len(out) != len(into) or np.isnan(scores).any():
            return np.inf
        tiny = np.finfo(np.float32).tiny
        return float((scores.max() - scores.min()) / max(sizes.max(), tiny))

    def adopt(self, layer: int, head: int, theirs: np.ndarray) -> None:
        """Goes on with `theirs`."""
        self.live[layer, head] = theirs


def softmax(logits: np.ndarray, axis: int = -1) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)
