#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the documents' tables of measurements from bench/results, so that they cannot say else.

Between `<!-- table NAME -->` and `<!-- /table -->` a document holds the table NAME (TABLES below).
Without options every such block is rewritten; with --check nothing is, and the exit code is 1 when
one would change. A block whose results are not there yet must be empty.
"""
import argparse
import json
import pathlib
import re
import sys

import likelihood_tables
from markdown_table import table
from targets_table import targets_table

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "bench/README.md", "docs/evaluation.md", "docs/likelihood.md",
             "kernels/README.md", "kernels/cuda/README.md")
BLOCK = re.compile(r"(<!-- table (?P<name>[\w-]+) -->\n)(?P<body>.*?)(<!-- /table -->)", re.DOTALL)
BATCH_MAX = 1024  # of throughput_bench, where its results do not tell
SHORT_CASES = (("32/8/128", 64, 1024), ("32/8/128", 64, 8192), ("32/8/128", 256, 4096),
               ("32/8/128", 512, 1024), ("12/2/128", 64, 1024), ("9/3/64", 64, 1024))


def us(entry: dict | None) -> str:
    if entry is None or "us" not in entry:
        return "–"
    return f"{entry['us']:,.0f}" if entry["us"] >= 100 else f"{entry['us']:.1f}"


def share(entry: dict | None) -> str:
    return "–" if entry is None or "us" not in entry else f"{entry['share_of_copy'] * 100:.0f} %"


def origin(result: dict) -> str:
    text = f"{result['device']}, commit {result['commit']}; copy ceiling {result['copy_gbps']:,.0f} GB/s"
    others = result.get("others", {})
    if others:
        text += "; " + ", ".join(f"{name} {version}" for name, version in others.items()
                                 if name not in ("copy_gbps", "commit"))
        if others.get("commit", result["commit"]) != result["commit"]:
            text += f", measured earlier, beside commit {others['commit']}"
    return text + ".\n"


def attend_rows(result: dict, wanted) -> list[list[str]]:
    rows = []
    for case in result["cases"]:
        if wanted is not None and (case["shape"], case["batch"], case["live"]) not in wanted:
            continue
        ours, infer = case.get("palimpsest", {}), case.get("flashinfer", {})
        nvfp4, rival = ours.get("nvfp4"), infer.get("bf16")
        ahead = "–"
        if nvfp4 and rival and "us" in nvfp4 and "us" in rival:
            ahead = f"{rival['us'] / nvfp4['us']:.1f}x"
        rows.append([f"{case['shape']}, {case['batch']} x {case['live']:,}",
                     f"{us(ours.get('bf16'))} · {share(ours.get('bf16'))}", us(rival),
                     us(case.get("torch", {}).get("bf16")),
                     f"{us(ours.get('fp8'))} · {share(ours.get('fp8'))}", us(infer.get("fp8")),
                     f"{us(nvfp4)} · {share(nvfp4)} · {ahead}", us(ours.get("nvfp4 holes")),
                     f"{us(ours.get('R4E4T2'))} · {share(ours.get('R4E4T2'))}"])
    return rows


def attend_table(result: dict, wanted=None) -> str:
    head = ["heads, batch x live tokens", "bf16", "FlashInfer bf16", "PyTorch bf16", "fp8",
            "FlashInfer fp8", "nvfp4 · vs FlashInfer bf16", "nvfp4, 25 % holes", "R4E4T2"]
    return ("Microseconds a layer · share of the copy ceiling. " + origin(result) + "\n" +
            table(head, attend_rows(result, wanted)))


def throughput_table(result: dict) -> str:
    head = ["batch", "policy", "tok/s", "vs full bf16", "ms a step", "on paper, ms", "live tokens",
            "footprint", f"pool, of {result['pool_gib']} GiB", "J / 1,000 tokens"]

    def group(case: dict):
        return case["kind"] if case["kind"] == "largest" else case["batch"]

    def batch(case: dict) -> str:
        if case["kind"] != "largest" or "batch" not in case:
            return str(case.get("batch", "the largest"))
        is_engines = case["batch"] == result.get("batch_max", BATCH_MAX)
        return f"{case['batch']}, {'all the engine takes' if is_engines else 'the largest'}"

    base = {group(case): case["tokens_per_s"] for case in result["cases"]
            if case["policy"] == "full bf16" and "tokens_per_s" in case}
    rows = []
    for case in sorted(result["cases"], key=lambda case: (
            case["kind"], case.get("batch", 0) * (case["kind"] == "equal"))):
        if "tokens_per_s" not in case:
            rows.append([batch(case), case["policy"], "does not fit", *["–"] * (len(head) - 3)])
            continue
        ratio = case["tokens_per_s"] / base[group(case)] if group(case) in base else None
        joules = case.get("joules_per_token")
        rows.append([batch(case), case["policy"], f"{case['tokens_per_s']:,.0f}",
                     f"{ratio:.1f}x" if ratio else "–", f"{case['step_ms']:.2f}",
                     f"{case['paper_step_ms']:.2f}", f"{case['live_tokens_mean']:,.0f}",
                     f"{case['footprint_share'] * 100:.2f} %",
                     f"{case['pool_used_gib'] / result['pool_gib'] * 100:.0f} %",
                     f"{joules * 1000:.0f}" if joules else "–"])
    return origin(result) + reliefs(result) + "\n" + table(head, rows)


def reliefs(result: dict) -> str:
    """Where the pool was too small for what the policies would have kept."""
    short = [f"{case['policy']} at {case['batch']} ({case['pressure_reliefs']:,} times)"
             for case in result["cases"] if case.get("pressure_reliefs")]
    if not short:
        return ""
    return ("Chains gave up tokens that no policy had chosen, for want of pages: "
            f"{', '.join(short)}.\n")


def step_table(result: dict) -> str:
    families = ("weights", "attention", "append", "quantise", "sparsity", "anneal", "sampling",
                "other", "idle")
    head = ["policy", "batch", "tokens a chain", "live", "ms a step", *(f"{name}, ms" for name in families), "roofline, ms",
            "step / roofline"]
    rows = [[case["policy"], str(case["batch"]), f"{case['tokens_mean']:,.0f}",
             f"{case['live_tokens_mean']:,.0f}", f"{case['step_ms']:.2f}",
             *(f"{case['ms'][name]:.2f}" for name in families), f"{case['roofline_ms']:.2f}",
             f"{case['step_ms'] / case['roofline_ms']:.2f}"]
            for case in result["cases"] if "step_ms" in case]
    return (origin(result) + "Chains of full caches that would not fit are younger, as tokens a "
            "chain (a mean) tell.\n\n" + table(head, rows))


def eval_cell(point: dict) -> str:
    if not point["chains"]:
        return "–"
    text = (f"{point['accuracy']:.3f} [{point['accuracy_low']:.3f}, {point['accuracy_high']:.3f}] "
            f"at {point['bytes_mean_percent']:.3g} %")
    if point["tokens_to_full"] and point["tokens_to_full"] > 1.05:
        text += f", chains {point['tokens_to_full']:.2f}x"
    return text + ("" if point["chains"] == point["chains_wanted"] else ", not finished")


def eval_table(lines: list[dict]) -> str:
    """Right answers [95 % interval] at the bytes held: a row a policy, a column an aim."""
    header, points = lines[0], lines[1:]
    aims = sorted({point["target_percent"] for point in points if point["target_percent"]})
    series: dict[str, dict[float, dict]] = {}
    notes = [f"{header['problem_source']}; {header['machine'] or 'CPU'}, commit {header['commit']}."]
    later: dict[str, list[str]] = {}  # commit: what was run at it
    for point in points:
        name = point["label"].replace(f" k={point['budget_tokens']}", "")
        commit = point.get("commit", header["commit"])
        if commit != header["commit"] and name not in later.setdefault(commit, []):
            later[commit].append(name)
        if point["target_percent"]:
            series.setdefault(name, {})[point["target_percent"]] = point
        elif point["budget_tokens"] is None:
            notes.append(f"{point['label'].capitalize()}, {point['formats']}: {eval_cell(point)}.")
    notes += [f"{', '.join(names)}: commit {commit}." for commit, names in later.items()]
    series = dict(sorted(series.items(), key=lambda one: one[0].split()[0] != "anticipate"))
    rows = [[name, *(eval_cell(by_aim[aim]) if aim in by_aim else "–" for aim in aims)]
            for name, by_aim in series.items()]
    return " ".join(notes) + "\n\n" + table(["policy", *(f"{aim:g} %" for aim in aims)], rows)


TABLES = {
    "attend": ("attend", attend_table),
    "attend-short": ("attend", lambda result: attend_table(result, SHORT_CASES)),
    "eval": ("eval", eval_table),
    "eval-long": ("eval-long", eval_table),
    "likelihood-bf16": ("likelihood-4096", likelihood_tables.bf16_table),
    "likelihood-formats": ("likelihood-4096", likelihood_tables.formats_table),
    "likelihood-lengths": (tuple(f"likelihood-{length}" for length in (2048, 4096, 8192)),
                           likelihood_tables.lengths_table),
    "likelihood-published": ("likelihood-4096", likelihood_tables.own_table),
    "likelihood-same": ("likelihood-4096", likelihood_tables.same_table),
    "step": ("step", step_table),
    "targets": (("attend", "step", "throughput", "slot_score", "select"), targets_table),
    "throughput": ("throughput", throughput_table),
}


def result(bench: str):
    """Of bench/results: an object, a list of lines, or None."""
    path = ROOT / "bench" / "results" / f"{bench}.json"
    if path.exists():
        return json.loads(path.read_text())
    path = path.with_suffix(".jsonl")
    if path.exists():
        return [json.loads(line) for line in path.read_text().splitlines()]
    return None


def rendered(name: str, where: str) -> str:
    if name not in TABLES:
        sys.exit(f"make_table: {where}: no table {name}; there are {', '.join(TABLES)}")
    benches, render = TABLES[name]
    results = [result(bench) for bench in ((benches,) if isinstance(benches, str) else benches)]
    return render(*results) if any(results) else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    stale = []
    for document in DOCUMENTS:
        path = ROOT / document
        if not path.exists():
            continue
        text = path.read_text()
        made = BLOCK.sub(lambda m: m.group(1) + rendered(m["name"], document) + m.group(4), text)
        if made != text:
            stale.append(document)
            if not options.check:
                path.write_text(made)
    if stale and options.check:
        sys.exit(f"make_table: {', '.join(stale)}: not what bench/results says; "
                 "run python3 bench/make_table.py")
    print("tables: " + (f"rewrote {', '.join(stale)}" if stale else "as bench/results says"))


if __name__ == "__main__":
    main()
