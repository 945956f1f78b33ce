# SPDX-License-Identifier: Apache-2.0
"""The reasoner's judge: what share of its chains stays exact, every next token the likeliest one.

Every token of a chain is determined (lab/reasoner), so one token that is not the argmax is an
error. The right token is fed all the same: an error is counted, not lived with.
"""
from __future__ import annotations

import json
import multiprocessing
import os
import pathlib
import time

import torch

from reasoner import countdown

from .labelled import LabelledRun
from .network import Network
from .run import Run
from .spec import BLOCK


def _solve(problem: dict) -> bytes:
    return countdown.solve(problem["numbers"], problem["goal"]).tokens


def load(problems: pathlib.Path, tokens_min: int, tokens_max: int, count: int) -> list[bytes]:
    """The first `count` chains of [tokens_min, tokens_max) tokens, shortest first."""
    wanted = [json.loads(line) for line in problems.read_text().splitlines()]
    wanted = [p for p in wanted if tokens_min <= p["chain_tokens"] < tokens_max][:count]
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        return sorted(pool.map(_solve, wanted, chunksize=2), key=len)


def pack(chains: list[bytes], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [chains, n], padded to whole blocks, and lengths."""
    width = -(-max(map(len, chains)) // BLOCK) * BLOCK
    tokens = torch.full((len(chains), width), countdown.PAD, dtype=torch.long)
    for row, chain in zip(tokens, chains):
        row[:len(chain)] = torch.tensor(list(chain))
    lengths = torch.tensor([len(chain) for chain in chains], device=device)
    return tokens.to(device), lengths


def prompt_tokens(chains: list[bytes]) -> int:
    """Of the longest prompt: as many are pinned in every chain."""
    return max(chain.index(countdown.ID["]"]) for chain in chains) + 1


def judge(network: Network, tokens: torch.Tensor, lengths: torch.Tensor, run: Run
          ) -> list[dict[str, float]]:
    """Figures of `run`, or of each spec that is side by side in it."""
    start = time.time()
    pinned, count = run.pinned, len(run.specs) if isinstance(run, LabelledRun) else 1
    shape = (count, len(tokens), -1)
    wrong = torch.zeros(shape[:2], dtype=torch.long, device=network.device)
    loss = torch.zeros(shape[:1], dtype=torch.float64, device=network.device)
    following = torch.cat([tokens[:, 1:], tokens[:, -1:]], 1)
    for first in range(0, tokens.shape[1], BLOCK):
        block = slice(first, first + BLOCK)
        logits = network.logits(run.step(tokens[:, block].repeat(count, 1)))
        at = torch.arange(first, first + BLOCK, device=network.device)
        judged = (at >= pinned) & (at + 1 < lengths[:, None])
        wrong += ((logits.argmax(-1).view(shape) != following[:, block]) & judged).sum(-1)
        target = following[:, block].repeat(count, 1)[..., None]
        sure = logits.log_softmax(-1).gather(-1, target).view(shape)
        loss -= (sure * judged).sum((1, 2)).double()
    each = run.figures_of_each() if isinstance(run, LabelledRun) else [run.figures()]
    seconds = (time.time() - start) / count
    return [{**_summary(*of_spec, lengths), **figures, "seconds": seconds}
            for *of_spec, figures in zip(wrong, loss, each)]


def _summary(wrong: torch.Tensor, loss: torch.Tensor, lengths: torch.Tensor) -> dict[str, float]:
    """wrong [chains]: tokens; loss: of all chains."""
    rate = wrong.sum() / lengths.sum()
    # A ratio's standard error, chains being what was drawn.
    error = (wrong - rate * lengths).pow(2).sum().sqrt() / lengths.sum()
    return {"exact": (wrong == 0).double().mean().item(),
            "wrong_per_1k": rate.item() * 1000, "wrong_error": error.item() * 1000,
            "loss_per_1k": (loss / lengths.sum() * 1000).item()}
