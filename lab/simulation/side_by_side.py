# SPDX-License-Identifier: Apache-2.0
"""Several formats over the same texts at once, with the full cache: the network runs once, over as
many copies of the texts as there are formats. A small network does that in little more than the
time of one."""
from __future__ import annotations

import torch

from .network import Network
from .run import Run
from .spec import Spec


class SideBySide(Run):
    """Rows of what goes in and comes out: all texts of the first spec, then of the second..."""

    def __init__(self, network: Network, specs: list[Spec], pinned: int,
                 centres: list[torch.Tensor] | None = None):
        if any(spec.policy != "full" for spec in specs):
            raise ValueError("side by side: the full cache alone, since lanes keep equal counts")
        super().__init__(network, Spec("side by side", "full"), pinned)
        self.each = [Run(network, spec, pinned, centres=centres) for spec in specs]

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = super().step(tokens.repeat(len(self.each), 1))
        for run in self.each:
            run.storage.see(self.lanes, tokens.shape[1])
        return hidden

    def figures_of_each(self) -> list[dict[str, float]]:
        return [{"live": self.live, **run.storage.figures()} for run in self.each]

    def enter(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
              ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        parts = zip(self.each, *(x.chunk(len(self.each)) for x in (q, k, v)))
        found = [run.enter(layer, *part) for run, *part in parts]
        return tuple(torch.cat(side) for side in zip(*found))

    def leave(self, out: torch.Tensor) -> torch.Tensor:
        parts = out.chunk(len(self.each))
        return torch.cat([run.leave(part) for run, part in zip(self.each, parts)])

    def stored(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        parts = zip(self.each, *(x.chunk(len(self.each)) for x in (k, v)))
        found = [run.stored(*part) for run, *part in parts]
        return tuple(torch.cat(side) for side in zip(*found))
