# SPDX-License-Identifier: Apache-2.0
"""Makes models of published shapes with random weights, and records transformers on a GPU.

    python make_gpu_models.py OUT_FOLDER [NAME ...]

For cuda_agreement_test (tests/decode/model/cuda). A folder for each model: config.json and
model.safetensors (bf16), recording.json {"ids": prompt and greedily generated tokens, ...} and
recording.safetensors: the logits at every position, teacher-forced, of transformers in fp32 on the
same weights ("logits") and in bf16 ("logits_bf16", what bf16 arithmetic costs). Nothing of it is
committed: it takes a few gigabytes, and a minute on a GPU. Weights come from a seed.

The shapes have full width, as many layers as agreement needs, and a small vocabulary unless said
otherwise. Two have their own weights: `reasoner`, which the repository ships, with a chain of its
own, and `smollm2-135m`, where lab/agreement/make_smollm2.sh has made its folder: PALIMPSEST_SMOLLM2
names it, build/smollm2-135m if unset. Without that folder it is left out, and said.
"""
from __future__ import annotations

import json
import os
import pathlib
import shutil
import sys

import torch
import transformers
from safetensors.torch import save_file

from make_tiny_models import randomise

ROOT = pathlib.Path(__file__).resolve().parents[2]
SMOLLM2 = pathlib.Path(os.environ.get("PALIMPSEST_SMOLLM2", ROOT / "build/smollm2-135m"))
COMMON = {"vocab_size": 4096, "max_position_embeddings": 32768, "bos_token_id": 1,
          "eos_token_id": 2, "rms_norm_eps": 1e-5}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
PLAIN = {"rope_type": "default", "rope_theta": 1000000.0}
MODELS = {
    "llama-3-8b": ("Llama", {
        "hidden_size": 4096, "num_hidden_layers": 2, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "rope_parameters": LLAMA3,
        "tie_word_embeddings": False}),
    "qwen2.5-1.5b": ("Qwen2", {  # with its full vocabulary
        "hidden_size": 1536, "num_hidden_layers": 2, "num_attention_heads": 12,
        "num_key_value_heads": 2, "intermediate_size": 8960, "rope_parameters": PLAIN,
        "tie_word_embeddings": True, "use_sliding_window": False, "vocab_size": 151936,
        "rms_norm_eps": 1e-6}),
    "qwen3-8b": ("Qwen3", {
        "hidden_size": 4096, "num_hidden_layers": 2, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 12288,
        "rope_parameters": PLAIN, "tie_word_embeddings": False, "rms_norm_eps": 1e-6}),
    "smollm2-135m-shape": ("Llama", {  # all layers
        "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
        "tie_word_embeddings": True}),
}
PROMPT_TOKENS = 40
NEW_TOKENS = 24
CHAIN_TOKENS = 600  # of the reasoner's recorded chain
SEED = 20261122


def make(folder: pathlib.Path, name: str) -> list[int]:
    """Writes the model; returns a prompt."""
    family, settings = MODELS[name]
    config = getattr(transformers, f"{family}Config")(**(COMMON | settings))
    torch.manual_seed(SEED)
    with torch.device("cuda"):
        model = getattr(transformers, f"{family}ForCausalLM")(config).to(torch.float32)
    randomise(model)
    model.to(torch.bfloat16).save_pretrained(folder)
    return [(i * 2654435761 + 11) % (config.vocab_size - 3) + 3 for i in range(PROMPT_TOKENS)]


def copy_model(source: pathlib.Path, folder: pathlib.Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(source / name, folder / name)


def copy_reasoner(folder: pathlib.Path) -> list[int]:
    """Copies the shipped model; returns a prompt and its chain."""
    copy_model(ROOT / "lab/reasoner/model", folder)
    recorded = json.loads((ROOT / "lab/reasoner/reference/logits.json").read_text())["cases"][0]
    return (recorded["prompt_ids"] + recorded["chain_ids"])[:CHAIN_TOKENS]


def copy_smollm2(folder: pathlib.Path) -> list[int]:
    """Copies SmolLM2; returns a prompt and what it says to it."""
    copy_model(SMOLLM2, folder)
    recorded = json.loads((ROOT / "lab/agreement/reference/smollm2-135m.json").read_text())
    return recorded["prompt_ids"] + recorded["greedy_ids"]


COPIED = {"reasoner": copy_reasoner, "smollm2-135m": copy_smollm2}


def load(folder: pathlib.Path, dtype: torch.dtype):
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager").cuda().eval()


@torch.no_grad()
def record(folder: pathlib.Path, ids: list[int], new_tokens: int) -> None:
    model = load(folder, torch.float32)
    for _ in range(new_tokens):
        ids = ids + [int(model(torch.tensor([ids]).cuda()).logits[0, -1].argmax())]
    exact = model(torch.tensor([ids]).cuda()).logits[0].float()
    del model
    rounded = load(folder, torch.bfloat16)(torch.tensor([ids]).cuda()).logits[0].float()
    save_file({"logits": exact.cpu().contiguous(), "logits_bf16": rounded.cpu().contiguous()},
              folder / "recording.safetensors")
    (folder / "recording.json").write_text(json.dumps({
        "ids": ids, "transformers": transformers.__version__, "torch": torch.__version__,
        "device": torch.cuda.get_device_name()}) + "\n")


def main() -> None:
    out = pathlib.Path(sys.argv[1])
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    for name in sys.argv[2:] or [*MODELS, *COPIED]:
        if name == "smollm2-135m" and not SMOLLM2.is_dir():
            print(name, f"left out: there is no folder {SMOLLM2}", flush=True)
            continue
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        if name in COPIED:
            record(folder, COPIED[name](folder), 0)
        else:
            record(folder, make(folder, name), NEW_TOKENS)
        print(name, "recorded", flush=True)


if __name__ == "__main__":
    main()
