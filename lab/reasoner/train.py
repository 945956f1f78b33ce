# SPDX-License-Identifier: Apache-2.0
"""Trains the reasoner for a given time on one GPU, resuming from its checkpoint if there is one.

    python train.py --seconds 780 --out build/reasoner --export lab/reasoner/model

The learning rate follows the elapsed share of --seconds, so a run that was cut off and started
again ends where one that was not would. The log (out/log.jsonl) gains a line every 100 steps and
one for every look at the held-out problems.
"""
from __future__ import annotations

import argparse
import json
import os
import pathlib
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import countdown
import export
from data import LONG, SHORT, Batches
from model import Model, rope_tables

PEAK = 2e-3
HERE = pathlib.Path(__file__).parent
BACKENDS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]


def learning_rate(step: int, share: float) -> float:
    """Warm-up of 300 steps, flat to 35 % of the time, then linear to 2 %."""
    return PEAK * min(1.0, (step + 1) / 300) * min(1.0, max(0.02, (1 - share) / 0.65))


def long_share(share: float) -> float:
    """Share of the batches with long rows: mostly short chains first."""
    return 0.1 if share < 0.15 else 0.4 if share < 0.4 else 0.55


def held_out(count: int) -> list[tuple[int, bytes]]:
    """(prompt tokens, reference chain) of the first `count` held-out problems, short to long."""
    lines = (HERE / "problems" / "heldout.jsonl").read_text().splitlines()[:count]
    chains = [countdown.solve(p["numbers"], p["goal"]) for p in map(json.loads, lines)]
    return sorted(((c.prompt_tokens, c.tokens) for c in chains), key=lambda c: len(c[1]))


@torch.no_grad()
def exactness(model: Model, chains: list[tuple[int, bytes]], cos: torch.Tensor,
              sin: torch.Tensor) -> dict:
    """Teacher-forced: right and all chains by length, and wrong tokens in all."""
    edges, right, total, wrong = [1000, 2000, 4000, 8000, 12288, 16385], {}, {}, 0
    device, at = next(model.parameters()).device, 0
    while at < len(chains):
        end = at + 1
        while end < len(chains) and (end + 1 - at) * len(chains[end][1]) <= 131072:
            end += 1
        group, longest = chains[at:end], len(chains[end - 1][1])
        ids = torch.full((len(group), longest), countdown.PAD, dtype=torch.long)
        for i, (prompt, tokens) in enumerate(group):
            ids[i, :len(tokens)] = torch.frombuffer(bytearray(tokens), dtype=torch.uint8)
        ids = ids.to(device)
        with torch.autocast(device.type, torch.bfloat16):
            guess = model.logits(model(ids[:, :-1], cos, sin, eager=True)).argmax(-1)
        miss = guess != ids[:, 1:]
        for i, (prompt, tokens) in enumerate(group):
            bad = int(miss[i, prompt - 1:len(tokens) - 1].sum())
            bucket = next(e for e in edges if len(tokens) < e)
            total[bucket] = total.get(bucket, 0) + 1
            right[bucket] = right.get(bucket, 0) + (bad == 0)
            wrong += bad
        at = end
    return {"exact": {f"<{e}": f"{right[e]}/{total[e]}" for e in edges if e in total},
            "wrong_tokens": wrong}


def main() -> None:
    flags = argparse.ArgumentParser()
    flags.add_argument("--seconds", type=float, default=780)
    flags.add_argument("--out", type=pathlib.Path, required=True)
    flags.add_argument("--export", type=pathlib.Path)
    flags.add_argument("--watch-seconds", type=float, default=110)
    flags.add_argument("--watch-count", type=int, default=256)
    flags.add_argument("--steps", type=int, default=10**9, help="stop early (dry runs)")
    args = flags.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    file = args.out / "checkpoint.pt"
    saved = torch.load(file, map_location="cpu") if file.exists() else None
    begun = time.time() - (saved["elapsed"] if saved else 0)
    step, tokens = (saved["step"], saved["tokens"]) if saved else (0, 0)

    batches = Batches(os.cpu_count() - 1, seed=1 + step)
    torch.manual_seed(step)
    torch.set_float32_matmul_precision("high")
    model = Model().to(device)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}],
        lr=PEAK, betas=(0.9, 0.95), fused=device == "cuda")
    if saved:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    loss_of = model.loss
    if device == "cuda":
        for block in model.blocks:
            block.compile(dynamic=False)
        loss_of = torch.compile(model.loss, dynamic=False)
    cos, sin = rope_tables(LONG, device)
    watched = held_out(args.watch_count)
    log = (args.out / "log.jsonl").open("a")

    def note(**entry: object) -> None:
        line = json.dumps({"step": step, "mtok": round(tokens / 1e6),
                           "s": round(time.time() - begun), **entry})
        print(line, flush=True)
        print(line, file=log, flush=True)

    def save() -> None:
        part = file.with_suffix(".part")
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step,
                    "tokens": tokens, "elapsed": time.time() - begun}, part)
        os.replace(part, file)

    watch_at, debt = time.time() + args.watch_seconds, 0.0
    losses: dict[int, list] = {SHORT: [], LONG: []}
    while (share := (time.time() - begun) / args.seconds) < 1 and step < args.steps:
        debt += long_share(share)
        length = LONG if debt >= 1 else SHORT
        debt -= debt >= 1
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, share)
        pair = [torch.from_numpy(a) for a in batches.next(length)]
        if device == "cuda":
            pair = [a.pin_memory().to(device, non_blocking=True) for a in pair]
        inputs, targets = pair[0][:, :-1].long(), pair[1][:, 1:].long()
        with torch.autocast(device, torch.bfloat16), sdpa_kernel(BACKENDS, set_priority=True):
            loss = loss_of(model(inputs, cos, sin), targets, countdown.PAD)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step, tokens = step + 1, tokens + inputs.numel()
        losses[length].append(loss.detach())
        if step % 100 == 0 or step in (1, 10) or step == args.steps:
            note(**{f"loss_{n}": round(torch.stack(x).mean().item(), 5)
                    for n, x in losses.items() if x}, ready=[q.qsize() for q in
                                                             batches.queues.values()])
            losses = {SHORT: [], LONG: []}
        if time.time() > watch_at:
            note(**exactness(model, watched, cos, sin))
            save()
            watch_at = time.time() + args.watch_seconds
    note(final=True, **exactness(model, held_out(args.watch_count * 2), cos, sin))
    save()
    if args.export:
        export.write(model.state_dict(), args.export)


if __name__ == "__main__":
    main()
