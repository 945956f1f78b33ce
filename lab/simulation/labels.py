# SPDX-License-Identifier: Apache-2.0
"""Which kind of thought each token is said to be, and where segments start: NumPy.

    R         one label for all: what a model without three modes gets
    true      each window is the kind of most of its tokens: what a window's label can be at best
    before    the true kind of the window that has just ended: a perfect reading at the refresh
    shuffled  the true labels of a chain's windows in random order
    thoughts  each token's own kind; a segment is a thought, however long
    sparsity  as measured under compression, filled in as the run goes on

As in the engine the first window is R. Windows end at multiples of tau (there: tau after the prompt).
"""
from __future__ import annotations

import dataclasses
import multiprocessing
import os

import numpy as np

from reasoner import countdown

KINDS = "ERT"  # ThinKV's order: E is dense, T sparse
E, R, T = range(3)
SOURCES = ("R", "true", "before", "shuffled", "thoughts", "sparsity")


@dataclasses.dataclass
class Labels:
    of_token: np.ndarray  # [chains, tokens]; beyond a chain's end it means nothing
    starts: np.ndarray  # [chains, tokens]: a segment starts here
    lengths: list[int]


def kinds_of(chain: bytes) -> np.ndarray:
    """Kinds of a solved problem's tokens, -1 in the prompt. Its search is repeated: a chain alone
    doesn't tell."""
    end = chain.index(countdown.ID["]"])
    solved = countdown.solve(list(chain[4:end]), chain[2])
    assert solved is not None and solved.tokens == chain
    index = np.array([KINDS.find(kind) for kind in countdown.KINDS])
    return index[np.frombuffer(solved.kinds, np.uint8)]


def kinds_of_all(chains: list[bytes]) -> list[np.ndarray]:
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        return pool.map(kinds_of, chains, chunksize=2)


def of_windows(kinds: np.ndarray, pinned: int, tau: int) -> np.ndarray:
    """kinds [tokens of a chain], -1 in the prompt -> [windows]; of equals the first in E, R, T."""
    parts = [kinds[max(first, pinned):first + tau] for first in range(0, len(kinds), tau)]
    return np.array([np.bincount(part[part >= 0], minlength=len(KINDS)).argmax()
                     for part in parts])


def _reordered(labels: np.ndarray, source: str, random: np.random.Generator) -> np.ndarray:
    if source == "R" or source == "sparsity":
        return np.full_like(labels, R)
    if source == "before":
        labels = np.concatenate([[R], labels[:-1]])
    elif source == "shuffled":
        labels = np.concatenate([labels[:1], random.permutation(labels[1:])])
    labels[0] = R
    return labels


def make(source: str, kinds: list[np.ndarray], width: int, pinned: int, tau: int) -> Labels:
    """kinds: of every chain's tokens. The prompt, and what has no kind, is R."""
    of_token = np.full((len(kinds), width), R)
    starts = np.zeros((len(kinds), width), bool)
    starts[:, pinned] = True
    random = np.random.default_rng(0)
    for row, start, chain in zip(of_token, starts, kinds):
        if source == "thoughts":
            row[pinned:len(chain)] = chain[pinned:]
            start[pinned + 1:len(chain)] = chain[pinned + 1:] != chain[pinned:-1]
        else:
            labels = _reordered(of_windows(chain, pinned, tau), source, random)
            row[:len(chain)] = labels.repeat(tau)[:len(chain)]
            start[tau::tau] = True
    return Labels(of_token, starts, [len(chain) for chain in kinds])
