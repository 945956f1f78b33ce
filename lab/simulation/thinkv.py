# SPDX-License-Identifier: Apache-2.0
"""ThinKV with a switch for each part, and budgets for given bytes.

Every chain has segments of its own (segments.py). In all its layers and heads they hold equal
counts, so that lanes are laid out alike; only which tokens stay differs.
"""
from __future__ import annotations

import dataclasses
import multiprocessing
import os

import numpy as np
import torch

from . import picks
from .labelled import Account, LabelledRun, labels_of
from .labels import E, KINDS, R, T, Labels
from .network import Network
from .ragged import RaggedLanes
from .segments import Lowering, Planner, Rules, follow
from .spec import BLOCK, Spec

_NEGLIGIBLE = 0.01  # of the largest weight
_SMALL = 32  # tokens: smaller segments are clustered apart, for speed


def rules_of(spec: Spec) -> Rules:
    return Rules(spec.budget, spec.retention, spec.transitions, spec.importance, spec.fit,
                 spec.label_shares)


def _foreseen_budget(spec: Spec, kinds: list[np.ndarray], dim: int, pinned: int) -> int:
    """The largest budget, in steps of 4, that holds at most `spec.bytes` per cent."""
    labels = labels_of(spec, kinds, pinned)
    low, high = 1, 512
    while high - low > 1:
        steps = (low + high) // 2
        held = foresee(dataclasses.replace(spec, budget=4 * steps), labels, dim, pinned)
        low, high = (steps, high) if held <= spec.bytes else (low, steps)
    return 4 * low


def with_budgets(specs: list[Spec], kinds: list[np.ndarray], dim: int, pinned: int) -> list[Spec]:
    """Where bytes are given, the budget that holds as many."""
    wanted = [spec for spec in specs if spec.bytes]
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        tasks = [pool.apply_async(_foreseen_budget, (spec, kinds, dim, pinned)) for spec in wanted]
        found = {spec: task.get() for spec, task in zip(wanted, tasks)}
    return [dataclasses.replace(spec, budget=found.get(spec, spec.budget)) for spec in specs]


def labelled_run(network: Network, spec: Spec, pinned: int, codebook, kinds: list[np.ndarray]
                 ) -> LabelledRun:
    make_run = ThinkvRun if spec.policy == "thinkv" else LabelledRun
    return make_run(network, spec, pinned, codebook, labels_of(spec, kinds, pinned))


def foresee(spec: Spec, labels: Labels, dim: int, pinned: int) -> float:
    """Per cent of the full cache's bytes that a thinkv run will hold; needs no network."""
    account = Account(spec, dim, pinned)
    for row, starts, length in zip(labels.of_token, labels.starts, labels.lengths):
        planner = Planner(rules_of(spec))
        for first in range(0, length, BLOCK):
            end = min(first + BLOCK, length)
            account.note(planner.live_by_label, first, end - first)
            follow(planner, row, starts, first, end)
            planner.plan()
    return account.figures()["bytes_percent"]


class ThinkvRun(LabelledRun):
    def __init__(self, network: Network, spec: Spec, pinned: int, codebook, labels: Labels):
        super().__init__(network, spec, pinned, codebook, labels)
        self.lanes = [RaggedLanes(len(self.lengths), network.device) for _ in range(network.layers)]
        self.planners = [Planner(rules_of(spec)) for _ in self.lengths]
        self.sparsity: dict[int, torch.Tensor] = {}  # of each layer that is asked: [batch]
        self._random = torch.Generator(device=network.device)
        self._random.manual_seed(1)

    def figures(self) -> dict[str, float]:
        figures = super().figures()
        if self.spec.labels == "sparsity":  # what was read under compression: shares of tokens
            said = np.concatenate([row[self.pinned:length] for row, length
                                   in zip(self.labels.of_token, self.lengths)])
            figures |= {f"said_{kind}": float((said == i).mean()) for i, kind in enumerate(KINDS)}
        return figures

    def held(self, chain: int) -> list[int]:
        return self.planners[chain].live_by_label

    def _note(self, lanes: RaggedLanes, weights: torch.Tensor, q: torch.Tensor,
              plain: torch.Tensor) -> None:
        layer = next(i for i, own in enumerate(self.lanes) if own is lanes)
        due = (self.next + q.shape[3]) % self.spec.tau == 0
        if self.spec.labels == "sparsity" and due and layer in self.spec.sparsity_layers:
            self.sparsity[layer] = sparsity(q[:, :, :, -1], lanes, self.network.logit_scale)

    def _select_all(self) -> None:
        """After every block, `next` being past it."""
        if self.sparsity:
            self._classify(torch.stack(list(self.sparsity.values())).mean(0).cpu().numpy())
            self.sparsity.clear()
        first = self.next - BLOCK
        plans = []
        for planner, label, starts, length in zip(self.planners, self.labels.of_token,
                                                  self.labels.starts, self.lengths):
            if first >= length:
                plans.append([])
                continue
            follow(planner, label, starts, first, min(self.next, length))
            plans.append(planner.plan())
        live = [min(self.pinned, length) + planner.live
                for planner, length in zip(self.planners, self.lengths)]
        self._carry_out(plans, torch.tensor(live, device=self.network.device))

    def _classify(self, mean: np.ndarray) -> None:
        """Labels of the next window."""
        low, high = self.spec.theta
        found = np.where(mean < low, E, np.where(mean < high, R, T))
        window = slice(self.next, self.next + self.spec.tau)
        self.labels.of_token[:, window] = found[:, None]
        self._of_token[:, window] = torch.tensor(found, device=self._of_token.device)[:, None]

    def _carry_out(self, plans: list[list[Lowering]], live: torch.Tensor) -> None:
        """In all layers, whose lanes are laid out alike."""
        device, positions = live.device, self.lanes[0].positions
        tasks = [(chain, self.pinned + order.first, order.count, order.keep)
                 for chain, plan in enumerate(plans) for order in plan]
        ended = torch.tensor(self.lengths, device=device)[:, None, None]
        stays = [(lanes.positions >= 0) & (lanes.positions < ended) for lanes in self.lanes]
        scores = None
        if tasks and self.spec.pick == "removal_error":
            scores = [self.scorer(i, lanes, self.next) for i, lanes in enumerate(self.lanes)]
        for part in ([t for t in tasks if t[2] <= _SMALL], [t for t in tasks if t[2] > _SMALL]):
            if not part:
                continue
            chain, at, count, keep = torch.tensor(part, device=device).T
            index = at[:, None] + torch.arange(int(count.max()), device=device)
            valid = index < (at + count)[:, None]
            index = index.clamp(max=positions.shape[2] - 1)
            row, column = valid.nonzero(as_tuple=True)
            for stay, chosen in zip(stays, self._pick(scores, chain, index, valid, count, keep)):
                stay[chain[row], :, index[row, column]] = chosen[row, :, column]
        for lanes, stay in zip(self.lanes, stays):
            lanes.keep(stay, live)

    def _pick(self, scores: list[torch.Tensor] | None, chain: torch.Tensor, index: torch.Tensor,
              valid: torch.Tensor, count: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        """[layers, orders, KV heads, tokens]"""
        layers, heads, pick = len(self.lanes), self.network.kv_heads, self.spec.pick
        shape = (layers, len(chain), heads, index.shape[1])
        if pick == "medoids":
            keys = [lanes.keys[chain[:, None], :, index].flatten(2) for lanes in self.lanes]
            chosen = picks.medoids(torch.cat(keys), count.repeat(layers), keep.repeat(layers))
            return chosen.view(layers, len(chain), 1, -1).expand(shape)
        wide = valid[:, None]
        if pick == "spaced":
            return picks.spaced(wide, count, keep).expand(shape)
        if pick == "removal_error":
            own = torch.stack([score[chain[:, None], :, index].transpose(1, 2) for score in scores])
        elif pick == "newest":
            own = torch.arange(index.shape[1], device=index.device).float().expand(shape)
        else:
            own = torch.rand((layers, *index.shape), device=index.device, generator=self._random)
            own = own[:, :, None].expand(shape)
        return picks.best(own, wide, keep)


def sparsity(q: torch.Tensor, lanes: RaggedLanes, scale: float) -> torch.Tensor:
    """Of one step's queries [batch, KV heads, group, dim] over what is live: [batch]. As
    MeasureSparsity has it (lab/thoughts/sparsity.py)."""
    logits = (q @ lanes.keys.transpose(-1, -2) * scale).amax(2)
    weights = logits.masked_fill(lanes.dead, float("-inf")).softmax(-1).mean(1)
    faint = (weights < _NEGLIGIBLE * weights.amax(-1, keepdim=True)) & ~lanes.dead[:, 0]
    return faint.sum(-1) / (~lanes.dead[:, 0]).sum(-1)
