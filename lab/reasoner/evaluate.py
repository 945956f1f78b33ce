# SPDX-License-Identifier: Apache-2.0
"""Scores a Hugging Face folder on the held-out problems, with the full cache.

    python evaluate.py model problems/heldout.jsonl [--count N] [--mode MODE] [--dtype D]

Modes: `forced`   every argmax along the reference chain (transformers' forward pass);
       `generate` greedy decoding through transformers, one problem after the other;
       `batch`    greedy decoding of many problems at once with a static cache and a CUDA graph,
                  written out below (GPU only): the same network, fast enough for 512 long chains.
Prints one JSON object: right, all and the 95 % Wilson interval by chain length and together.
"""
from __future__ import annotations

import argparse
import json
import math
import pathlib
import time

import torch
import torch.nn.functional as F

import countdown

EDGES = [1000, 2000, 4000, 8000, 12288, 16385]


def wilson(right: int, total: int) -> list[float]:
    z, p = 1.96, right / total
    middle, spread = p + z * z / (2 * total), z * math.sqrt(
        p * (1 - p) / total + z * z / (4 * total * total))
    return [round((middle + s * spread) / (1 + z * z / total), 4) for s in (-1, 1)]


def table(problems: list[dict], good: list[bool]) -> dict:
    out, low = {}, 0
    for high in EDGES + [0]:
        hits = [g for p, g in zip(problems, good)
                if not high or low <= p["chain_tokens"] < high]
        if hits:
            out[f"{low}-{high - 1}" if high else "all"] = {
                "right": sum(hits), "of": len(hits), "interval95": wilson(sum(hits), len(hits))}
        low = high
    return out


@torch.no_grad()
def forced(model, problems: list[dict], device: str) -> tuple[list[bool], dict]:
    """Whole chains with every argmax right; also the mean loss and the smallest logit margin."""
    good, loss, count, margin = [], 0.0, 0, math.inf
    for p in problems:
        chain = countdown.solve(p["numbers"], p["goal"])
        ids = torch.tensor([list(chain.tokens)], device=device)
        logits = model(ids[:, :-1], use_cache=False).logits[0, chain.prompt_tokens - 1:].float()
        target = ids[0, chain.prompt_tokens:]
        loss += F.cross_entropy(logits, target, reduction="sum").item()
        count += len(target)
        good.append(bool((logits.argmax(-1) == target).all()))
        best = logits.gather(1, target[:, None])[:, 0]
        rest = logits.scatter(1, target[:, None], -math.inf).amax(-1)
        margin = min(margin, (best - rest).min().item())
    return good, {"loss": loss / count, "tokens": count, "smallest_margin": margin}


@torch.no_grad()
def generate(model, problems: list[dict], device: str) -> tuple[list[bool], dict]:
    good, count = [], 0
    for p in problems:
        ids = torch.tensor([countdown.from_text(p["prompt"])], device=device)
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,
                             max_length=min(countdown.CHAIN_TOKENS_MAX, p["chain_tokens"] + 64))
        good.append(countdown.check(p["numbers"], p["goal"], out[0].tolist()))
        count += out.shape[1] - ids.shape[1]
    return good, {"tokens": count}


class Batch:
    """Greedy decoding of `rows` problems in step, `length` tokens at most; weights from the model.

    One step is one CUDA graph: the caches, the tokens and the position live at fixed addresses."""

    def __init__(self, model, rows: int, length: int):
        c = model.config
        self.layers, self.heads = model.model.layers, c.num_attention_heads
        self.kv_heads, self.head_dim, self.eps = c.num_key_value_heads, c.head_dim, c.rms_norm_eps
        self.embed, self.norm = model.model.embed_tokens.weight, model.model.norm.weight
        device, dtype = self.embed.device, self.embed.dtype
        shape = (c.num_hidden_layers, rows, self.kv_heads, length, self.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        rate = c.rope_parameters["rope_theta"]
        angle = torch.arange(length, device=device)[:, None].float() * rate ** (
            -torch.arange(self.head_dim // 2, device=device).float() * 2 / self.head_dim)
        self.cos, self.sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
        self.at = torch.zeros(1, dtype=torch.long, device=device)
        self.slots = torch.arange(length, device=device)
        self.tokens = torch.full((rows, length + 1), countdown.PAD, dtype=torch.long, device=device)
        self.given = torch.zeros(rows, dtype=torch.long, device=device)  # prompt tokens
        self.live = torch.ones(rows, dtype=torch.bool, device=device)

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        a, b = x.float().chunk(2, -1)
        return (x.float() * self.cos[self.at] + torch.cat([-b, a], -1) * self.sin[self.at]).to(
            x.dtype)

    def step(self) -> None:
        """Feeds the tokens at `at`; writes the argmax after them unless the prompt stands there."""
        ids = self.tokens.index_select(1, self.at)[:, 0]
        x = self.embed[ids].float()
        rows, width = x.shape[0], (x.shape[1],)
        hidden = (self.slots > self.at)[None, None, None]
        for layer, keys, values in zip(self.layers, self.keys, self.values):
            h = F.rms_norm(x, width, layer.input_layernorm.weight.float(), self.eps).to(
                self.embed.dtype)
            attention = layer.self_attn
            split = [p(h).view(rows, -1, self.head_dim) for p in
                     (attention.q_proj, attention.k_proj, attention.v_proj)]
            q = self.rotate(split[0]).view(rows, self.kv_heads, -1, self.head_dim)
            keys.index_copy_(2, self.at, self.rotate(split[1])[:, :, None])
            values.index_copy_(2, self.at, split[2][:, :, None])
            score = (q @ keys.transpose(-1, -2)).float() * self.head_dim ** -0.5
            weight = score.masked_fill(hidden, -math.inf).softmax(-1).to(values.dtype)
            x = x + attention.o_proj((weight @ values).reshape(rows, -1))
            h = F.rms_norm(x, width, layer.post_attention_layernorm.weight.float(), self.eps).to(
                self.embed.dtype)
            x = x + layer.mlp(h)
        x = F.rms_norm(x, width, self.norm.float(), self.eps).to(self.embed.dtype)
        best = (x @ self.embed.t()).argmax(-1)
        following = self.at + 1
        old = self.tokens.index_select(1, following)[:, 0]
        new = torch.where(following < self.given, old, torch.where(self.live, best, countdown.PAD))
        self.tokens.index_copy_(1, following, new[:, None])
        self.live &= new != countdown.EOS
        self.at += 1

    @torch.no_grad()
    def run(self, prompts: list[list[int]]) -> list[list[int]]:
        self.step()  # warm-up; what it wrote is written again below
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        self.at.zero_()
        self.live.fill_(True)
        self.tokens.fill_(countdown.PAD)
        for i, prompt in enumerate(prompts):
            self.tokens[i, :len(prompt)] = torch.tensor(prompt)
            self.given[i] = len(prompt)
        for i in range(self.slots.numel()):
            graph.replay()
            if i % 256 == 255 and not bool(self.live.any()):
                break
        return self.tokens.tolist()


def batch(model, problems: list[dict], device: str) -> tuple[list[bool], dict]:
    order = sorted(range(len(problems)), key=lambda i: problems[i]["chain_tokens"])
    good, seconds, count, exact, at = [False] * len(order), {}, 0, 0, 0
    while at < len(order):
        limit = next(e for e in (1024, 2048, 4096, 8192, 12288, 16384)
                     if problems[order[at]]["chain_tokens"] <= e)
        group = [i for i in order[at:at + 192] if problems[i]["chain_tokens"] <= limit]
        begun = time.time()
        decoder = Batch(model, len(group), limit)
        outs = decoder.run([countdown.from_text(problems[i]["prompt"]) for i in group])
        del decoder
        for i, out in zip(group, outs):
            p = problems[i]
            good[i] = countdown.check(p["numbers"], p["goal"], out)
            reference = list(countdown.solve(p["numbers"], p["goal"]).tokens)
            exact += out[:len(reference)] == reference
            count += len(out) - out.count(countdown.PAD)
        seconds[f"{limit} x {len(group)} #{at}"] = round(time.time() - begun, 1)
        at += len(group)
    return good, {"tokens": count, "chains_exactly_the_reference": exact, "seconds": seconds}


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("model", type=pathlib.Path)
    flags.add_argument("problems", type=pathlib.Path)
    flags.add_argument("--count", type=int, default=10**9)
    flags.add_argument("--mode", choices=("forced", "generate", "batch"), default="forced")
    flags.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    flags.add_argument("--wrong", action="store_true", help="list the ids of wrong problems")
    args = flags.parse_args()
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype))
    model = model.to(device).eval()
    problems = [json.loads(line) for line in args.problems.read_text().splitlines()][:args.count]
    begun = time.time()
    good, extra = {"forced": forced, "generate": generate, "batch": batch}[args.mode](
        model, problems, device)
    if args.wrong:
        extra["wrong"] = [p["id"] for p, g in zip(problems, good) if not g]
    print(json.dumps({"problems": args.problems.name, "mode": args.mode, "dtype": args.dtype,
                      "device": device, "wall_s": round(time.time() - begun, 1), **extra,
                      "accuracy": table(problems, good)}))


if __name__ == "__main__":
    main()
