# SPDX-License-Identifier: Apache-2.0
"""Which tokens of a segment stay, when it is known how many do; and what a choice is compared with.

    medoids        ThinKV's: k-means over the keys, the real token nearest to each centroid
    newest         the last of the segment
    random         drawn anew each time
    spaced         every n-th
    removal_error  what the codebook would miss most (policies.py), by KV head
"""
from __future__ import annotations

import torch

PICKS = ("medoids", "newest", "random", "spaced", "removal_error")
_LLOYD_STEPS = 10


def best(score: torch.Tensor, valid: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """score [..., n, heads, tokens], valid [n, 1, tokens], keep [n]: the `keep` largest."""
    order = score.masked_fill(~valid, float("-inf")).argsort(dim=-1, descending=True, stable=True)
    return (order.argsort(-1) < keep[:, None, None]) & valid


def spaced(valid: torch.Tensor, count: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """valid [n, 1, tokens]: of `count` tokens those at j * count // keep."""
    at = torch.arange(valid.shape[-1], device=valid.device)
    count, keep = count[:, None], keep[:, None]
    # A token is chosen where floor(token * keep / count) has just risen; rounded up, as j * count is.
    chosen = (at * keep + keep - 1) // count != ((at - 1) * keep + keep - 1) // count
    return chosen[:, None] & valid & (keep > 0)[:, None]


def _spread(points: torch.Tensor, count: torch.Tensor, keep: torch.Tensor, most: int
            ) -> torch.Tensor:
    """Evenly spaced points to start from, [n, most, width]; of clusters beyond `keep` any."""
    at = torch.arange(most, device=points.device) * count[:, None] // keep[:, None].clamp(min=1)
    at = at.clamp(max=points.shape[1] - 1)
    return points.gather(1, at[..., None].expand(-1, -1, points.shape[-1]))


def _distances(points: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
    """Squared, [n, points, to]. In fp64, rounded: two members are equally far from their mean, and
    such ties shall remain ties."""
    square = (points * points).sum(-1)[..., None] + (to * to).sum(-1)[:, None]
    return (square - 2 * points @ to.transpose(1, 2)).float()


def medoids(points: torch.Tensor, count: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """points [n, tokens, width], of which the first `count` are there -> chosen [n, tokens].

    As the engine (kernels/cpu/kmeans.h): evenly spaced start, Lloyd steps, empty clusters stay;
    then each centroid in turn takes the nearest token that is not taken yet."""
    tokens, most = points.shape[1], max(1, int(keep.max()))
    missing = torch.arange(tokens, device=points.device) >= count[:, None]
    unused = torch.arange(most, device=points.device) >= keep[:, None]
    weight = (~missing)[..., None].double()
    points = points.double() * weight
    centroids = _spread(points, count, keep, most)
    for _ in range(_LLOYD_STEPS):
        distance = _distances(points, centroids).masked_fill(unused[:, None], float("inf"))
        member = torch.zeros_like(distance, dtype=torch.float64)
        member.scatter_(2, distance.argmin(-1, keepdim=True), weight)
        size = member.sum(1)[..., None]
        means = member.transpose(1, 2) @ points / size.clamp(min=1)
        centroids = torch.where(size > 0, means, centroids)
    distance = _distances(centroids, points).masked_fill(missing[:, None], float("inf"))
    taken = torch.zeros_like(missing)
    for cluster in range(most):
        nearest = distance[:, cluster].masked_fill(taken, float("inf")).argmin(-1, keepdim=True)
        taken |= torch.zeros_like(taken).scatter_(1, nearest, ~unused[:, cluster, None])
    return taken
