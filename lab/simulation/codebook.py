# SPDX-License-Identifier: Apache-2.0
"""Queries that stand for those to come: sampled before RoPE with the full cache, then clustered; or
those of a file that `palimpsest calibrate` has made.

The sampling is the simulation's own and simpler than the project's (docs/calibration.md): some
tokens of every block, k-means from a random start, each centroid replaced by the nearest query of
all.
"""
from __future__ import annotations

import pathlib

import torch
from safetensors.torch import load_file

from .network import Network
from .run import Run
from .spec import BLOCK, Spec


def sample_queries(network: Network, tokens: torch.Tensor, lengths: torch.Tensor, per_block: int,
                   count: int = 12000) -> list[torch.Tensor]:
    """tokens [texts, n] of `lengths` -> for each layer [query heads, count, dim]."""
    found: list[list[torch.Tensor]] = [[] for _ in range(network.layers)]
    random = torch.Generator(device=network.device)
    random.manual_seed(0)
    alive = torch.arange(len(tokens), device=network.device)

    def see(layer: int, queries: torch.Tensor) -> None:
        at = torch.randint(0, BLOCK, (per_block,), device=network.device, generator=random)
        picked = queries[alive][:, :, at]
        found[layer].append(picked.permute(1, 0, 2, 3).reshape(network.query_heads, -1,
                                                               network.head_dim))

    run = Run(network, Spec("samples", "full"), 0, see=see)
    for first in range(0, tokens.shape[1], BLOCK):
        alive = (lengths > first).nonzero()[:, 0]
        if len(alive) == 0:
            break
        run.step(tokens[:, first:first + BLOCK])
    samples = []
    for parts in found:
        queries = torch.cat(parts, 1)
        order = torch.randperm(queries.shape[1], device=network.device, generator=random)
        samples.append(queries[:, order[:count]])
    return samples


def cluster(samples: torch.Tensor, count: int, rounds: int = 15) -> torch.Tensor:
    """[heads, n, dim] -> [heads, count, dim]: real members, the largest cluster first."""
    heads, total, dim = samples.shape
    random = torch.Generator(device="cpu")
    random.manual_seed(0)
    start = torch.randperm(total, generator=random)[:count].to(samples.device)
    centres = samples[:, start]
    for _ in range(rounds):
        nearest = torch.cdist(samples, centres).argmin(-1)
        wide = nearest[..., None].expand(-1, -1, dim)
        sums = torch.zeros_like(centres).scatter_add_(1, wide, samples)
        ones = torch.ones_like(nearest, dtype=torch.float32)
        sizes = torch.zeros(heads, count, device=samples.device).scatter_add_(1, nearest, ones)
        centres = torch.where((sizes > 0)[..., None], sums / sizes.clamp(min=1)[..., None], centres)
    member = torch.cdist(centres, samples).argmin(-1)
    centres = samples.gather(1, member[..., None].expand(-1, -1, dim))
    order = sizes.argsort(-1, descending=True)
    return centres.gather(1, order[..., None].expand(-1, -1, dim))


class Codebooks:
    """Codebooks of every size that is asked for, each clustered for itself: a prefix of a larger
    one is much worse (sweep 1)."""

    def __init__(self, samples: list[torch.Tensor]):
        self._samples = samples
        self._made: dict[int, list[torch.Tensor]] = {}

    def of(self, count: int) -> list[torch.Tensor] | None:
        if count and count not in self._made:
            self._made[count] = [cluster(samples, count) for samples in self._samples]
        return self._made.get(count)


class FileCodebook:
    """The file's queries; a smaller number means its first ones."""

    def __init__(self, file: pathlib.Path, network: Network):
        queries = load_file(str(file))["queries"].to(network.device, torch.float32)
        self._layers = list(queries)  # [query heads, queries, dim]

    def of(self, count: int) -> list[torch.Tensor] | None:
        return self._layers if count else None
