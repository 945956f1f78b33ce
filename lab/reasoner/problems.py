# SPDX-License-Identifier: Apache-2.0
"""Writes problems/heldout.jsonl, short.jsonl and calibration.jsonl: fixed, never trained on.

Deterministic, so running it again changes nothing. Problems of one length class keep the order
they were drawn in; the classes are interleaved so that any prefix has the mix of the whole.
"""
from __future__ import annotations

import json
import pathlib
import random

import countdown

HELD_OUT = [(400, 1000, 32), (1000, 2000, 112), (2000, 4000, 160), (4000, 8000, 128),
            (8000, 12288, 40), (12288, 16385, 40)]  # [shortest, longest) chain, how many
SHORT = [(400, 700, 16), (700, 1000, 16), (1000, 1400, 16), (1400, 2001, 16)]
# What `palimpsest calibrate` runs; 250,000 tokens. Apart from the other two, on which the policies
# that use a calibration are judged.
CALIBRATION = [(400, 1000, 8), (1000, 2000, 14), (2000, 4000, 20), (4000, 8000, 16),
               (8000, 12288, 4), (12288, 16385, 2)]


def draw(classes: list[tuple[int, int, int]], seed: int, name: str,
         taken: set[tuple]) -> list[dict]:
    """Solvable held-out problems filling every class, none of them in `taken` (which grows)."""
    rng = random.Random(seed)
    found: list[list[dict]] = [[] for _ in classes]
    while any(len(f) < c[2] for f, c in zip(found, classes)):
        numbers, goal = countdown.sample(rng, rng.choice((4, 5)))
        key = (goal, *numbers)
        if key in taken or not countdown.is_held_out(numbers, goal):
            continue
        chain = countdown.solve(numbers, goal)
        if chain is None:
            continue
        length = len(chain.tokens)
        for f, (low, high, count) in zip(found, classes):
            if low <= length < high and len(f) < count:
                taken.add(key)
                f.append({"numbers": numbers, "goal": goal,
                          "prompt": countdown.to_text(countdown.prompt_ids(numbers, goal)),
                          "chain_tokens": length})
    order = sorted(((i + 0.5) / len(f), c, i) for c, f in enumerate(found) for i in range(len(f)))
    return [{"id": f"{name}-{at:03d}", **found[c][i]} for at, (_, c, i) in enumerate(order)]


def main() -> None:
    folder = pathlib.Path(__file__).parent / "problems"
    folder.mkdir(exist_ok=True)
    taken: set[tuple] = set()
    for name, classes, seed in (("heldout", HELD_OUT, 1), ("short", SHORT, 2),
                                ("calibration", CALIBRATION, 3)):
        lines = [json.dumps(p) + "\n" for p in draw(classes, seed, name, taken)]
        (folder / f"{name}.jsonl").write_text("".join(lines))
        print(name, len(lines))


if __name__ == "__main__":
    main()
