# SPDX-License-Identifier: Apache-2.0
"""The two scripts that make the documents' tables, from a run to tables and pictures, in a copy of
what they read and write. Runs are the smallest that there are, by the reasoner on the CPU.

Usage: judges_test.py ROOT BIN
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT, BIN = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
EVAL = "lab/eval/reasoner_table.sh"
JUDGE = "lab/likelihood/judge_smollm2.sh"
WRITTEN = ("bench", "docs")
READ = ("lab/reasoner", "lab/likelihood/texts", "kernels")
TEXTS = {"one": "<bos> goal 22 [ 30 11 9 6 ] " * 50, "two": "<bos> goal 38 [ 27 26 5 2 ] " * 50}


def make_copy(tree: pathlib.Path) -> None:
    for name in WRITTEN:
        shutil.copytree(ROOT / name, tree / name)
    for name in READ:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).symlink_to(ROOT / name)
    for name in ("README.md", EVAL, JUDGE):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)


def run(tree: pathlib.Path, *command: str, code: int = 0, **environment: str) -> str:
    done = subprocess.run(command, cwd=tree, text=True, capture_output=True, timeout=200,
                          env={**os.environ, "PALIMPSEST_BIN": str(BIN),
                               "PALIMPSEST_DATA": str(tree), **environment})
    assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def usage_is_told(tree: pathlib.Path) -> None:
    for script in (EVAL, JUDGE):
        for arguments in ((), ("run",), ("report",), ("measure", "x")):
            assert f"{script} report" in run(tree, script, *arguments, code=2)


def the_reasoners_table(tree: pathlib.Path) -> None:
    run(tree, EVAL, "run", "out.jsonl", "--max-tokens", "700", "--device", "cpu",
        "--problems", "lab/reasoner/problems/short.jsonl", POLICIES="full,window", BYTES="60",
        PROBLEMS="1", BATCH="2", POOL="64MiB")
    run(tree, EVAL, "report", "eval", "out.jsonl")
    points = (tree / "bench/results/eval.jsonl").read_text().splitlines()
    assert [json.loads(line)["policy"] for line in points[1:]] == ["full", "window"], points
    assert "1 problem of lab/reasoner/problems/short.jsonl" in (tree / "README.md").read_text()
    assert "</svg>" in (tree / "docs/pictures/eval-accuracy.svg").read_text()


def the_language_models_tables(tree: pathlib.Path) -> None:
    (tree / "texts").mkdir()
    for name, text in TEXTS.items():
        (tree / f"texts/{name}.txt").write_text(text)
    likelihood = (str(BIN / "palimpsest"), "likelihood", "--model", "lab/reasoner/model", "--texts",
                  "texts", "--device", "cpu", "--prompt-tokens", "16", "--results", "raw.jsonl",
                  "--text-tokens", "400", "--bytes", "60", "--quiet")
    run(tree, *likelihood, "--policy", "anticipate,window", "--formats", "nvfp4", "--rotate-keys")
    run(tree, *likelihood, "--policy", "window")
    # As if the text were as long as those of the tables.
    raw = (tree / "raw.jsonl").read_text()
    assert raw.count('"tokens":400,') == 6, raw
    (tree / "raw.jsonl").write_text(raw.replace('"tokens":400,', '"tokens":4096,'))
    run(tree, JUDGE, "report", "raw.jsonl", FOUR_BITS="nvfp4", MACHINE="some CPU")
    points = (tree / "bench/results/likelihood-4096.jsonl").read_text().splitlines()
    policies = sorted(json.loads(line)["policy"] for line in points[1:])
    assert policies == ["anticipate", "window", "window"], points
    assert "some CPU" in (tree / "docs/likelihood.md").read_text()
    for name in ("own", "same"):
        assert "</svg>" in (tree / f"docs/pictures/likelihood-{name}.svg").read_text()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        tree = pathlib.Path(folder)
        make_copy(tree)
        usage_is_told(tree)
        the_reasoners_table(tree)
        the_language_models_tables(tree)
    print("both judges' scripts make their tables")


if __name__ == "__main__":
    main()
