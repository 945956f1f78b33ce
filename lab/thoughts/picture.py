# SPDX-License-Identifier: Apache-2.0
"""Plain SVG: panels side by side, in each the same lines by name."""
from __future__ import annotations

import dataclasses

import numpy as np

_WIDTH, _HEIGHT, _GAP, _LEFT, _TOP = 200, 120, 44, 44, 56


@dataclasses.dataclass(frozen=True)
class Axes:
    """The panels' own, all alike."""

    x: np.ndarray
    x_ticks: dict[float, str]
    y_min: float
    y_max: float
    x_label: str


def _panel(left: float, top: float, title: str, lines: np.ndarray, colours: list[str], axes: Axes
           ) -> list[str]:
    def at(x: float) -> float:
        return left + _WIDTH * (x - axes.x[0]) / (axes.x[-1] - axes.x[0])

    out = [f'<rect x="{left}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" '
           'stroke="#a0aec0"/>',
           f'<text x="{left}" y="{top - 5}">{title}</text>',
           f'<text x="{left - 4}" y="{top + 9}" text-anchor="end">{axes.y_max:.3g}</text>',
           f'<text x="{left - 4}" y="{top + _HEIGHT}" text-anchor="end">{axes.y_min:.3g}</text>']
    out += [f'<text x="{at(x):.1f}" y="{top + _HEIGHT + 13}" text-anchor="middle">{text}</text>'
            for x, text in axes.x_ticks.items()]
    out.append(f'<text x="{left + _WIDTH / 2}" y="{top + _HEIGHT + 26}" text-anchor="middle">'
               f'{axes.x_label}</text>')
    for colour, y in zip(colours, lines):
        share = np.clip((y - axes.y_min) / (axes.y_max - axes.y_min), 0, 1)
        points = [f"{at(a):.1f},{top + _HEIGHT * (1 - b):.1f}"
                  for a, b in zip(axes.x, share) if np.isfinite(b)]
        out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" '
                   f'points="{" ".join(points)}"/>')
    return out


def draw(title: str, panels: dict[str, np.ndarray], legend: dict[str, str], axes: Axes,
         columns: int = 4) -> str:
    """panels: by title [lines, len(axes.x)], NaN where there is nothing; legend: a colour by name,
    in the order of the lines."""
    rows = -(-len(panels) // columns)
    width = _LEFT + columns * (_WIDTH + _GAP)
    height = _TOP + rows * (_HEIGHT + _GAP) + 14 * len(legend)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
           'font-family="sans-serif" font-size="11" fill="#1a202c">',
           f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
           f'<text x="{_LEFT}" y="18" font-size="14">{title}</text>']
    for i, (name, lines) in enumerate(panels.items()):
        left = _LEFT + (i % columns) * (_WIDTH + _GAP)
        top = _TOP + (i // columns) * (_HEIGHT + _GAP)
        out += _panel(left, top, name, lines, list(legend.values()), axes)
    for i, (name, colour) in enumerate(legend.items()):
        y = _TOP + rows * (_HEIGHT + _GAP) + 14 * i
        out += [f'<line x1="{_LEFT}" x2="{_LEFT + 20}" y1="{y - 4}" y2="{y - 4}" '
                f'stroke="{colour}" stroke-width="2"/>',
                f'<text x="{_LEFT + 26}" y="{y}">{name}</text>']
    return "\n".join([*out, "</svg>", ""])
