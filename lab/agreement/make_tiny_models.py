# SPDX-License-Identifier: Apache-2.0
"""Makes the tiny random-weight models of tests/decode/model/data and their references.

    python make_tiny_models.py [OUT_FOLDER]

One folder for each feature of the model code: config.json and model.safetensors as transformers
itself writes them, and reference.json by record_reference.py. Weights are drawn larger than usual,
biases and norm weights at random, so that a forgotten bias, norm or scaling shows in the logits.
Runs in seconds on a CPU; the result is committed.
"""
from __future__ import annotations

import pathlib
import sys

import torch
import transformers

import record_reference

COMMON = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
          "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 256,
          "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2,
          "rms_norm_eps": 1e-5}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
        "original_max_position_embeddings": 128}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
MODELS = {
    "llama-llama3-untied": ("Llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": False}),
    "llama-linear-bias": ("Llama", {"rope_parameters": LINEAR, "tie_word_embeddings": True,
                                    "attention_bias": True, "mlp_bias": True}),
    "llama-yarn": ("Llama", {"rope_parameters": YARN, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
                        "tie_word_embeddings": True, "use_sliding_window": False}),
    "qwen3": ("Qwen3", {"rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
                        "head_dim": 32, "num_hidden_layers": 3, "num_attention_heads": 6,
                        "tie_word_embeddings": False}),
}
GAP_MIN = 0.05
PROMPT = [1] + [(i * 37 + 11) % 253 + 3 for i in range(40)]


def randomise(model: torch.nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            parameter.data.uniform_(0.5, 1.5)
        elif name.endswith("bias"):
            parameter.data.normal_(0.0, 0.3)
        elif "embed_tokens" in name or "lm_head" in name:
            parameter.data.normal_(0.0, 0.5)
        else:
            parameter.data.normal_(0.0, 1.5 / parameter.shape[-1] ** 0.5)


def make(folder: pathlib.Path, name: str, seed: int) -> dict:
    family, settings = MODELS[name]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{family}Config")(**(COMMON | settings))
    model = getattr(transformers, f"{family}ForCausalLM")(config).to(torch.float32)
    randomise(model)
    model.to(torch.bfloat16).save_pretrained(folder)
    head = {"source": f"make_tiny_models.py, {name}, seed {seed}",
            "transformers": transformers.__version__,
            "weights_sha256": record_reference.weights_sha256(folder), "prompt": ""}
    return head | record_reference.record(folder, PROMPT, 64)


def main() -> None:
    root = pathlib.Path(__file__).resolve().parents[2]
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else root / "tests/decode/model/data"
    for name in MODELS:
        for seed in range(1000, 1100):  # the first whose greedy path no rounding can change
            reference = make(out / name, name, seed)
            if reference["top_gap"] >= GAP_MIN:
                break
        record_reference.write(reference, out / name / "reference.json")
        print(name, "seed", seed, "top_gap", reference["top_gap"])


if __name__ == "__main__":
    main()
