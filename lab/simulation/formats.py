# SPDX-License-Identifier: Apache-2.0
"""What a format makes of K or V: quantised and read back, in fp32. One scale a token and 16
channels, stored as E4M3 beside a constant power of two per format.

`scale:X` is no format but a test of an explanation: bf16 values times X (docs/anticipate.md).
"""
from __future__ import annotations

import torch

_FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_TERNARY_THRESHOLD = 0.7  # of the mean absolute value
_TERNARY_SHRINKS_TO = 0.857  # of the norm, on the reasoner's values


def _e4m3(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(max=448).to(torch.float8_e4m3fn).float()


def _fp8(x: torch.Tensor) -> torch.Tensor:
    scale = _e4m3(x.abs().amax(-1, keepdim=True) / 448 * 256) / 256
    grid = (x / scale.clamp(min=1e-12)).clamp(-448, 448).to(torch.float8_e4m3fn).float()
    return grid * scale


def _nvfp4(x: torch.Tensor) -> torch.Tensor:
    grid = torch.tensor(_FP4, device=x.device)
    scale = _e4m3(x.abs().amax(-1, keepdim=True) / 6 * 4) / 4
    size = (x / scale.clamp(min=1e-12)).abs().contiguous()
    return grid[torch.bucketize(size, (grid[1:] + grid[:-1]) / 2)] * x.sign() * scale


def _integer(x: torch.Tensor, largest: int) -> torch.Tensor:
    scale = _e4m3(x.abs().amax(-1, keepdim=True) / largest * 4) / 4
    return (x / scale.clamp(min=1e-12)).round().clamp(-largest, largest) * scale


def _ternary(x: torch.Tensor) -> torch.Tensor:
    size = x.abs()
    kept = (size > _TERNARY_THRESHOLD * size.mean(-1, keepdim=True)).float()
    mean = (size * kept).sum(-1, keepdim=True) / kept.sum(-1, keepdim=True).clamp(min=1)
    return x.sign() * kept * (_e4m3(mean * 4) / 4)


_BLOCKS = {
    "fp8": _fp8,
    "nvfp4": _nvfp4,
    "int3": lambda x: _integer(x, 3),  # -3..3
    "int2": lambda x: _integer(x, 1),  # -1..1, scaled by the largest: not ternary
    "ternary": _ternary,
    "ternary_unbiased": lambda x: _ternary(x) / _TERNARY_SHRINKS_TO,
}
FORMATS = ("bf16", *_BLOCKS)


def is_format(name: str) -> bool:
    return name in FORMATS or name.startswith("scale:")


def stored(x: torch.Tensor, name: str) -> torch.Tensor:
    """x [..., dim] as it is read back from a cache of this format."""
    if name == "bf16":
        return x.to(torch.bfloat16).float()
    if name.startswith("scale:"):
        return x.to(torch.bfloat16).float() * float(name[len("scale:"):])
    return _BLOCKS[name](x.reshape(*x.shape[:-1], -1, 16)).reshape(x.shape)
