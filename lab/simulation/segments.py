# SPDX-License-Identifier: Apache-2.0
"""ThinKV's planner: how many tokens of each segment of a chain stay. Which ones: picks.py.

As the engine's (common/policy/thinkv.cc), with a switch for each of its parts. Counts hold for all
layers and heads, so a plan costs no tensor, and what it will hold can be told in advance.
"""
from __future__ import annotations

import dataclasses
import numpy as np

from .labels import KINDS, T

FITS = ("oldest", "level")


@dataclasses.dataclass(frozen=True)
class Rules:
    budget: int
    retention: tuple[int, ...] = (64, 32, 16, 8, 4)
    transitions: bool = True  # a segment that is T lowers all older ones a step
    importance: str = "TER"  # over budget the kinds go in this order; "": the oldest, of any kind
    fit: str = "oldest"  # one goes to the floor, then the next; or "level": all to the same count
    shares: tuple[float, float, float] = (1, 1, 1)  # of the level, for E, R, T


@dataclasses.dataclass
class Segment:
    label: int
    count: int = 0
    demotions: int = 0


@dataclasses.dataclass(frozen=True)
class Lowering:
    first: int  # slot of the segment's first token, behind the prompt's
    count: int
    keep: int


class Planner:
    """Of one chain. The prompt is no part of it."""

    def __init__(self, rules: Rules):
        self.rules = rules
        self.segments: list[Segment] = []  # oldest first; the last is being written
        self.live_by_label = [0] * len(KINDS)
        self._transitions: list[int] = []  # segments that are T and have not lowered the older yet

    @property
    def live(self) -> int:
        return sum(self.live_by_label)

    def start(self, label: int) -> None:
        if label == T and self.rules.transitions:
            self._transitions.append(len(self.segments))
        self.segments.append(Segment(label))

    def write(self, tokens: int) -> None:
        newest = self.segments[-1]
        newest.count += tokens
        self.live_by_label[newest.label] += tokens

    def plan(self) -> list[Lowering]:
        if not self._transitions and self.live <= self.rules.budget:
            return []
        before = [segment.count for segment in self.segments]
        for transition in self._transitions:
            for segment in self.segments[:transition]:
                self._demote(segment)
        self._transitions.clear()
        over = self.live - self.rules.budget
        if over > 0 and self.rules.fit == "level":
            self._level()
        elif over > 0:
            self._oldest_first(over)
        firsts = np.cumsum([0, *before])
        return [Lowering(int(first), count, segment.count)
                for first, count, segment in zip(firsts, before, self.segments)
                if segment.count < count]

    def _demote(self, segment: Segment) -> int:
        """One step down. Returns how many tokens that frees."""
        steps = self.rules.retention
        keep = min(segment.count, steps[min(segment.demotions, len(steps) - 1)])
        segment.demotions += 1
        return self._lower(segment, keep)

    def _lower(self, segment: Segment, keep: int) -> int:
        freed, segment.count = segment.count - keep, keep
        self.live_by_label[segment.label] -= freed
        return freed

    def _oldest_first(self, over: int) -> None:
        older = self.segments[:-1]
        orders = [older]
        if self.rules.importance:
            orders = [[s for s in older if KINDS[s.label] == kind]
                      for kind in self.rules.importance]
        for segment in (segment for order in orders for segment in order):
            while over > 0 and segment.demotions < len(self.rules.retention):
                over -= self._demote(segment)
        for order in orders[:-1]:  # all at the floor: T and E go whole, R, the dearest, stays
            for segment in order:
                if over > 0:
                    over -= self._lower(segment, 0)

    def _level(self) -> None:
        """The largest common count, times the label's share, that fits the budget."""
        older = self.segments[:-1]
        room = self.rules.budget - self.segments[-1].count
        counts = np.array([segment.count for segment in older])
        shares = np.array([self.rules.shares[segment.label] for segment in older])

        def kept(level: int) -> np.ndarray:
            floor = self.rules.retention[-1]
            return np.minimum(counts, np.maximum(floor, (level * shares).astype(int)))

        # kept(low) fits, or nothing does; below `high` is a level that keeps all.
        low, high = 0, int((counts[shares > 0] / shares[shares > 0]).max(initial=0)) + 2
        while high - low > 1:
            level = (low + high) // 2
            low, high = (level, high) if kept(level).sum() <= room else (low, level)
        for segment, keep in zip(older, kept(low)):
            self._lower(segment, int(keep))


def follow(planner: Planner, labels: np.ndarray, starts: np.ndarray, first: int, end: int) -> None:
    """Writes the tokens [first, end) of a chain. A segment that starts right behind them is opened,
    too: its label is known when the one before has ended."""
    at = first
    for mark in first + 1 + np.flatnonzero(starts[first + 1:end + 1]):
        if planner.segments:  # else: the prompt
            planner.write(int(mark) - at)
        planner.start(int(labels[mark]))
        at = int(mark)
    if planner.segments:
        planner.write(end - at)
