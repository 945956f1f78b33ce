# SPDX-License-Identifier: Apache-2.0
"""Makes the texts that `palimpsest likelihood` has a language model read, and those that
`palimpsest calibrate --texts` learns from. The same Python gives the same bytes.

    python3.11 make_texts.py      # writes texts/ and calibration/ beside this file

Prose and code are cut from Python 3.11's own documentation and standard library (PSF licence, kept
beside this file); reasoning, dialogue and tables are made here (texts_made.py). What is in one
folder is not in the other: other chapters, other modules, other seeds.
"""
from __future__ import annotations

import os
import pathlib
import sys

from pydoc_data.topics import topics

import texts_made as made

HERE = pathlib.Path(__file__).resolve().parent
LIBRARY = pathlib.Path(os.__file__).parent
PROSE_BYTES, CODE_BYTES = 20_000, 18_000

JUDGED = {"prose": ["specialnames", "compound", "debugger", "formatstrings"],
          "code": ["heapq", "textwrap", "fractions", "calendar"]}
CALIBRATION = {"prose": ["types", "string-methods"], "code": ["configparser", "statistics"]}
MADE = {"reasoning-search": made.search, "reasoning-equations": made.equations,
        "reasoning-number": made.number_theory, "reasoning-order": made.ordering,
        "dialogue-shop": made.shop, "dialogue-lesson": made.lesson,
        "table-stock": made.stock, "table-log": made.log}
CALIBRATED_MADE = ["reasoning-search", "reasoning-equations", "dialogue-shop", "table-stock"]


def whole_lines(text: str, size: int) -> str:
    return text if len(text) <= size else text[:text.rindex("\n", 0, size) + 1]


def clean(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines()) + "\n"


def write(folder: pathlib.Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.txt").write_text(clean(text), encoding="utf-8")


def taken(folder: pathlib.Path, sources: dict[str, list[str]]) -> None:
    for topic in sources["prose"]:
        write(folder, f"prose-{topic}", whole_lines(topics[topic], PROSE_BYTES))
    for module in sources["code"]:
        code = (LIBRARY / f"{module}.py").read_text(encoding="utf-8")
        write(folder, f"code-{module}", whole_lines(code, CODE_BYTES))


def main() -> None:
    if sys.version_info[:2] != (3, 11):
        raise SystemExit("these texts are those of Python 3.11")
    taken(HERE / "texts", JUDGED)
    taken(HERE / "calibration", CALIBRATION)
    for name, make in MADE.items():
        write(HERE / "texts", name, make(seed=1))
    for name in CALIBRATED_MADE:
        write(HERE / "calibration", name, MADE[name](seed=2))


if __name__ == "__main__":
    main()
