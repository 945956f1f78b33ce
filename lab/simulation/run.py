# SPDX-License-Identifier: Apache-2.0
"""One policy over a batch of texts of which every token is given: BLOCK tokens at a time.

Each block attends to the cache as it is and, causally, to itself in bf16; then it joins the cache
in its formats, and when `interval` tokens have passed each lane selects what stays. So keys and
values are those that the network computes under compression.
"""
from __future__ import annotations

from typing import Callable

import torch

from .formats import stored
from .lanes import Lanes
from .network import Network, hadamard
from .policies import Scorer
from .spec import RECENT_BEYOND, Spec
from .storage import Storage

# seen(layer, queries before RoPE [batch, query heads, tokens, dim])
SeeQueries = Callable[[int, torch.Tensor], None]


class Run:
    def __init__(self, network: Network, spec: Spec, pinned: int,
                 codebook: list[torch.Tensor] | None = None,
                 centres: list[torch.Tensor] | None = None, see: SeeQueries | None = None):
        """pinned: tokens of the prompt, never evicted and not in the budget. codebook: a tensor
        [query heads, queries, dim] before RoPE for each layer; the first spec.queries are used.
        centres: for spec.centre_keys, of each layer [KV heads, 1, dim]."""
        self.network, self.spec, self.pinned, self.see = network, spec, pinned, see
        self.mixing = hadamard(network.head_dim, network.device)
        self.hadamard = self.mixing if spec.rotate_keys else None
        self.centres = centres if spec.centre_keys else None
        if spec.centre_keys and centres is None:
            raise ValueError(f"{spec.name}: no mean keys to take from them")
        self.lanes = [Lanes() for _ in range(network.layers)]
        self.scorer = Scorer(network, spec, pinned, codebook, self.hadamard)
        self.next = 0  # position of the next block
        self.since = 0  # tokens since a selection
        self._live_sum = 0.0
        self.storage = Storage(spec, network.head_dim)

    @property
    def live(self) -> float:
        """Live tokens of a lane that a token found, mean over those read."""
        return self._live_sum / self.next

    def figures(self) -> dict[str, float]:
        return {"live": self.live, **self.storage.figures()}

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens [batch, n] -> what the network's head reads [batch, n, width]."""
        count = tokens.shape[1]
        device = self.network.device
        integers = torch.arange(self.next, self.next + count, device=device)
        positions = integers.float()
        causal = torch.full((count, count), float("-inf"), device=device).triu(1)
        hidden = self.network.read(tokens, lambda layer, q, k, v: self._attend(
            layer, q, k, v, positions, integers, causal))
        self.next += count
        self.since += count
        live = sum(lanes.count_mean for lanes in self.lanes) / len(self.lanes)
        self._live_sum += (live - count / 2) * count
        self.storage.see(self.lanes, count)
        if self.spec.policy != "full" and self.since >= self.spec.interval:
            self.since = 0
            self._select_all()
        return hidden

    def enter(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
              ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """All after RoPE -> as the cache has keys and values, and queries meet them."""
        if self.centres is not None:
            k = k - self.centres[layer]
        if self.hadamard is not None:
            q, k = q @ self.hadamard, k @ self.hadamard
        return q, k, v @ self.mixing if self.spec.rotate_values else v

    def leave(self, out: torch.Tensor) -> torch.Tensor:
        """What attention found in the cache's values -> in the network's."""
        return out @ self.mixing if self.spec.rotate_values else out  # it is its own inverse

    def stored(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The block's K and V as they are read back."""
        return (stored(k, self.spec.key_format, self.spec.key_scales),
                stored(v, self.spec.value_format, self.spec.value_scales))

    def weigh(self, score: torch.Tensor, lanes: Lanes) -> torch.Tensor:
        return score

    def _attend(self, layer: int, plain: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
                positions: torch.Tensor, integers: torch.Tensor, causal: torch.Tensor
                ) -> torch.Tensor:
        network, lanes = self.network, self.lanes[layer]
        if self.see is not None:
            self.see(layer, plain)
        q, k = network.rotate(plain, positions), network.rotate(k, positions)
        q, k, v = self.enter(layer, q, k, v)
        batch, _, count, dim = q.shape
        grouped = (batch, network.kv_heads, network.group, count)
        weights, out = self._read_cache(lanes, q.reshape(batch, network.kv_heads, -1, dim),
                                        k.to(torch.bfloat16).float(),
                                        v.to(torch.bfloat16).float(), grouped, causal)
        lanes.append(*self.stored(k, v), integers.expand(batch, network.kv_heads, count))
        self._note(lanes, weights, q.view(*grouped, dim), plain.reshape(*grouped, dim))
        return self.leave(out.view(batch, network.query_heads, count, dim))

    def _read_cache(self, lanes: Lanes, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
                    grouped: tuple[int, ...], causal: torch.Tensor
                    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights [batch, KV heads, group, tokens, cache + block (+ residue)] and the outputs."""
        scale = self.network.logit_scale
        scaled = q * scale
        logits = [(scaled @ k.transpose(-1, -2)).view(*grouped, -1) + causal]
        values = [v]
        if lanes.count:
            cached = (scaled @ lanes.keys.transpose(-1, -2)).view(*grouped, -1)
            if lanes.dead is not None:
                cached.masked_fill_(lanes.dead[:, :, None, None], float("-inf"))
            logits, values = [cached, *logits], [lanes.values, *values]
        if lanes.residue.count:
            logits.append(lanes.residue.logits(q, scale, self.spec.residue).view(*grouped, 1))
            values.append(lanes.residue.value)
        weights = torch.cat(logits, -1).softmax(-1)
        flat = weights.reshape(*grouped[:2], -1, weights.shape[-1])
        return weights, flat @ torch.cat(values, 2)

    def _note(self, lanes: Lanes, weights: torch.Tensor, q: torch.Tensor, plain: torch.Tensor
              ) -> None:
        """What policies want to know of the past."""
        spec = self.spec
        if spec.policy == "h2o":  # sums over all queries so far; the residue's weight is nobody's
            received = weights.sum((2, 3))[..., :lanes.count]
            if lanes.received is not None:
                received[..., :lanes.received.shape[2]] += lanes.received
            lanes.received = received
        elif spec.policy == "longflow":  # the newest query alone
            lanes.received = weights[:, :, :, -1].mean(2)[..., :lanes.count]
        newest = max(spec.window if spec.policy == "rkv" else 0, spec.last_queries)
        lanes.note_queries(q, plain, newest, spec.online_queries, spec.online_stride,
                           spec.online_thin)

    def _select_all(self) -> None:
        keep = self.spec.budget + self.pinned
        for layer, lanes in enumerate(self.lanes):
            if lanes.count > keep:
                lanes.keep_best(self.scores(layer), keep, self.spec.residue is not None)

    def scores(self, layer: int) -> torch.Tensor:
        """[batch, KV heads, live]: infinite where a token stays in any case."""
        spec, lanes = self.spec, self.lanes[layer]
        score = self.weigh(self.scorer(layer, lanes, self.next), lanes).clone()
        if spec.share_layer:
            score = score.amax(1, keepdim=True).expand_as(score).clone()
        score[lanes.positions < self.pinned] = float("inf")
        score[lanes.positions >= self.next - self.newest(layer)] = float("inf")
        return score

    def newest(self, layer: int) -> int | torch.Tensor:
        """Tokens that stay because they are new, of every lane or as [KV heads, 1]."""
        spec = self.spec
        return max(spec.recent, int((spec.budget - RECENT_BEYOND) * spec.recent_share))
