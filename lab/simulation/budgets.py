# SPDX-License-Identifier: Apache-2.0
"""Lanes that keep different numbers of tokens. At a selection the lanes of a chain have layers x KV
heads x budget tokens to share, by layer or by lane:

    equal      the same to each: all that the engine can do, whose layers share a page's slots
    pyramid    falling from layer to layer, 1 + slope budgets to 1 - slope (PyramidKV)
    measured   in proportion to what lanes lost at equal counts on other texts
    pooled     one threshold for all scores of a chain, at each selection anew (Ada-KV's idea, which
               pools within a layer)

Removal errors grow with the values, whose size differs by layer. So scores of different lanes are
compared in units of the mean norm of a lane's values.
"""
from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F

from .lanes import Lanes
from .network import Network
from .run import Run
from .spec import BLOCK, RECENT_BEYOND, Spec
from .uneven import UnevenLanes

LOOK = 1024  # tokens


def comparable(score: torch.Tensor, lanes: Lanes) -> torch.Tensor:
    """Of one layer -> as those of others."""
    norms = lanes.values.norm(dim=-1)  # 0 where a slot is dead
    return score / (norms.sum(-1, keepdim=True) / (norms > 0).sum(-1, keepdim=True))


def apportion(weights: torch.Tensor, total: int) -> torch.Tensor:
    """Whole numbers in proportion to the weights, `total` in all: largest remainders."""
    exact = (weights / weights.sum() * total).double()
    counts = exact.floor().long()
    rest = total - int(counts.sum())
    counts.view(-1)[(exact - counts).flatten().topk(rest).indices] += 1
    return counts


def fixed_counts(spec: Spec, layers: int, heads: int, lost: torch.Tensor | None) -> torch.Tensor:
    """Of every chain and selection, without the prompt: [layers, KV heads]. lost: the same shape."""
    if spec.shares == "pyramid":
        weights = torch.linspace(1 + spec.slope, 1 - spec.slope, layers)[:, None]
    else:
        lost = lost if spec.shares_by == "lane" else lost.mean(1, keepdim=True)
        weights = spec.floor + (1 - spec.floor) * lost / lost.mean()
    return apportion(weights, spec.budget * weights.numel()).expand(layers, heads)


def pooled_counts(scores: list[torch.Tensor], least: int, total: int, by_layer: bool
                  ) -> torch.Tensor:
    """scores: of each layer [batch, KV heads, slots]; `total` is what a chain keeps in all of them,
    `least` what a lane keeps in any case -> [batch, layers, KV heads]."""
    heads, width = scores[0].shape[1], max(score.shape[-1] for score in scores)
    ranked = torch.stack([F.pad(score.sort(-1, descending=True).values,
                                (0, width - score.shape[-1]), value=float("-inf"))
                          for score in scores], 1)
    if by_layer:  # the n-th best of a layer: the mean over its heads
        ranked, total = ranked.mean(2, keepdim=True), total // heads
    ranked[..., :least] = float("inf")
    lane = ranked.flatten(1).topk(total, -1).indices // width
    counts = torch.zeros(ranked.shape[:3], dtype=torch.long, device=lane.device)
    counts.view(len(lane), -1).scatter_add_(1, lane, torch.ones_like(lane))
    return counts.expand(-1, -1, heads)


class UnevenRun(Run):
    def __init__(self, network: Network, spec: Spec, pinned: int,
                 codebook: list[torch.Tensor] | None = None,
                 centres: list[torch.Tensor] | None = None, lost: torch.Tensor | None = None):
        """lost: for "measured", see lost_on."""
        super().__init__(network, spec, pinned, codebook, centres)
        self.lanes = [UnevenLanes() for _ in range(network.layers)]
        self._fixed = None
        if spec.shares != "pooled":
            fixed = fixed_counts(spec, network.layers, network.kv_heads, lost)
            if fixed.min() < spec.recent:
                raise ValueError(f"{spec.name}: a share of {int(fixed.min())} tokens is less than "
                                 f"recent = {spec.recent}")
            self._fixed = (fixed + pinned).to(network.device)

    def newest(self, layer: int) -> int | torch.Tensor:
        if self._fixed is None:
            return super().newest(layer)
        beyond = self._fixed[layer] - self.pinned - RECENT_BEYOND
        return (beyond * self.spec.recent_share).long().clamp(min=self.spec.recent)[:, None]

    def scores(self, layer: int) -> torch.Tensor:
        lanes = self.lanes[layer]
        score = comparable(super().scores(layer), lanes)
        return score.masked_fill(lanes.dead, float("-inf"))

    def _select_all(self) -> None:
        spec, keep = self.spec, self.spec.budget + self.pinned
        few = sum(lanes.count_mean for lanes in self.lanes) <= keep * len(self.lanes)
        if few and not spec.eager:
            return
        scores = [self.scores(layer) for layer in range(len(self.lanes))]
        if self._fixed is None:
            least = self.pinned + max(spec.recent, round(spec.floor * spec.budget))
            total = keep * len(self.lanes) * self.network.kv_heads
            counts = pooled_counts(scores, least, total, spec.shares_by == "layer").unbind(1)
        else:
            counts = self._fixed.expand(len(scores[0]), -1, -1).unbind(1)
        for score, own, lanes in zip(scores, counts, self.lanes):
            alive = (~lanes.dead).sum(-1)
            lanes.keep_best_of_each(score, own.minimum(alive), spec.residue is not None)


class _Losing(Run):
    """With equal counts. Notes what lanes lose, or would lose."""

    def __init__(self, network: Network, spec: Spec, pinned: int,
                 codebook: list[torch.Tensor] | None, lengths: torch.Tensor):
        super().__init__(network, spec, pinned, codebook)
        self.lost = torch.zeros(network.layers, network.kv_heads, device=network.device)
        self._lengths = lengths

    def scores(self, layer: int) -> torch.Tensor:
        score = super().scores(layer)
        ranked = comparable(score, self.lanes[layer]).sort(-1, descending=True).values
        lost = ranked[..., self.spec.budget + self.pinned:].sum(-1)
        self.lost[layer] += lost[self._lengths >= self.next].sum(0)
        return score

    def _select_all(self) -> None:
        if self.spec.shares_from == "selecting":
            super()._select_all()
            return
        for layer in range(len(self.lanes)):
            self.scores(layer)


def lost_on(network: Network, spec: Spec, pinned: int, codebook: list[torch.Tensor] | None,
            tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """tokens [texts, n] of `lengths` -> the sum of the scores that go, [layers, KV heads]: at each
    selection; or that would go, of all that a full cache holds, after every LOOK tokens."""
    equal = dataclasses.replace(spec, shares="equal", budget=spec.shares_at or spec.budget)
    if spec.shares_from == "full":
        equal = dataclasses.replace(equal, interval=LOOK)
    run = _Losing(network, equal, pinned, codebook, lengths)
    for first in range(0, tokens.shape[1], BLOCK):
        run.step(tokens[:, first:first + BLOCK])
    return run.lost.cpu()
