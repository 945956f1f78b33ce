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
PROSE_SIZES = {"texts": 37_500, "calibration": 20_000}  # characters
CODE_SIZES = {"texts": 35_000, "calibration": 18_000}

# A text has the name of the first chapter or module; the others follow where it is too short.
PROSE = {"texts": [["specialnames"], ["compound"], ["debugger", "execmodel", "import"],
                   ["formatstrings", "strings", "operator-summary"]],
         "calibration": [["types"], ["string-methods"]]}
CODE = {"texts": [["heapq", "bisect", "queue"], ["textwrap", "string", "reprlib"],
                  ["fractions", "operator"], ["calendar", "sched"]],
        "calibration": [["configparser"], ["statistics"]]}
JUDGED_MADE = {"reasoning-search": (made.search, 18_500),
               "reasoning-equations": (made.equations, 18_000),
               "reasoning-number": (made.number_theory, 19_500),
               "reasoning-order": (made.ordering, 30_500),
               "dialogue-shop": (made.shop, 25_000), "dialogue-lesson": (made.lesson, 16_500),
               "table-stock": (made.stock, 17_000), "table-log": (made.log, 13_000)}
CALIBRATED_MADE = {"reasoning-search": (made.search, 15_000),
                   "reasoning-equations": (made.equations, 14_000),
                   "dialogue-shop": (made.shop, 18_000), "table-stock": (made.stock, 12_000)}


def whole_lines(text: str, size: int) -> str:
    return text if len(text) <= size else text[:text.rindex("\n", 0, size) + 1]


def clean(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines()) + "\n"


def write(folder: pathlib.Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.txt").write_text(clean(text), encoding="utf-8")


def make(folder: str, made_texts: dict, seed: int) -> None:
    for chapters in PROSE[folder]:
        prose = "\n\n".join(topics[chapter] for chapter in chapters)
        write(HERE / folder, f"prose-{chapters[0]}", whole_lines(prose, PROSE_SIZES[folder]))
    for modules in CODE[folder]:
        code = "\n\n".join((LIBRARY / f"{module}.py").read_text("utf-8") for module in modules)
        write(HERE / folder, f"code-{modules[0]}", whole_lines(code, CODE_SIZES[folder]))
    for name, (maker, size) in made_texts.items():
        write(HERE / folder, name, maker(seed, size))


def main() -> None:
    if sys.version_info[:2] != (3, 11):
        raise SystemExit("these texts are those of Python 3.11")
    make("texts", JUDGED_MADE, seed=1)
    make("calibration", CALIBRATED_MADE, seed=2)


if __name__ == "__main__":
    main()
