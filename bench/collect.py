#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Joins what the GPU benchmarks printed into bench/results: one JSON file a benchmark.

Every line of the inputs is JSON with "bench"; the first of each input names the device, the commit
and the ceilings. attend: one entry a case with ours (by format, with and without holes) beside the
others'. Other benchmarks' lines are kept as they are.

  attend_bench > ours.jsonl; python3 bench/attend_flashinfer.py > others.jsonl
  python3 bench/collect.py ours.jsonl others.jsonl
"""
import argparse
import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
CASE = ("shape", "batch", "live")
DROPPED = {"bench", "engine", "format", *CASE, "holes", "refused"}


def read_lines(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]


def join_attend(lines: list[dict]) -> dict:
    """{device..., others: {...}, cases: [{shape, batch, live, palimpsest: {...}, ...}]}"""
    heads = [line for line in lines if "device" in line]
    ours = next((head for head in heads if "commit" in head), None)
    if ours is None:
        sys.exit("collect: nothing of attend_bench among the inputs; others are joined to it")
    result = dict(ours)
    for head in heads:
        if "commit" not in head:
            if head["device"] != result["device"]:
                sys.exit(f"collect: {head['device']} and {result['device']} are two devices")
            result["others"] = {k: v for k, v in head.items() if k not in ("bench", "device")}
    result["summary"] = next((l for l in lines if l.get("summary")), None)
    cases: dict[tuple, dict] = {}
    for line in lines:
        if "engine" not in line:
            continue
        case = cases.setdefault(tuple(line[k] for k in CASE), {k: line[k] for k in CASE})
        name = line["format"] + (" holes" if line["holes"] else "")
        case.setdefault(line["engine"], {})[name] = {
            k: v for k, v in line.items() if k not in DROPPED}
    result["cases"] = list(cases.values())
    return result


def write(path: pathlib.Path, result: dict) -> None:
    """One line a case: files that can be compared by eye and by diff."""
    lists = {k: v for k, v in result.items() if isinstance(v, list)}
    head = json.dumps({k: v for k, v in result.items() if k not in lists}, indent=1)[:-2]
    for name, rows in lists.items():
        body = ",\n".join("  " + json.dumps(row) for row in rows)
        head += f',\n "{name}": [\n{body}\n ]'
    path.write_text(head + "\n}\n")
    print(f"wrote {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results")
    options = parser.parse_args()
    lines = [line for path in options.inputs for line in read_lines(path)]
    options.out.mkdir(parents=True, exist_ok=True)
    for bench in dict.fromkeys(line["bench"] for line in lines):
        mine = [line for line in lines if line["bench"] == bench]
        if bench == "attend":
            result = join_attend(mine)
        else:
            head = next((line for line in mine if "device" in line), {})
            result = {**head, "cases": [{k: v for k, v in line.items() if k != "bench"}
                                        for line in mine if line is not head]}
        write(options.out / f"{bench}.json", result)


if __name__ == "__main__":
    main()
