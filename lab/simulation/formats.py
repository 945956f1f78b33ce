# SPDX-License-Identifier: Apache-2.0
"""What a format makes of K or V: quantised and read back, in fp32; and what it takes.

Sixteen elements share a scale, stored as E4M3 beside a constant power of two per format. They are
either 16 channels of one token or one channel of 16 consecutive tokens (SCALES), both at the same
bytes. The engine has the former with bf16, fp8, nvfp4, int4 and ternary.

`scale:X` is no format but a test of an explanation: bf16 values times X (docs/anticipate.md).
"""
from __future__ import annotations

import dataclasses
from typing import Callable

import torch

BLOCK_ELEMENTS = 16  # that share a scale
SCALES = ("token", "channel")  # whose 16 elements share one

_FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_TERNARY_THRESHOLD = 0.7  # of the mean absolute value
_TERNARY_SHRINKS_TO = 0.857  # of the norm, on the reasoner's values
_LEAST_SCALE = 1e-12  # instead of 0, to divide by
_OFFSET_MAX = 112  # in steps; 127 less what E4M3 takes from a scale


def _e4m3(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(max=448).to(torch.float8_e4m3fn).float()


def _scale(x: torch.Tensor) -> torch.Tensor:
    """As it is stored by all but fp8."""
    return _e4m3(x * 4) / 4


def _largest(x: torch.Tensor) -> torch.Tensor:
    return x.abs().amax(-1, keepdim=True)


def _fp8(x: torch.Tensor) -> torch.Tensor:
    scale = _e4m3(_largest(x) / 448 * 256) / 256
    grid = (x / scale.clamp(min=_LEAST_SCALE)).clamp(-448, 448).to(torch.float8_e4m3fn).float()
    return grid * scale


def _nvfp4(x: torch.Tensor) -> torch.Tensor:
    grid = torch.tensor(_FP4, device=x.device)
    scale = _scale(_largest(x) / 6)
    size = (x / scale.clamp(min=_LEAST_SCALE)).abs().contiguous()
    return grid[torch.bucketize(size, (grid[1:] + grid[:-1]) / 2)] * x.sign() * scale


def _odd(x: torch.Tensor, most: int) -> torch.Tensor:
    """-most .. most steps: zero is one of the levels, and one code of 2^n is never used."""
    scale = _scale(_largest(x) / most)
    return (x / scale.clamp(min=_LEAST_SCALE)).round().clamp(-most, most) * scale


def _even(x: torch.Tensor, most: float, of_largest: float) -> torch.Tensor:
    """-most .. most in whole steps, most = 1.5, 3.5: all 2^n codes, and no zero. `most` stands for
    a share of the largest element, chosen for the least squared error of normal ones."""
    scale = _scale(_largest(x) * of_largest / most)
    size = x / scale.clamp(min=_LEAST_SCALE)
    return (size.floor() + 0.5).clamp(-most, most) * scale


def _offset(x: torch.Tensor, levels: int) -> torch.Tensor:
    """From the block's least to its largest element, as KIVI has it. The least one is stored as a
    whole number of steps, of 8 bits, beside the scale."""
    least, largest = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    step = torch.maximum((largest - least) / (levels - 1), least.abs() / _OFFSET_MAX)
    scale = _scale(step)
    divisor = scale.clamp(min=_LEAST_SCALE)
    zero = (least / divisor).round().clamp(-127, 127)
    return (((x / divisor).round() - zero).clamp(0, levels - 1) + zero) * scale


def _ternary(x: torch.Tensor) -> torch.Tensor:
    size = x.abs()
    kept = (size > _TERNARY_THRESHOLD * size.mean(-1, keepdim=True)).float()
    mean = (size * kept).sum(-1, keepdim=True) / kept.sum(-1, keepdim=True).clamp(min=1)
    return x.sign() * kept * _scale(mean)


@dataclasses.dataclass(frozen=True)
class _Format:
    bits: int  # an element, as it would be stored
    beside: int  # bytes a block: its scale, and an offset
    read_back: Callable[[torch.Tensor], torch.Tensor]  # [..., BLOCK_ELEMENTS]


_FORMATS = {
    "bf16": _Format(16, 0, lambda x: x.to(torch.bfloat16).float()),
    "fp8": _Format(8, 1, _fp8),
    "nvfp4": _Format(4, 1, _nvfp4),
    "int4": _Format(4, 1, lambda x: _odd(x, 7)),
    "int3": _Format(3, 1, lambda x: _odd(x, 3)),
    "even3": _Format(3, 1, lambda x: _even(x, 3.5, 0.9)),
    "offset3": _Format(3, 2, lambda x: _offset(x, 8)),
    "ternary": _Format(2, 1, _ternary),
    "int2": _Format(2, 1, lambda x: _odd(x, 1)),  # scaled by the largest: not ternary
    "even2": _Format(2, 1, lambda x: _even(x, 1.5, 0.72)),
    "offset2": _Format(2, 2, lambda x: _offset(x, 4)),
    "ternary_unbiased": _Format(2, 1, lambda x: _ternary(x) / _TERNARY_SHRINKS_TO),
}
FORMATS = tuple(_FORMATS)


def is_format(name: str) -> bool:
    return name in FORMATS or name.startswith("scale:")


def bytes_of(name: str, elements: int) -> tuple[float, float]:
    """Data and what lies beside it, of `elements` elements; a multiple of BLOCK_ELEMENTS."""
    kind = _FORMATS["bf16" if name.startswith("scale:") else name]
    return elements * kind.bits / 8, elements // BLOCK_ELEMENTS * kind.beside


def stored(x: torch.Tensor, name: str, scales: str = "token") -> torch.Tensor:
    """x [..., tokens, dim] as it is read back from a cache of this format. Where a scale is a
    channel's, tokens are a multiple of BLOCK_ELEMENTS, the first of a group at the front."""
    if name.startswith("scale:"):
        return x.to(torch.bfloat16).float() * float(name[len("scale:"):])
    read_back = _FORMATS[name].read_back
    if scales == "token":
        return read_back(x.unflatten(-1, (-1, BLOCK_ELEMENTS))).reshape(x.shape)
    groups = x.unflatten(-2, (-1, BLOCK_ELEMENTS)).transpose(-1, -2)
    return read_back(groups.contiguous()).transpose(-1, -2).reshape(x.shape)
