# SPDX-License-Identifier: Apache-2.0
"""Confusion matrices as plain SVG: a grid of them, each cell a share of its true kind."""
from __future__ import annotations

import numpy as np

_CELL, _GAP, _LEFT, _TOP, _HEAD = 26, 14, 24, 36, 46


def _matrix(left: float, top: float, name: str, shares: np.ndarray, kinds: str) -> list[str]:
    middle = left + _CELL * len(kinds) / 2
    out = [f'<text x="{middle}" y="{top - 17}" text-anchor="middle">{name}</text>']
    for i, kind in enumerate(kinds):
        at = _CELL * i + _CELL / 2
        out += [f'<text x="{left + at}" y="{top - 3}" text-anchor="middle" '
                f'fill="#718096">{kind}</text>',
                f'<text x="{left - 4}" y="{top + at + 4}" text-anchor="end" '
                f'fill="#718096">{kind}</text>']
    for (row, column), share in np.ndenumerate(shares):
        x, y = left + _CELL * column, top + _CELL * row
        colour = "#2f855a" if row == column else "#c05621"
        out += [f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" fill="{colour}" '
                f'fill-opacity="{0.85 * share:.2f}" stroke="#e2e8f0"/>',
                f'<text x="{x + _CELL / 2}" y="{y + _CELL / 2 + 4}" text-anchor="middle" '
                f'fill="{"#ffffff" if share > 0.6 else "#1a202c"}">{100 * share:.0f}</text>']
    return out


def draw(title: str, rows: dict[str, dict[str, np.ndarray]], kinds: str) -> str:
    """rows: by title, matrices by name, counts [true kind, answer]."""
    side = _CELL * len(kinds)
    step_x, step_y = side + _GAP + _LEFT, side + _GAP + _HEAD
    width = _GAP + max(map(len, rows.values())) * step_x
    height = _TOP + len(rows) * step_y
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
           'font-family="sans-serif" font-size="11" fill="#1a202c">',
           f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
           f'<text x="{_GAP}" y="20" font-size="14">{title}</text>']
    for i, (heading, matrices) in enumerate(rows.items()):
        top = _TOP + i * step_y + _HEAD
        out.append(f'<text x="{_GAP}" y="{top - 36}" font-weight="bold">{heading}</text>')
        for j, (name, counts) in enumerate(matrices.items()):
            shares = counts / counts.sum(1, keepdims=True)
            out += _matrix(_LEFT + j * step_x, top, name, shares, kinds)
    return "\n".join([*out, "</svg>", ""])
