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


def full_states(network: Network, tokens: torch.Tensor, pinned: int) -> torch.Tensor:
    """What the head reads with the full cache in bf16: [texts, tokens, width]."""
    full = Run(network, Spec("full", "full"), pinned)
    return torch.cat([full.step(tokens[:, first:first + BLOCK])
                      for first in range(0, tokens.shape[1], BLOCK)], 1)


def judge(network: Network, tokens: torch.Tensor, spec: Spec, pinned: int,
          codebook: list[torch.Tensor] | None, centres: list[torch.Tensor] | None,
          truth: torch.Tensor) -> dict[str, float]:
    """truth: full_states of these tokens."""
    start = time.time()
    run = Run(network, spec, pinned, codebook, centres)
    half = tokens.shape[1] // 2
    divergence, late, agree = torch.zeros(3, dtype=torch.float64, device=network.device)
    judged = judged_late = 0
    for first in range(0, tokens.shape[1], BLOCK):
        block = slice(first, first + BLOCK)
        hidden = run.step(tokens[:, block])
        if first < JUDGED_FROM:
            continue
        guess = network.logits(hidden).log_softmax(-1)
        wanted = network.logits(truth[:, block]).log_softmax(-1)
        kl = (wanted.exp() * (wanted - guess)).sum(-1).double().sum()
        divergence += kl
        agree += (wanted.argmax(-1) == guess.argmax(-1)).double().sum()
        judged += tokens[:, block].numel()
        if first >= half:
            late += kl
            judged_late += tokens[:, block].numel()
    return {"kl": divergence.item() / judged, "kl_last_half": late.item() / judged_late,
            "top1": agree.item() / judged, "live": run.live, **run.storage.figures(),
            "seconds": time.time() - start}
