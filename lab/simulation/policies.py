# SPDX-License-Identifier: Apache-2.0
"""How policies score the live tokens of a layer: [batch, KV heads, live], the larger the dearer.

`anticipate` asks, for queries that stand for those to come, what each token is worth to them. With
p its attention probability, v its value and o = sum p v the query's output:

    probability        p
    value_norm         p |v|
    distance           p |v - o|
    removal_error      p / (1 - p) |v - o|: by how much o changes without the token, exactly
    residue_distance   p |v - r|: r is the residue's value, which takes part in the softmax
"""
from __future__ import annotations

import torch
import torch.nn.functional as F

from .lanes import Lanes
from .network import Network
from .spec import Spec

_LOGITS_BYTES_MAX = int(2e9)  # scored at once
_REST_MIN = 1e-3  # of 1 - p, in fp32


class Scorer:
    def __init__(self, network: Network, spec: Spec, pinned: int,
                 codebook: list[torch.Tensor] | None, hadamard: torch.Tensor | None):
        self.network, self.spec, self.pinned = network, spec, pinned
        self.codebook, self.hadamard = codebook, hadamard
        self.random = torch.Generator(device=network.device)
        self.random.manual_seed(1)
        wanted = spec.policy == "anticipate" or spec.pick == "removal_error"
        if wanted and spec.queries:
            if codebook is None or codebook[0].shape[1] < spec.queries:
                raise ValueError(f"{spec.name}: no codebook of {spec.queries} queries")

    def __call__(self, layer: int, lanes: Lanes, position: int) -> torch.Tensor:
        """position: that of the next token."""
        policy = self.spec.policy
        if policy == "window":
            return lanes.positions.float()
        if policy == "random":
            return torch.rand(lanes.positions.shape, device=self.network.device,
                              generator=self.random)
        if policy == "h2o":
            return lanes.received
        if policy == "longflow":  # L1 norm of the value; one choice for all heads of a layer
            worth = lanes.received * lanes.values.abs().sum(-1)
            return worth.mean(1, keepdim=True).expand_as(worth)
        if policy == "rkv":
            return self._rkv(lanes)
        return self._anticipate(lanes, self._queries(layer, lanes, position))

    def _rkv(self, lanes: Lanes) -> torch.Tensor:
        """Importance minus redundancy, as papers.md has R-KV's released code without its bugs; but
        the prompt is a candidate, too."""
        window = self.spec.window
        keys = lanes.keys
        candidates = keys.shape[2] - window
        q = lanes.newest
        logits = q.flatten(2, 3) @ keys[:, :, :candidates].transpose(-1, -2)
        logits = logits.view(*q.shape[:4], candidates).amax(2) * self.network.logit_scale
        importance = F.max_pool1d(logits.softmax(-1).mean(2), 7, 1, 3)

        direction = keys / (keys.norm(dim=-1, keepdim=True) + 1e-8)
        similar = direction @ direction.transpose(-1, -2)
        similar.diagonal(dim1=-2, dim2=-1).zero_()
        index = torch.arange(keys.shape[2], device=keys.device)
        newest_twin = torch.where(similar > 0.5, index, -1).amax(-1, keepdim=True)
        at = newest_twin.clamp(min=0)
        similar.scatter_(-1, at, similar.gather(-1, at) * (newest_twin < 0))
        redundancy = similar.mean(-2).softmax(-1)[..., :candidates]

        score = 0.1 * importance - 0.9 * redundancy
        return F.pad(score, (0, window), value=float("inf"))

    def _queries(self, layer: int, lanes: Lanes, position: int) -> torch.Tensor:
        """All that score, after RoPE: [batch, KV heads, queries, dim]."""
        spec = self.spec
        batch, heads, _, dim = lanes.keys.shape
        found = []
        if spec.queries:
            book = self.codebook[layer][:, :spec.queries]
            for ahead in spec.ahead:
                turned = self._turn(book, position + ahead).reshape(1, heads, -1, dim)
                found.append(turned.expand(batch, -1, -1, -1))
        if spec.last_queries:
            found.append(lanes.newest[:, :, :, -spec.last_queries:].flatten(2, 3))
        if spec.online_queries:
            found.append(self._turn(lanes.past.flatten(2, 3), position))
        return torch.cat(found, 2)

    def _turn(self, queries: torch.Tensor, position: int) -> torch.Tensor:
        at = torch.tensor(float(position), device=self.network.device)
        turned = self.network.rotate(queries, at)
        return turned if self.hadamard is None else turned @ self.hadamard

    def _anticipate(self, lanes: Lanes, queries: torch.Tensor) -> torch.Tensor:
        batch, heads, live, _ = lanes.keys.shape
        step = max(1, _LOGITS_BYTES_MAX // (batch * heads * live * 4))
        best = None
        for first in range(0, queries.shape[2], step):
            worth = self._worth(lanes, queries[:, :, first:first + step])
            part = self._reduce(worth)
            if best is None:
                best = part
            else:
                best = torch.maximum(best, part) if self.spec.reduce == "max" else best + part
        return best

    def _worth(self, lanes: Lanes, queries: torch.Tensor) -> torch.Tensor:
        """What each token is worth to each query: [batch, KV heads, queries, live]."""
        k, v, scale = lanes.keys, lanes.values, self.network.logit_scale
        score = self.spec.score
        logits = queries @ k.transpose(-1, -2) * scale
        if lanes.dead is not None:
            logits = logits.masked_fill(lanes.dead[:, :, None], float("-inf"))
        if not self.spec.score_prompt:
            prompt = (lanes.positions < self.pinned)[:, :, None]
            logits = logits.masked_fill(prompt, float("-inf"))
        if score == "residue_distance":
            if lanes.residue.count == 0:
                return logits.softmax(-1) * v.norm(dim=-1)[:, :, None]
            logits = torch.cat([logits, lanes.residue.logits(queries, scale)], -1)
            p = logits.softmax(-1)[..., :lanes.count]
            return p * (v - lanes.residue.value).norm(dim=-1)[:, :, None]
        p = logits.softmax(-1)
        if score == "probability":
            return p
        if score == "value_norm":
            return p * v.norm(dim=-1)[:, :, None]
        o = p @ v
        square = (v * v).sum(-1)[:, :, None] - 2 * o @ v.transpose(-1, -2)
        square = square + (o * o).sum(-1)[..., None]
        worth = p if score == "distance" else p / (1 - p).clamp(min=_REST_MIN)
        return worth * square.clamp(min=0).sqrt()

    def _reduce(self, worth: torch.Tensor) -> torch.Tensor:
        """Over queries (those scored at once, for top4)."""
        how = self.spec.reduce
        if how == "max":
            return worth.amax(2)
        if how == "top4":
            return worth.topk(min(4, worth.shape[2]), 2).values.mean(2)
        return (worth if how == "sum" else worth.pow(2)).sum(2)
