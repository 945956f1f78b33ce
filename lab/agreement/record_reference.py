# SPDX-License-Identifier: Apache-2.0
"""Records what transformers computes for a Hugging Face folder, as the reference of the C++ model.

    python record_reference.py FOLDER OUT.json --prompt TEXT [--new-tokens 64]
    python record_reference.py FOLDER OUT.json --token-ids 1,2,3

Needs torch and transformers (CPU suffices). Everything is computed in float32, greedily, with full
attention. The file is small: at each recorded position the 64 largest logits, and 64 more at
indices spread by a hash, so that an error anywhere in the vocabulary would be seen.

The file: {"source", "transformers", "weights_sha256", "prompt", "prompt_ids", "greedy_ids",
"positions": [{"position", "indices", "logits"}], "top_gap"}. Position p is the row whose input is
token p of prompt_ids + greedy_ids; its logits predict token p + 1. `top_gap` is the smallest
distance between the best and second-best logit along the greedy path: the same greedy tokens can
be demanded of any implementation whose logit error is below half of it.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import pathlib

TOP = 64
SAMPLED = 64


def sampled_indices(vocab: int) -> list[int]:
    """Fixed indices all over the vocabulary (Knuth's multiplicative hash)."""
    return sorted({(i * 2654435761 + 12345) % 2**32 % vocab for i in range(SAMPLED)})


def weights_sha256(folder: pathlib.Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def record(folder: pathlib.Path, prompt_ids: list[int], new_tokens: int) -> dict:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32,
                                                 attn_implementation="eager").eval()
    ids, greedy, gaps = list(prompt_ids), [], []
    with torch.no_grad():
        cache, feed = None, torch.tensor([ids])
        for _ in range(new_tokens):
            out = model(feed, past_key_values=cache, use_cache=True)
            best = torch.topk(out.logits[0, -1], 2)
            cache = out.past_key_values
            greedy.append(int(best.indices[0]))
            gaps.append(float(best.values[0] - best.values[1]))
            feed = torch.tensor([[greedy[-1]]])
        ids += greedy
        logits = model(torch.tensor([ids])).logits[0]  # one pass over all: no cache involved
    spread = sampled_indices(logits.shape[1])
    last = len(prompt_ids) - 1
    wanted = sorted({0, 1, last // 2, last, last + 1, last + new_tokens // 4,
                     last + new_tokens // 2, last + new_tokens - 1})
    positions = []
    for position in wanted:
        row = logits[position]
        top = torch.topk(row, min(TOP, row.numel())).indices.tolist()
        indices = sorted(set(top) | set(spread))
        positions.append({"position": position, "indices": indices,
                          "logits": [float(row[i]) for i in indices]})
    return {"prompt_ids": prompt_ids, "greedy_ids": greedy, "top_gap": min(gaps),
            "positions": positions}


def write(reference: dict, path: pathlib.Path) -> None:
    rounded = json.loads(json.dumps(reference), parse_float=lambda text: float(f"{float(text):.7g}"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rounded, separators=(",", ":")).replace('{"position"',
                                                                       '\n{"position"') + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--prompt")
    parser.add_argument("--token-ids")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--source", default="")
    args = parser.parse_args()
    if (args.prompt is None) == (args.token_ids is None):
        parser.error("give either --prompt or --token-ids")
    import transformers

    if args.prompt is not None:
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(args.folder / "tokenizer.json"))
        prompt_ids = tokenizer(args.prompt, add_special_tokens=False)["input_ids"]
    else:
        prompt_ids = [int(i) for i in args.token_ids.split(",")]
    head = {"source": args.source or args.folder.name, "transformers": transformers.__version__,
            "weights_sha256": weights_sha256(args.folder), "prompt": args.prompt or ""}
    write(head | record(args.folder, prompt_ids, args.new_tokens), args.out)


if __name__ == "__main__":
    main()
