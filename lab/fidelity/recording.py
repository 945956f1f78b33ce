# SPDX-License-Identifier: Apache-2.0
"""What the engine saw and which tokens survived: the file of tests/fidelity/record_survivors.cc."""
from __future__ import annotations

import json
import pathlib
from dataclasses import dataclass

import numpy as np


@dataclass
class Recording:
    """One sequence. Positions count its tokens from 0, the prompt's first."""

    spec: dict  # budget_tokens, window_tokens, retention, sparsity_layers, theta
    prompt_tokens: int
    step_tokens: list[int]  # tokens each step appended: pieces of the prompt, then one at a time
    q: np.ndarray  # [positions, layers, query_heads, D], after RoPE
    new_k: np.ndarray  # [positions, layers, kv_heads, D], after RoPE, as appended to the open group
    new_v: np.ndarray  # [positions, layers, kv_heads, D]
    k: np.ndarray  # the same as read back from the cache, of whole groups of tokens
    v: np.ndarray
    live: np.ndarray  # [steps, layers, kv_heads, positions]: what survived each step
    sparsity: np.ndarray  # [refreshes, sparsity_layers], as measured
    inverse_frequencies: np.ndarray  # [D / 2], of RoPE
    codebook: np.ndarray  # [layers, query_heads, queries, D], before RoPE
    lane_shares: np.ndarray  # [layers, kv_heads], of the codebook; all 1 where it has none

    @property
    def layers(self) -> int:
        return self.new_k.shape[1]

    @property
    def kv_heads(self) -> int:
        return self.new_k.shape[2]

    @property
    def head_dim(self) -> int:
        return self.new_k.shape[3]

    @property
    def group(self) -> int:
        """Query heads that share a KV head."""
        return self.q.shape[2] // self.kv_heads

    def queries_of(self, kv_head: int) -> slice:
        """The query heads of a KV head."""
        return slice(kv_head * self.group, (kv_head + 1) * self.group)

    def lanes(self):
        """Every (layer, KV head)."""
        return ((layer, head) for layer in range(self.layers) for head in range(self.kv_heads))


def _read_array(entry: dict, data: bytes, offset: int) -> tuple[np.ndarray, int]:
    stored = np.dtype("<u2" if entry["type"] == "bf16" else entry["type"])
    array = np.frombuffer(data, stored, entry["count"], offset)
    end = offset + array.nbytes
    if entry["type"] == "bf16":  # the upper half of a float
        array = (array.astype("<u4") << 16).view("<f4")
    return array, end


def read(path: str | pathlib.Path) -> Recording:
    data = pathlib.Path(path).read_bytes()
    header_end = data.index(b"\n") + 1
    header = json.loads(data[:header_end])
    arrays, offset = {}, header_end
    for entry in header["arrays"]:
        arrays[entry["name"]], offset = _read_array(entry, data, offset)
    layers, dim = header["layers"], header["head_dim"]
    query_heads, kv_heads = header["query_heads"], header["kv_heads"]
    # What survived the last step was not seen any more.
    step_tokens = arrays["step_tokens"][:-1].tolist()
    positions = sum(step_tokens)

    def rows(name: str, heads: int) -> np.ndarray:
        return arrays[name].reshape(-1, layers, heads, dim)[:positions].astype(np.float64)

    live = np.unpackbits(
        arrays["live"].reshape(len(step_tokens), layers, kv_heads, -1), axis=-1, bitorder="little")
    return Recording(
        spec=header,
        prompt_tokens=header["prompt_tokens"],
        step_tokens=step_tokens,
        q=rows("q", query_heads),
        new_k=rows("k", kv_heads),
        new_v=rows("v", kv_heads),
        k=rows("stored_k", kv_heads),
        v=rows("stored_v", kv_heads),
        live=live[..., :positions].astype(bool),
        sparsity=arrays["sparsity"].reshape(-1, max(1, len(header["sparsity_layers"]))),
        inverse_frequencies=arrays["inverse_frequencies"].astype(np.float64),
        codebook=arrays["codebook"].reshape(layers, query_heads, -1, dim).astype(np.float64),
        lane_shares=_shares(arrays["lane_shares"], layers, kv_heads))


def _shares(stored: np.ndarray, layers: int, kv_heads: int) -> np.ndarray:
    shares = stored.astype(np.float64) if len(stored) > 0 else np.ones(layers * kv_heads)
    return shares.reshape(layers, kv_heads)
