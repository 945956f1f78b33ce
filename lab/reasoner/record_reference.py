# SPDX-License-Identifier: Apache-2.0
"""Records what an inference engine must reproduce: logits and greedy tokens, from transformers.

    python record_reference.py FOLDER OUT.json [--prompt TEXT]... [--chain TEXT]...
                               [--positions 8] [--last 3000] [--greedy 64] [--top 0]
    python record_reference.py lab/reasoner/model OUT.json --problems problems/heldout.jsonl

FOLDER is any causal Hugging Face model; it runs on the CPU in float32 from the weights as stored
(bf16 weights are widened, not requantised). Each --prompt may have a --chain, text that follows it
and is fed as given (teacher forcing); --problems takes the first two problems whose reference
chains are longer than --last tokens and adds their chains. Without a chain the greedy tokens are
fed instead. --top N keeps only the N largest logits of a position (for large vocabularies).

Out: {"model", "versions", "cases": [{"prompt", "prompt_ids", "chain_ids" (those fed after the
prompt), "logits": [{"position", "token_fed", "values"} or {..., "top_ids", "top_values"}],
"greedy_ids"}]}. `position` counts from 0 over prompt and chain; the logits at a position are those
for the token after it. "greedy_ids" are decoded from the prompt alone.
"""
from __future__ import annotations

import argparse
import json
import pathlib

import torch
import transformers


def positions_of(prompt: int, total: int, count: int) -> list[int]:
    """The last position of the prompt, then `count` ones up to the end, evenly spaced."""
    return sorted({prompt - 1 + round(i * (total - prompt) / count) for i in range(count + 1)})


@torch.no_grad()
def record(model, prompt: str, ids: list[int], chain: list[int], args) -> dict:
    model.generation_config.max_length = None
    ids_in = torch.tensor([ids])
    greedy = model.generate(ids_in, attention_mask=torch.ones_like(ids_in), do_sample=False,
                            max_new_tokens=args.greedy)[0, len(ids):].tolist()
    fed = (chain or greedy)[:max(0, args.last + 1 - len(ids))]
    logits = model(torch.tensor([ids + fed]), use_cache=False).logits[0].float()
    rows = []
    for at in positions_of(len(ids), len(ids) + len(fed), args.positions):
        row = {"position": at, "token_fed": (ids + fed)[at]}
        if args.top:
            values, top = logits[at].topk(args.top)
            row.update(top_ids=top.tolist(), top_values=[round(v, 6) for v in values.tolist()])
        else:
            row["values"] = [round(v, 6) for v in logits[at].tolist()]
        rows.append(row)
    return {"prompt": prompt, "prompt_ids": ids, "chain_ids": fed, "logits": rows,
            "greedy_ids": greedy}


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("folder", type=pathlib.Path)
    flags.add_argument("out", type=pathlib.Path)
    flags.add_argument("--prompt", action="append", default=[])
    flags.add_argument("--chain", action="append", default=[])
    flags.add_argument("--problems", type=pathlib.Path)
    flags.add_argument("--positions", type=int, default=8)
    flags.add_argument("--last", type=int, default=3000)
    flags.add_argument("--greedy", type=int, default=64)
    flags.add_argument("--top", type=int, default=0)
    args = flags.parse_args()
    if args.problems:
        import countdown

        for problem in map(json.loads, args.problems.read_text().splitlines()):
            if problem["chain_tokens"] > args.last and len(args.prompt) < 2:
                chain = countdown.solve(problem["numbers"], problem["goal"])
                args.prompt.append(problem["prompt"])
                args.chain.append(countdown.to_text(chain.tokens[chain.prompt_tokens:]))

    tokenizer = transformers.AutoTokenizer.from_pretrained(args.folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        args.folder, dtype=torch.float32, attn_implementation="eager").eval()
    cases = []
    for i, prompt in enumerate(args.prompt):
        chain = args.chain[i] if i < len(args.chain) else ""
        cases.append(record(model, prompt, tokenizer(prompt)["input_ids"],
                            tokenizer(chain, add_special_tokens=False)["input_ids"], args))
    out = {"model": args.folder.name, "dtype": "float32",
           "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
           "cases": cases}
    args.out.write_text(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
