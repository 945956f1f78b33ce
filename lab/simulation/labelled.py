# SPDX-License-Identifier: Apache-2.0
"""Runs that know kinds of thought: formats and weights of scores by label, and the bytes held.

Several go side by side as one batch, all chains of the first, then of the second...: a step of a
small network takes hardly longer for them all than for one.
"""
from __future__ import annotations

import re

import numpy as np
import torch

from .formats import bytes_of, stored
from .labels import KINDS, R, Labels, make
from .lanes import Lanes
from .network import Network
from .run import Run
from .spec import BLOCK, Spec

_FORMAT = {"2": "ternary", "4": "nvfp4", "8": "fp8", "16": "bf16"}
_OPEN_TOKENS = 16  # of every chain, in bf16: the engine's open group
_SLOT_BYTES = 4 + 1 / 8  # position and live bit


def formats_of(precision: str, otherwise: str) -> list[str]:
    """"R4E4T2" -> the format of each kind."""
    if not precision:
        return [otherwise] * len(KINDS)
    found = dict(re.findall(r"([ERT])(\d+)", precision))
    return [_FORMAT[found[kind]] for kind in KINDS]


def slot_bytes(spec: Spec, dim: int) -> np.ndarray:
    """Of a token of each kind: K, V, their scales, position and live bit."""
    names = zip(formats_of(spec.key_precision, spec.key_format),
                formats_of(spec.value_precision, spec.value_format))
    return np.array([sum(bytes_of(k, dim)) + sum(bytes_of(v, dim)) + _SLOT_BYTES for k, v in names])


def labels_of(spec: Spec, kinds: list[np.ndarray], pinned: int) -> Labels:
    width = -(-max(map(len, kinds)) // BLOCK) * BLOCK + spec.tau + 1
    return make(spec.labels, kinds, width, pinned, spec.tau)


class Account:
    """Bytes held, mean over the tokens of chains that have not ended."""

    def __init__(self, spec: Spec, dim: int, pinned: int):
        self._slot, self._full = slot_bytes(spec, dim), 4 * dim
        self._slot = self._slot.tolist()
        self._fixed = pinned * self._slot[R] + _OPEN_TOKENS * self._full
        if spec.residue is not None:
            self._fixed += 4 * (2 * dim + 4)
        self._pinned = pinned
        self._tokens = self._live = self._held = self._all = 0.0

    def note(self, by_label: list[int], first: int, count: int) -> None:
        """`count` tokens have read a cache with these live tokens beside the prompt; they are in
        the open group themselves."""
        self._tokens += count
        self._live += count * (sum(by_label) + self._pinned + count / 2)
        held = sum(tokens * each for tokens, each in zip(by_label, self._slot))
        self._held += count * (self._fixed + held)
        self._all += count * (first + count / 2) * self._full

    def figures(self) -> dict[str, float]:
        return {"live": self._live / self._tokens, "bytes_percent": 100 * self._held / self._all}


class LabelledRun(Run):
    """Any policy: formats and weights of scores by label."""

    def __init__(self, network: Network, specs: list[Spec], pinned: int, codebook,
                 kinds: list[np.ndarray]):
        """kinds: of every chain's tokens. Which specs go together: thinkv.groups_of."""
        super().__init__(network, specs[0], pinned, codebook)
        each = [labels_of(spec, kinds, pinned) for spec in specs]
        self.labels = Labels(np.concatenate([labels.of_token for labels in each]),
                             np.concatenate([labels.starts for labels in each]),
                             [length for labels in each for length in labels.lengths])
        self.lengths, self.specs, self.chains = self.labels.lengths, specs, len(kinds)
        self.accounts = [Account(spec, network.head_dim, pinned) for spec in specs]
        self._of_token = torch.tensor(self.labels.of_token, device=network.device)
        self._formats = [self._table([formats_of(spec.key_precision, spec.key_format)
                                      for spec in specs]),
                         self._table([formats_of(spec.value_precision, spec.value_format)
                                      for spec in specs])]

    def _table(self, formats: list[list[str]]) -> tuple[list[str], torch.Tensor]:
        """The formats that occur, and which of them each chain's kinds have: [rows, kinds]."""
        names = sorted({name for of_kinds in formats for name in of_kinds})
        index = torch.tensor([[names.index(name) for name in of_kinds] for of_kinds in formats],
                             device=self.network.device)
        return names, index.repeat_interleave(self.chains, 0)

    def rows_of(self, spec: int) -> slice:
        return slice(spec * self.chains, (spec + 1) * self.chains)

    def stored(self, k: torch.Tensor, v: torch.Tensor) -> list[torch.Tensor]:
        count = k.shape[2]
        label = self._of_token[:, self.next:self.next + count]
        found = []
        for x, (names, table) in zip((k, v), self._formats):
            own = table.gather(1, label)[:, None, :, None]
            out = stored(x, names[0])
            for index, name in enumerate(names[1:], 1):
                out = torch.where(own == index, stored(x, name), out)
            found.append(out)
        return found

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        first = self.next
        for row, length in enumerate(self.lengths):
            if first < length:
                self.accounts[row // self.chains].note(self.held(row), first,
                                                       min(tokens.shape[1], length - first))
        return super().step(tokens)

    def figures_of_each(self) -> list[dict[str, float]]:
        return [account.figures() for account in self.accounts]

    def held(self, row: int) -> list[int]:
        """Live tokens of a lane by label, beside the prompt. Where heads differ: of the first."""
        positions = self.lanes[0].positions
        if positions is None:
            return [0] * len(KINDS)
        if all(len(names) == 1 for names, _ in self._formats):  # whatever the labels are
            return [0, positions.shape[2] - self.pinned, 0]
        own = positions[row, 0]
        return np.bincount(self.labels.of_token[row, own[own >= self.pinned].cpu()],
                           minlength=len(KINDS)).tolist()

    def weigh(self, score: torch.Tensor, lanes: Lanes) -> torch.Tensor:
        shares = self.spec.label_shares
        if len(set(shares)) == 1:
            return score
        batch, heads, live = lanes.positions.shape
        label = self._of_token[:, None].expand(-1, heads, -1).gather(2, lanes.positions)
        return score * torch.tensor(shares, device=score.device)[label]
