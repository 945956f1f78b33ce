# SPDX-License-Identifier: Apache-2.0
"""Writes a trained checkpoint as a Hugging Face folder that transformers loads unchanged.

    python export.py CHECKPOINT.pt FOLDER     weights (bf16, tied), config, tokenizer
    python export.py --text-only FOLDER       config and tokenizer alone; needs no torch
"""
from __future__ import annotations

import json
import pathlib
import sys

import countdown

SHAPE = {"hidden_size": 256, "num_hidden_layers": 8, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 768,
         "rope_theta": 100000.0, "rms_norm_eps": 1e-5}
IDS = {"bos_token_id": countdown.BOS, "eos_token_id": countdown.EOS, "pad_token_id": countdown.PAD}


def config() -> dict:
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama",
            "vocab_size": len(countdown.VOCAB), "max_position_embeddings": 16384, **SHAPE, **IDS,
            "rope_parameters": {"rope_type": "default", "rope_theta": SHAPE["rope_theta"]},
            "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
            "attention_dropout": 0.0, "initializer_range": 0.02, "pretraining_tp": 1,
            "tie_word_embeddings": True, "torch_dtype": "bfloat16", "dtype": "bfloat16",
            "use_cache": True}


def tokenizer() -> dict:
    """A `tokenizers` WordLevel model that splits on white space and adds nothing by itself."""
    special = [{"id": countdown.ID[word], "content": word, "single_word": False, "lstrip": False,
                "rstrip": False, "normalized": False, "special": True}
               for word in ("<pad>", "<bos>", "<eos>")]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": special,
            "normalizer": None, "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": None, "decoder": None,
            "model": {"type": "WordLevel", "vocab": countdown.ID, "unk_token": "<unk>"}}


def write_text(folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    files = {"config.json": config(), "tokenizer.json": tokenizer(),
             "generation_config.json": {**IDS, "do_sample": False, "max_length": 16384},
             "tokenizer_config.json": {
                 "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>",
                 "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>",
                 "add_bos_token": False, "add_eos_token": False, "model_max_length": 16384,
                 "clean_up_tokenization_spaces": False}}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1) + "\n")


def hf_weights(state: dict) -> dict:
    """train.Model's names to transformers' names, rounded to bf16."""
    import torch

    names = {"n1": "input_layernorm", "n2": "post_attention_layernorm", "q": "self_attn.q_proj",
             "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
             "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
    out = {"model.embed_tokens.weight": state["embed.weight"],
           "model.norm.weight": state["norm.weight"]}
    for name, tensor in state.items():
        if name.startswith("blocks."):
            _, layer, part, _ = name.split(".")
            out[f"model.layers.{layer}.{names[part]}.weight"] = tensor
    return {name: tensor.detach().to("cpu", torch.bfloat16).contiguous()
            for name, tensor in out.items()}


def write(state: dict, folder: pathlib.Path) -> None:
    from safetensors.torch import save_file

    write_text(folder)
    save_file(hf_weights(state), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)


def main() -> None:
    if sys.argv[1] == "--text-only":
        return write_text(pathlib.Path(sys.argv[2]))
    import torch

    write(torch.load(sys.argv[1], map_location="cpu")["model"], pathlib.Path(sys.argv[2]))


if __name__ == "__main__":
    main()
