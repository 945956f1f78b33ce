# SPDX-License-Identifier: Apache-2.0
"""Training batches: generated chains packed into rows of one length, by worker processes.

A batch is (inputs and targets) two uint8 arrays [rows, length + 1]; in the targets the prompts,
which nothing determines, are <pad> and not learned. Held-out problems never enter.
"""
from __future__ import annotations

import bisect
import multiprocessing as mp
import random

import numpy as np

import countdown

TOKENS_PER_BATCH = 131072
SHORT, LONG = 4096, 16384  # row lengths; a chain goes to the shortest row that holds it


class Packer:
    """Draws chains for one row length and packs them, best fit, with no padding.

    What is left of a row is filled with the beginning of another chain."""

    def __init__(self, length: int, seed: int):
        self.length, self.rng = length, random.Random(seed)
        self.main: list[bytes] = []  # sorted by length; long rows hold only chains > SHORT here
        self.filler: list[bytes] = []  # sorted by length

    def draw(self) -> None:
        long = self.length > SHORT
        count = self.rng.choices((3, 4, 5), (0, 0.15, 0.85) if long else (0.03, 0.62, 0.35))[0]
        numbers, goal = countdown.sample(self.rng, count)
        if countdown.is_held_out(numbers, goal):
            return
        chain = countdown.solve(numbers, goal, self.length)
        if chain is None or (len(chain.tokens) < 400 and self.rng.random() < 0.7):
            return
        pool = self.filler if long and len(chain.tokens) <= SHORT else self.main
        if len(pool) < 400:
            bisect.insort(pool, chain.tokens, key=len)

    def row(self) -> bytes:
        """length + 1 tokens."""
        while len(self.main) < 200 or (self.length > SHORT and len(self.filler) < 50):
            self.draw()
        room = self.length + 1
        parts = [self.main.pop(self.rng.randrange(len(self.main)))]
        room -= len(parts[0])
        for pool in (self.main, self.filler):
            while pool and room >= len(pool[0]):
                fits = bisect.bisect_right(pool, room, key=len)
                at = self.rng.randrange(fits) if self.rng.random() < 0.5 else fits - 1
                parts.append(pool.pop(at))
                room -= len(parts[-1])
        self.rng.shuffle(parts)
        while room > 0:
            pool = self.filler or self.main
            parts.append(pool[self.rng.randrange(len(pool))][:room])
            room -= len(parts[-1])
        return b"".join(parts)

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        rows = TOKENS_PER_BATCH // self.length
        inputs = np.frombuffer(b"".join(self.row() for _ in range(rows)), np.uint8)
        inputs = inputs.reshape(rows, self.length + 1)
        targets = inputs.copy()
        row, start = np.nonzero(inputs == countdown.BOS)
        for ahead in range(5 + 5):  # the longest prompt: <bos> goal G [ n n n n n ]
            at = start + ahead
            inside = at <= self.length
            targets[row[inside], at[inside]] = countdown.PAD
            closed = np.ones_like(inside)
            closed[inside] = inputs[row[inside], at[inside]] == countdown.ID["]"]
            row, start = row[~closed], start[~closed]
        return inputs, targets


def _work(queue: mp.Queue, length: int, seed: int) -> None:
    packer = Packer(length, seed)
    while True:
        queue.put(packer.batch())


class Batches:
    """Two bounded queues of batches, fed by worker processes; start before CUDA is touched."""

    def __init__(self, workers: int, seed: int):
        context = mp.get_context("fork")
        self.queues = {length: context.Queue(maxsize=16) for length in (SHORT, LONG)}
        for i in range(max(2, workers)):
            length = (SHORT, LONG)[i % 2]
            context.Process(target=_work, args=(self.queues[length], length, seed * 1000 + i),
                            daemon=True).start()

    def next(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        return self.queues[length].get()
