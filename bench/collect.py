#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Joins what the GPU benchmarks printed into bench/results: one JSON file a benchmark.

Every line of the inputs is JSON with "bench"; the first of each input names the device, the commit
and the ceilings. attend: one entry a case with ours (by format, with and without holes) beside the
others'. Other benchmarks' lines are kept as they are.

What is there already is not lost by a run of less: the others' times stay, with the commit they
were measured beside, when an input has none; and a file with cases that the inputs lack is only
replaced with --replace.

  attend_bench > ours.jsonl; python3 bench/attend_flashinfer.py > others.jsonl
  python3 bench/collect.py ours.jsonl others.jsonl
"""
import argparse
import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
CASE = ("shape", "batch", "live")
SETTINGS = ("policy", "kind", "format", "method", "keys", "queries", "budget", "window")
DROPPED = {"bench", "engine", "format", *CASE, "holes", "refused"}


def read_lines(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]


def join_attend(lines: list[dict], old: dict) -> dict:
    """{device..., others: {...}, cases: [{shape, batch, live, palimpsest: {...}, ...}]}"""
    heads = [line for line in lines if "device" in line]
    result = dict(next(head for head in heads if "commit" in head))
    for head in heads:
        if "commit" not in head:
            if head["device"] != result["device"]:
                sys.exit(f"collect: {head['device']} and {result['device']} are two devices")
            result["others"] = {**{k: v for k, v in head.items() if k not in ("bench", "device")},
                                "commit": result["commit"]}
    result["summary"] = next((l for l in lines if l.get("summary")), None)
    cases: dict[tuple, dict] = {}
    for line in lines:
        if "engine" not in line:
            continue
        case = cases.setdefault(tuple(line[k] for k in CASE), {k: line[k] for k in CASE})
        name = line["format"] + (" holes" if line["holes"] else "")
        case.setdefault(line["engine"], {})[name] = {
            k: v for k, v in line.items() if k not in DROPPED}
    if "others" not in result and old.get("device") == result["device"]:
        keep_others(cases, result, old)
    result["cases"] = list(cases.values())
    return result


def keep_others(cases: dict[tuple, dict], result: dict, old: dict) -> None:
    """The old file's times of others, which a run of ours alone does not change."""
    if "others" not in old:
        return
    result["others"] = {"commit": old["commit"], **old["others"]}
    for former in old["cases"]:
        case = cases.get(tuple(former[k] for k in CASE))
        if case is not None:
            case.update({k: v for k, v in former.items() if k not in (*CASE, "palimpsest")})


def join_plain(lines: list[dict]) -> dict:
    head = next(line for line in lines if "commit" in line)
    return {**head, "cases": [{k: v for k, v in line.items() if k != "bench"}
                              for line in lines if line is not head]}


def identity(case: dict) -> tuple:
    """What was measured, without what came out; the largest batch is an outcome."""
    return tuple((k, case[k]) for k in (*CASE, *SETTINGS)
                 if k in case and (k, case.get("kind")) != ("batch", "largest"))


def lost_cases(old: dict, new: dict) -> list[dict]:
    kept = {identity(case) for case in new["cases"]}
    return [dict(identity(case)) for case in old.get("cases", ()) if identity(case) not in kept]


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
    parser.add_argument("--replace", action="store_true",
                        help="also where the old file has cases that the inputs lack")
    options = parser.parse_args()
    lines = [line for path in options.inputs for line in read_lines(path)]
    options.out.mkdir(parents=True, exist_ok=True)
    refused = []
    for bench in dict.fromkeys(line["bench"] for line in lines):
        mine = [line for line in lines if line["bench"] == bench]
        path = options.out / f"{bench}.json"
        old = json.loads(path.read_text()) if path.exists() else {}
        if not any("commit" in line for line in mine):
            refused.append(f"{path} stays: nothing of {bench}_bench among the inputs")
            continue
        result = join_attend(mine, old) if bench == "attend" else join_plain(mine)
        lost = lost_cases(old, result)
        if lost and not options.replace:
            refused.append(f"{path} stays: {len(lost)} of its cases were not measured now, as "
                           f"{lost[0]}; --replace drops them")
            continue
        write(path, result)
    if refused:
        sys.exit("\n".join(f"collect: {why}" for why in refused))


if __name__ == "__main__":
    main()
