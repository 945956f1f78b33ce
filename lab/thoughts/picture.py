# SPDX-License-Identifier: Apache-2.0
"""Plain SVG: one panel a layer, one line a kind of thought."""
from __future__ import annotations

import numpy as np

from .windows import KINDS

_COLOURS = {"E": "#2b6cb0", "R": "#c05621", "T": "#2f855a"}
_WIDTH, _HEIGHT, _GAP, _LEFT, _TOP, _COLUMNS = 200, 120, 44, 44, 56, 4


def _panel(left: float, top: float, title: str, lines: dict[str, np.ndarray], x: np.ndarray,
           x_label: str, y_max: float) -> list[str]:
    out = [f'<rect x="{left}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" '
           'stroke="#a0aec0"/>',
           f'<text x="{left}" y="{top - 5}">{title}</text>',
           f'<text x="{left - 4}" y="{top + 9}" text-anchor="end">{y_max:.3g}</text>',
           f'<text x="{left - 4}" y="{top + _HEIGHT}" text-anchor="end">0</text>',
           f'<text x="{left}" y="{top + _HEIGHT + 13}">{x[0]:.3g}</text>',
           f'<text x="{left + _WIDTH}" y="{top + _HEIGHT + 13}" text-anchor="end">{x[-1]:.3g} '
           f'{x_label}</text>']
    for kind, y in lines.items():
        points = [f"{left + _WIDTH * (a - x[0]) / (x[-1] - x[0]):.1f},"
                  f"{top + _HEIGHT * (1 - min(b / y_max, 1)):.1f}"
                  for a, b in zip(x, y) if np.isfinite(b)]
        out.append(f'<polyline fill="none" stroke="{_COLOURS[kind]}" stroke-width="1.5" '
                   f'points="{" ".join(points)}"/>')
    return out


def draw(title: str, values: np.ndarray, x: np.ndarray, x_label: str,
         y_max: float | None = None) -> str:
    """values [layers, kinds, len(x)]; y_max: of every panel, else each panel's own."""
    layers = len(values)
    rows = -(-layers // _COLUMNS)
    width = _LEFT + _COLUMNS * (_WIDTH + _GAP)
    height = _TOP + rows * (_HEIGHT + _GAP)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
           'font-family="sans-serif" font-size="11" fill="#1a202c">',
           f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
           f'<text x="{_LEFT}" y="18" font-size="14">{title}</text>']
    for i, kind in enumerate(KINDS):
        out.append(f'<text x="{width - 120 + 30 * i}" y="18" font-size="14" '
                   f'fill="{_COLOURS[kind]}">{kind}</text>')
    for layer in range(layers):
        left = _LEFT + (layer % _COLUMNS) * (_WIDTH + _GAP)
        top = _TOP + (layer // _COLUMNS) * (_HEIGHT + _GAP)
        lines = dict(zip(KINDS, values[layer]))
        top_value = y_max or float(np.nanmax(values[layer])) or 1.0
        out += _panel(left, top, f"layer {layer}", lines, x, x_label, top_value)
    return "\n".join([*out, "</svg>", ""])
