# SPDX-License-Identifier: Apache-2.0
"""ThinKV (arXiv 2510.01290, sections 3 and 4, appendix C.2): thoughts are told apart by attention
sparsity, every tau tokens; a segment, which is a window of tau tokens, is lowered step by step
along a schedule of token counts; the real tokens nearest to the centroids of k-means stay.

What the paper leaves open, and how it is answered here:
  (a) a label holds for the next window; the prompt and the first window are R;
  (b) sparsity is that of the refresh's step alone, over all that is live;
  (c) one window is one segment, whatever its neighbours' labels;
  (d) a transition demotes all segments written so far, at the refresh that yields T, every time;
  (e) the budget is checked where groups end; the segment being written is not touched;
  (f) where all are at the floor and the budget is still exceeded, whole segments go: T, then E;
  (g) k-means is per layer over all KV heads' keys side by side; evenly spaced start, 10 Lloyd
      steps; a token serves one centroid; ties go to the earlier;
  (h) the prompt is never evicted and not counted in the budget.

Precision is no part of this: what is stored is given.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .follow import Follower, softmax
from .recording import Recording

E, R, T = "E", "R", "T"
RISING_IMPORTANCE = (T, E, R)
NEGLIGIBLE = 0.01  # of the largest probability
LLOYD_STEPS = 10


def sparsity(logits: list[np.ndarray]) -> float:
    """Appendix C.2. `logits`: of each KV head, [query heads of the group, keys]."""
    mean = np.mean([softmax(of_head.max(axis=0)) for of_head in logits], axis=0)
    return float(np.mean(mean < NEGLIGIBLE * mean.max()))


def squared_distances(points: np.ndarray, to: np.ndarray) -> np.ndarray:
    difference = points[:, None] - to[None]
    return np.einsum("ijc,ijc->ij", difference, difference)


class Decisions:
    """How close the closest decision between two distances was: of their size."""

    def __init__(self) -> None:
        self.gap = np.inf

    def note(self, distances: np.ndarray, chosen: np.ndarray) -> None:
        """`chosen` is the index of the least of each row."""
        if distances.shape[1] < 2:
            return
        rows = np.arange(len(distances))
        others = distances.copy()
        others[rows, chosen] = np.inf
        best, next_best = distances[rows, chosen], others.min(axis=1)
        judged = (next_best > 0) & np.isfinite(next_best)
        gaps = 1 - best[judged] / next_best[judged]
        self.gap = min(self.gap, gaps[gaps > 0].min(initial=np.inf))  # equal ones have their rule


def medoids(keys: np.ndarray, keep: int) -> tuple[np.ndarray, float]:
    """(g): indices of the real tokens that stay, and the closest decision on the way.

    Evenly spaced start; Lloyd steps; a token joins the nearest centroid (of equally near ones the
    first); a centroid without tokens stays where it is; then every centroid in turn takes the
    nearest token that is not taken yet (of equally near ones the earliest)."""
    count = len(keys)
    decisions = Decisions()
    centroids = keys[np.arange(keep) * count // keep].copy()
    for _ in range(LLOYD_STEPS):
        distances = squared_distances(keys, centroids)
        nearest = distances.argmin(axis=1)
        decisions.note(distances, nearest)
        for cluster in range(keep):
            if (nearest == cluster).any():
                centroids[cluster] = keys[nearest == cluster].mean(axis=0)
    taken = np.zeros(count, bool)
    for centroid in centroids:
        distances = squared_distances(centroid[None], keys)
        distances[0, taken] = np.inf
        chosen = distances.argmin(axis=1)
        decisions.note(distances, chosen)
        taken[chosen] = True
    return np.flatnonzero(taken), decisions.gap


@dataclass
class Segment:
    first: int
    end: int
    label: str
    count: int  # live tokens; the same in every lane
    demotions: int = 0


class ThinKv(Follower):
    LITERAL = {"stepwise": True, "refresh_every_tau": True}

    def __init__(self, recording: Recording, *, stepwise: bool = False,
                 refresh_every_tau: bool = False):
        """stepwise: a segment that goes down several steps of the schedule at once is clustered for
        each of them, not only for the last.
        refresh_every_tau: windows end after exactly tau tokens, not where the group ends."""
        super().__init__(recording)
        self.stepwise, self.refresh_every_tau = stepwise, refresh_every_tau
        self.schedule = recording.spec["retention"]
        self.segments: list[Segment] = []  # oldest first, the prompt apart (h)
        self.label = R  # of the prompt and the first window (a)
        self.labels = self.label  # of all windows so far
        self.sparsity: list[list[float]] = []  # at each refresh
        self.segment_starts = True
        # The closest decision of the latest k-means of each layer that a position took part in.
        self.closest = np.full((recording.layers, len(self.k)), np.inf)

    def acts(self) -> bool:
        return super().acts() or (self.refresh_every_tau and self.window_due())

    def attended(self, new: range) -> None:
        """(b)"""
        if not (self.acts() and self.window_due()):
            return
        heads = range(self.recording.kv_heads)
        self.sparsity.append([
            sparsity([self.logits(new[-1], layer, head, self.live_in(layer, head))
                      for head in heads])
            for layer in self.recording.spec["sparsity_layers"]])

    def act(self, window_ended: bool) -> None:
        self.seal()
        if window_ended:
            self.refresh()
            older = self.segments  # the tokens to come are a new segment (c)
            if self.label == T:
                self.demote_all(older)
        else:
            older = self.segments[:-1]  # never the segment being written (e)
        self.fit(older)
        self.evict()

    def seal(self) -> None:
        """The group's tokens join the window's segment."""
        sealed = self.segments[-1].end if self.segments else self.prompt
        if self.tokens <= sealed:
            return
        if self.segment_starts:
            self.segments.append(Segment(sealed, sealed, self.label, 0))
            self.segment_starts = False
        self.segments[-1].end = self.tokens
        self.segments[-1].count += self.tokens - sealed

    def refresh(self) -> None:
        """The label of the next window (a)."""
        mean = np.mean(self.sparsity[-1])
        low, high = self.recording.spec["theta"]
        self.label = E if mean < low else R if mean < high else T
        self.labels += self.label
        self.segment_starts = True

    def demote_all(self, segments: list[Segment]) -> None:
        """Case 1: the course has changed (d)."""
        for segment in segments:
            if self.can_demote(segment):
                self.demote(segment)

    def fit(self, segments: list[Segment]) -> None:
        """Case 2: down to the budget, the least important and of these the oldest first."""
        def over() -> bool:
            return sum(s.count for s in self.segments) > self.budget

        for label in RISING_IMPORTANCE:
            for segment in segments:
                while over() and segment.label == label and self.can_demote(segment):
                    self.demote(segment)
        # (f)
        for label in (T, E):
            for segment in segments:
                if over() and segment.label == label:
                    self.lower(segment, 0)

    def can_demote(self, segment: Segment) -> bool:
        return segment.count > 0 and segment.demotions < len(self.schedule)

    def demote(self, segment: Segment) -> None:
        self.lower(segment, min(segment.count, self.schedule[segment.demotions]))
        segment.demotions += 1

    def lower(self, segment: Segment, count: int) -> None:
        segment.count = count
        if self.stepwise:
            self.evict()

    def evict(self) -> None:
        """Carries out what was decided, in every layer by itself."""
        for segment in self.segments:
            for layer in range(self.recording.layers):
                lane = self.live[layer, 0, segment.first:segment.end]
                tokens = segment.first + np.flatnonzero(lane)
                if len(tokens) <= segment.count:
                    continue
                stay = tokens[:0]
                if segment.count > 0:
                    keys = self.k[tokens, layer].reshape(len(tokens), -1)
                    chosen, self.closest[layer, tokens] = medoids(keys, segment.count)
                    stay = tokens[chosen]
                self.live[layer, :, tokens] = False
                self.live[layer, :, stay] = True

    def gap(self, layer: int, head: int, theirs: np.ndarray) -> float:
        mine = self.live[layer, head]
        if mine.sum() != theirs.sum():
            return np.inf
        return float(self.closest[layer, mine != theirs].max())
