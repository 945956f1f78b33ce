# SPDX-License-Identifier: Apache-2.0
"""The language model's judge: KL of its next-token distribution against its own full-cache run."""
from __future__ import annotations

import pathlib
import time

import torch

from .network import Network
from .run import Run
from .spec import BLOCK, Spec

JUDGED_FROM = 512  # before it little has been evicted


def load(files: list[pathlib.Path], tokenizer: pathlib.Path, count: int) -> torch.Tensor:
    """The first `count` tokens of every text that has as many: [texts, count]."""
    from tokenizers import Tokenizer  # the chains need none
    encode = Tokenizer.from_file(str(tokenizer)).encode
    texts = [encode(file.read_text()).ids for file in files]
    return torch.tensor([ids[:count] for ids in texts if len(ids) >= count])


def judge(network: Network, tokens: torch.Tensor, specs: list[Spec], pinned: int,
          codebooks) -> list[dict[str, float]]:
    """All specs at once, beside one full run."""
    start = time.time()
    full = Run(network, Spec("full", "full"), pinned)
    runs = [Run(network, spec, pinned, codebooks.of(spec.queries)) for spec in specs]
    half = tokens.shape[1] // 2
    divergence, late, agree = torch.zeros(3, len(specs), dtype=torch.float64, device=network.device)
    judged = judged_late = 0
    for first in range(0, tokens.shape[1], BLOCK):
        block = tokens[:, first:first + BLOCK]
        truth = network.logits(full.step(block)).log_softmax(-1)
        judged += block.numel() * (first >= JUDGED_FROM)
        judged_late += block.numel() * (first >= half)
        for i, run in enumerate(runs):
            guess = network.logits(run.step(block)).log_softmax(-1)
            if first < JUDGED_FROM:
                continue
            kl = (truth.exp() * (truth - guess)).sum(-1).double().sum()
            divergence[i] += kl
            late[i] += kl * (first >= half)
            agree[i] += (truth.argmax(-1) == guess.argmax(-1)).double().sum()
    seconds = time.time() - start
    return [{"kl": divergence[i].item() / judged, "kl_last_half": late[i].item() / judged_late,
             "top1": agree[i].item() / judged, "live": run.live, "seconds": seconds}
            for i, run in enumerate(runs)]
