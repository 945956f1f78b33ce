# SPDX-License-Identifier: Apache-2.0
"""What keys have in common: their mean over other texts, to be taken from every key.

Softmax does not notice: q.(k - c) is q.k less a number that is the same for all keys. A format
does, where a few channels are always large and of one sign.
"""
from __future__ import annotations

import torch

from .network import Network
from .run import Run
from .spec import BLOCK, Spec


def mean_keys(network: Network, tokens: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
    """tokens [texts, n] of `lengths` -> for each layer [KV heads, 1, dim], after RoPE."""
    run = Run(network, Spec("centres", "full"), 0)
    for first in range(0, tokens.shape[1], BLOCK):
        run.step(tokens[:, first:first + BLOCK])
    own = torch.arange(run.next, device=network.device) < lengths[:, None]
    weight = own[:, None, :, None].float() / lengths.sum()
    return [(lanes.keys * weight).sum((0, 2))[:, None] for lanes in run.lanes]
