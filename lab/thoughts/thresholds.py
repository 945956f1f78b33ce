# SPDX-License-Identifier: Apache-2.0
"""The best that two thresholds can do, and what to hold it against.

Thresholds are fitted exhaustively over quantiles for the most right answers, on one half of the
chains, and judged on the other. `ordered` answers E below, R between and T above, as ThinKV does;
`free` answers whichever kind is the most frequent there.
"""
from __future__ import annotations

import dataclasses

import numpy as np

from .windows import KINDS

_QUANTILES = 100


def confusion(truth: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """[true kind, answered kind], counts."""
    size = len(KINDS)
    return np.bincount(truth * size + answer, minlength=size * size).reshape(size, size)


def accuracy(truth: np.ndarray, answer: np.ndarray) -> float:
    return float((truth == answer).mean())


@dataclasses.dataclass(frozen=True)
class Thresholds:
    low: float
    high: float
    answers: tuple[int, int, int]  # below, between, above
    fitted: float  # accuracy on what it was fitted on

    def answer(self, x: np.ndarray) -> np.ndarray:
        interval = (x >= self.low).astype(int) + (x >= self.high)
        return np.array(self.answers)[interval]


def fit(x: np.ndarray, kinds: np.ndarray, ordered: bool) -> Thresholds:
    edges = np.unique(np.quantile(x, np.linspace(0, 1, _QUANTILES + 1), method="nearest"))
    edges = np.append(edges, np.inf)
    onehot = np.eye(len(KINDS), dtype=np.int64)[kinds]
    order = np.argsort(x, kind="stable")
    total = np.concatenate([np.zeros((1, len(KINDS)), np.int64), onehot[order].cumsum(0)])
    below = total[np.searchsorted(x[order], edges, side="left")]  # [edges, kinds]
    low, high = np.triu_indices(len(edges))
    parts = np.stack([below[low], below[high] - below[low], total[-1] - below[high]])
    if ordered:
        right = parts[0, :, 0] + parts[1, :, 1] + parts[2, :, 2]
    else:
        right = parts.max(-1).sum(0)
    best = int(right.argmax())
    most = parts[:, best].argmax(-1)  # of each interval
    answers = (0, 1, 2) if ordered else tuple(int(kind) for kind in most)
    return Thresholds(float(edges[low[best]]), float(edges[high[best]]), answers,
                      float(right[best] / len(x)))


def fit_linear(x: np.ndarray, kinds: np.ndarray, rounds: int = 400, rate: float = 0.5):
    """Softmax regression on all layers and their squares. Returns the function that answers."""
    mean, spread = x.mean(0), x.std(0) + 1e-6

    def inputs(values: np.ndarray) -> np.ndarray:
        scaled = (values - mean) / spread
        return np.concatenate([scaled, scaled ** 2, np.ones((len(values), 1))], 1)

    data, target = inputs(x), np.eye(len(KINDS))[kinds]
    weights = np.zeros((data.shape[1], len(KINDS)))
    speed = np.zeros_like(weights)
    for _ in range(rounds):
        logits = data @ weights
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        speed = 0.9 * speed - 0.1 * rate * (data.T @ (p - target)) / len(x)
        weights += speed
    return lambda values: (inputs(values) @ weights).argmax(1)
