# SPDX-License-Identifier: Apache-2.0
"""ThinKV with a switch for each part, and budgets for given bytes.

Every chain has segments of its own (segments.py). In all its layers and heads they hold equal
counts, so that lanes are laid out alike; only which tokens stay differs.
"""
from __future__ import annotations

import dataclasses
import itertools
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
_SEGMENTS_MAX = 1024  # clustered at once, in all layers
_ROWS_MAX = 256  # chains of all runs that go side by side


def rules_of(spec: Spec) -> Rules:
    return Rules(spec.budget, spec.retention, spec.transitions, spec.importance, spec.fit,
                 spec.label_shares)


def _foreseen_budget(spec: Spec, kinds: list[np.ndarray], dim: int, pinned: int) -> int:
    """The largest budget, in steps of 4, that holds at most `spec.bytes` per cent."""
    labels = labels_of(spec, kinds, pinned)
    low, high = 1, labels.of_token.shape[1] // 4
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


def groups_of(specs: list[Spec], chains: int) -> list[list[Spec]]:
    """Runs that go side by side: ThinKV's, as long as tokens are chosen and windows cut alike."""
    def alike(spec: Spec) -> str:
        if spec.policy != "thinkv":
            return repr(spec)
        return repr((spec.pick, spec.queries, spec.tau, spec.sparsity_layers, spec.theta))

    most = max(1, _ROWS_MAX // chains)
    groups = []
    for _, group in itertools.groupby(sorted(specs, key=alike), alike):
        same = list(group)
        groups += [same[first:first + most] for first in range(0, len(same), most)]
    return groups


def labelled_run(network: Network, specs: list[Spec], pinned: int, codebook,
                 kinds: list[np.ndarray]) -> LabelledRun:
    make_run = ThinkvRun if specs[0].policy == "thinkv" else LabelledRun
    return make_run(network, specs, pinned, codebook, kinds)


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
    def __init__(self, network: Network, specs: list[Spec], pinned: int, codebook,
                 kinds: list[np.ndarray]):
        super().__init__(network, specs, pinned, codebook, kinds)
        self.lanes = [RaggedLanes(len(self.lengths), network.device) for _ in range(network.layers)]
        self.planners = [Planner(rules_of(spec)) for spec in specs for _ in kinds]
        self.sparsity: dict[int, torch.Tensor] = {}  # of each layer that is asked: [batch]
        self._random = torch.Generator(device=network.device)
        self._random.manual_seed(1)

    def figures_of_each(self) -> list[dict[str, float]]:
        each = super().figures_of_each()
        if self.spec.labels != "sparsity":
            return each
        for index, figures in enumerate(each):  # what was read under compression: shares of tokens
            rows = self.rows_of(index)
            said = np.concatenate([row[self.pinned:length] for row, length
                                   in zip(self.labels.of_token[rows], self.lengths[rows])])
            figures |= {f"said_{kind}": float((said == i).mean()) for i, kind in enumerate(KINDS)}
        return each

    def held(self, row: int) -> list[int]:
        return self.planners[row].live_by_label

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
        held = [min(self.pinned, length) + planner.live
                for planner, length in zip(self.planners, self.lengths)]
        live = torch.tensor(held, device=self.network.device)
        rows = [row for row, plan in enumerate(plans) if plan]
        if rows:
            self._carry_out(torch.tensor(rows, device=live.device), [plans[row] for row in rows],
                            live[rows])
        for lanes in self.lanes:
            lanes.set_live(live, max(held))

    def _classify(self, mean: np.ndarray) -> None:
        """Labels of the next window."""
        low, high = self.spec.theta
        found = np.where(mean < low, E, np.where(mean < high, R, T))
        window = slice(self.next, self.next + self.spec.tau)
        self.labels.of_token[:, window] = found[:, None]
        self._of_token[:, window] = torch.tensor(found, device=self._of_token.device)[:, None]

    def _carry_out(self, rows: torch.Tensor, plans: list[list[Lowering]], live: torch.Tensor
                   ) -> None:
        """Plans of these chains, in all layers, whose lanes are laid out alike."""
        parts = [lanes.of_rows(rows) for lanes in self.lanes]
        stays = [part.positions >= 0 for part in parts]
        scores = None
        if self.spec.pick == "removal_error":
            scores = [self.scorer(i, part, self.next) for i, part in enumerate(parts)]
        for tasks in self._tasks(plans):
            chain, at, count, keep = torch.tensor(tasks, device=rows.device).T
            index = at[:, None] + torch.arange(int(count.max()), device=rows.device)
            valid = index < (at + count)[:, None]
            index = index.clamp(max=stays[0].shape[2] - 1)
            row, column = valid.nonzero(as_tuple=True)
            chosen = self._pick(parts, scores, chain, index, valid, count, keep)
            for stay, own in zip(stays, chosen):
                stay[chain[row], :, index[row, column]] = own[row, :, column]
        for lanes, part, stay in zip(self.lanes, parts, stays):
            lanes.keep(rows, part, stay, live)

    def _tasks(self, plans: list[list[Lowering]]) -> list[list[tuple[int, int, int, int]]]:
        """(chain, slot, count, keep) of segments, as many as are picked from at once."""
        tasks = [(chain, self.pinned + order.first, order.count, order.keep)
                 for chain, plan in enumerate(plans) for order in plan]
        sizes = ([t for t in tasks if t[2] <= _SMALL], [t for t in tasks if t[2] > _SMALL])
        return [part[first:first + _SEGMENTS_MAX] for part in sizes
                for first in range(0, len(part), _SEGMENTS_MAX)]

    def _pick(self, lanes: list[RaggedLanes], scores: list[torch.Tensor] | None,
              chain: torch.Tensor, index: torch.Tensor, valid: torch.Tensor, count: torch.Tensor,
              keep: torch.Tensor) -> torch.Tensor:
        """[layers, orders, KV heads, tokens]"""
        layers, heads, pick = len(lanes), self.network.kv_heads, self.spec.pick
        shape = (layers, len(chain), heads, index.shape[1])
        if pick == "medoids":
            keys = [own.keys[chain[:, None], :, index].flatten(2) for own in lanes]
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
