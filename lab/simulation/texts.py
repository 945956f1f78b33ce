# SPDX-License-Identifier: Apache-2.0
"""The language model's judge: KL of its next-token distribution against its own full-cache run."""
from __future__ import annotations

import pathlib
import time

import torch

from .network import Network
from .run import Run
from .side_by_side import SideBySide
from .spec import BLOCK, Spec

JUDGED_FROM = 512  # before it little has been evicted


def load(files: list[pathlib.Path], tokenizer: pathlib.Path, count: int) -> torch.Tensor:
    """The first `count` tokens of every text that has as many: [texts, count]."""
    from tokenizers import Tokenizer  # the chains need none
    encode = Tokenizer.from_file(str(tokenizer)).encode
    texts = [encode(file.read_text()).ids for file in files]
    return torch.tensor([ids[:count] for ids in texts if len(ids) >= count])


def full_states(network: Network, tokens: torch.Tensor, pinned: int) -> torch.Tensor:
    """What the head reads with the full cache in bf16: [texts, tokens, width]."""
    full = Run(network, Spec("full", "full"), pinned)
    return torch.cat([full.step(tokens[:, first:first + BLOCK])
                      for first in range(0, tokens.shape[1], BLOCK)], 1)


def judge(network: Network, tokens: torch.Tensor, run: Run, truth: torch.Tensor
          ) -> list[dict[str, float | list[float]]]:
    """Of `run`, or of each that is side by side in it. truth: full_states of these tokens."""
    start = time.time()
    side_by_side = isinstance(run, SideBySide)
    each = len(run.each) if side_by_side else 1
    half = tokens.shape[1] // 2
    divergence = torch.zeros(each, len(tokens), dtype=torch.float64, device=network.device)
    late, agree = torch.zeros(2, each, dtype=torch.float64, device=network.device)
    judged = judged_late = 0
    for first in range(0, tokens.shape[1], BLOCK):
        block = slice(first, first + BLOCK)
        hidden = run.step(tokens[:, block])
        if first < JUDGED_FROM:
            continue
        wanted = network.logits(truth[:, block]).log_softmax(-1)
        for i, part in enumerate(hidden.chunk(each)):
            guess = network.logits(part).log_softmax(-1)
            kl = (wanted.exp() * (wanted - guess)).sum(-1).double().sum(-1)
            divergence[i] += kl
            late[i] += kl.sum() * (first >= half)
            agree[i] += (wanted.argmax(-1) == guess.argmax(-1)).double().sum()
        judged += tokens[:, block].numel()
        judged_late += tokens[:, block].numel() * (first >= half)
    seconds = (time.time() - start) / each
    figures = run.figures_of_each() if side_by_side else [run.figures()]
    return [{"kl": divergence[i].sum().item() / judged,
             "kl_texts": (divergence[i] * len(tokens) / judged).tolist(),
             "kl_last_half": late[i].item() / judged_late,
             "top1": agree[i].item() / judged, **own, "seconds": seconds}
            for i, own in enumerate(figures)]
