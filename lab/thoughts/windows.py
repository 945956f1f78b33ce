# SPDX-License-Identifier: Apache-2.0
"""Windows of tau tokens: what was measured where one ends, and which kind of thought comes next.

Windows are counted from the prompt's end (the engine's also end with a group of 16, which tau of 16
and more does by itself when the prompt fills whole groups). A window's kind is that of most of its
tokens, of equals the first in E, R, T.
"""
from __future__ import annotations

import dataclasses

import numpy as np

from simulation.labels import KINDS

READINGS = ("step", "last4", "window")  # at the last token; means over the last four, the window


@dataclasses.dataclass(frozen=True)
class Measured:
    sparsity: np.ndarray  # [layers, tokens]
    kinds: np.ndarray  # [tokens]: indices into KINDS, -1 in the prompt
    prompt: int  # tokens


@dataclasses.dataclass(frozen=True)
class Samples:
    readings: dict[str, np.ndarray]  # [windows, layers]
    before: np.ndarray  # [windows] kind of the window that has ended
    after: np.ndarray  # [windows] kind of the next
    purity: float  # share of a window's tokens that are of its kind
    chain: np.ndarray  # [windows]


def _shares(kinds: np.ndarray) -> np.ndarray:
    return np.stack([(kinds == kind).mean(1) for kind in range(len(KINDS))], 1)


def cut(chains: list[Measured], tau: int, every: int = 1) -> Samples:
    """every: keeps each so-manieth window alone."""
    readings: dict[str, list[np.ndarray]] = {name: [] for name in READINGS}
    before, after, purity, index = [], [], [], []
    for at, chain in enumerate(chains):
        count = (len(chain.kinds) - chain.prompt) // tau
        if count < 2:
            continue
        used = slice(chain.prompt, chain.prompt + count * tau)
        shares = _shares(chain.kinds[used].reshape(count, tau))
        kind = shares.argmax(1)
        values = chain.sparsity[:, used].reshape(-1, count, tau)[:, :-1]
        ends = chain.prompt + tau * np.arange(1, count)  # past the window
        last4 = np.stack([chain.sparsity[:, ends - back] for back in range(1, 5)])
        readings["step"].append(values[..., -1].T)
        readings["last4"].append(last4.mean(0).T)
        readings["window"].append(values.mean(-1).T)
        before.append(kind[:-1])
        after.append(kind[1:])
        purity.append(shares.max(1)[1:])
        index.append(np.full(count - 1, at))
    return Samples({name: np.concatenate(parts)[::every] for name, parts in readings.items()},
                   np.concatenate(before)[::every], np.concatenate(after)[::every],
                   float(np.concatenate(purity).mean()), np.concatenate(index)[::every])
