# SPDX-License-Identifier: Apache-2.0
"""Lanes that keep different numbers of tokens. At a selection the lanes of a chain have layers x KV
heads x budget tokens to share, by layer or by lane:

    equal      the same to each
    pyramid    falling from layer to layer, 1 + slope budgets to 1 - slope (PyramidKV)
    measured   a floor for each, the rest in proportion to what lanes lost on other texts
    pooled     one threshold for all scores of a chain, at each selection anew (Ada-KV's idea, which
               pools within a layer)

What a lane loses is the sum of the scores of what goes at equal counts. It is measured while texts
are read: "selecting", of what goes at each selection; or "full", of what would go of a full cache,
which then stays full. Removal errors grow with the values, whose size differs by layer. So scores
of different lanes are compared in units of the mean norm of a lane's values.

The engine has "measured" by lane, from "full", eager (docs/design.md).
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
    """Of every chain and selection, without the prompt: [layers, KV heads]. lost: of that shape."""
    if spec.shares == "pyramid":
        weights = torch.linspace(1 + spec.slope, 1 - spec.slope, layers)[:, None]
    else:
        lost = lost if spec.shares_by == "lane" else lost.mean(1, keepdim=True)
        lost = lost ** spec.power
        weights = spec.floor + (1 - spec.floor) * lost / lost.mean()
    rest = apportion(weights, (spec.budget - spec.each_first) * weights.numel())
    return (spec.each_first + rest).expand(layers, heads)


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
        if not self._too_many(keep):
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

    def _too_many(self, keep: int) -> bool:
        """Of any lane, or of all together."""
        if self.spec.eager:
            return any(((~lanes.dead).sum(-1) > own).any()
                       for lanes, own in zip(self.lanes, self._fixed))
        return sum(lanes.count_mean for lanes in self.lanes) > keep * len(self.lanes)

    def figures(self) -> dict[str, float]:
        return {**super().figures(), **self.spread()}

    def spread(self) -> dict[str, int]:
        """The least and the largest budget of a lane, where they are fixed."""
        if self._fixed is None:
            return {}
        fixed = self._fixed - self.pinned
        return {"lane_least": int(fixed.min()), "lane_largest": int(fixed.max())}


class _Losing(Run):
    """With equal counts. Notes what lanes lose, or would lose of a full cache."""

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
    """tokens [texts, n] of `lengths` -> what lanes lose by spec.shares_from, [layers, KV heads].
    Raises ValueError where nothing goes."""
    equal = dataclasses.replace(spec, shares="equal", budget=spec.shares_at or spec.budget,
                                each_first=0)
    if spec.shares_from == "full":
        equal = dataclasses.replace(equal, interval=spec.shares_every)
    run = _Losing(network, equal, pinned, codebook, lengths)
    for first in range(0, tokens.shape[1], BLOCK):
        run.step(tokens[:, first:first + BLOCK])
    if not (run.lost > 0).all():
        raise ValueError(f"{spec.name}: nothing goes of texts this short, or of some lane")
    return run.lost.cpu()
