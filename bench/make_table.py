#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the documents' tables of measurements from bench/results, so that they cannot say else.

Between `<!-- table NAME -->` and `<!-- /table -->` a document holds the table NAME (TABLES below).
Without options every such block is rewritten; with --check nothing is, and the exit code is 1 when
one would change. A block whose results are not there yet must be empty.
"""
import argparse
import json
import math
import pathlib
import re
import statistics
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "bench/README.md", "docs/evaluation.md", "docs/likelihood.md",
             "kernels/README.md", "kernels/cuda/README.md")
BLOCK = re.compile(r"(<!-- table (?P<name>[\w-]+) -->\n)(?P<body>.*?)(<!-- /table -->)", re.DOTALL)
SHORT_CASES = (("32/8/128", 64, 1024), ("32/8/128", 64, 8192), ("32/8/128", 256, 4096),
               ("32/8/128", 512, 1024), ("12/2/128", 64, 1024), ("9/3/64", 64, 1024))


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


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
            "footprint", "J / 1,000 tokens"]

    def group(case: dict):
        return case["kind"] if case["kind"] == "largest" else case["batch"]

    cases = [case for case in result["cases"] if "tokens_per_s" in case]
    base = {group(case): case["tokens_per_s"] for case in cases if case["policy"] == "full bf16"}
    rows = []
    for case in sorted(cases, key=lambda case: (case["kind"], case["batch"] * (case["kind"] == "equal"))):
        ratio = case["tokens_per_s"] / base[group(case)] if group(case) in base else None
        joules = case.get("joules_per_token")
        rows.append([f"{case['batch']}{', the largest' if case['kind'] == 'largest' else ''}",
                     case["policy"], f"{case['tokens_per_s']:,.0f}",
                     f"{ratio:.1f}x" if ratio else "–", f"{case['step_ms']:.2f}",
                     f"{case['paper_step_ms']:.2f}", f"{case['live_tokens_mean']:,.0f}",
                     f"{case['footprint_share'] * 100:.2f} %",
                     f"{joules * 1000:.0f}" if joules else "–"])
    return origin(result) + "\n" + table(head, rows)


def step_table(result: dict) -> str:
    families = ("weights", "attention", "append", "quantise", "sparsity", "anneal", "sampling",
                "other", "idle")
    head = ["policy", "batch", "ms a step", *(f"{name}, ms" for name in families), "roofline, ms",
            "step / roofline"]
    rows = [[case["policy"], str(case["batch"]), f"{case['step_ms']:.2f}",
             *(f"{case['ms'][name]:.2f}" for name in families), f"{case['roofline_ms']:.2f}",
             f"{case['step_ms'] / case['roofline_ms']:.2f}"]
            for case in result["cases"] if "step_ms" in case]
    return origin(result) + "\n" + table(head, rows)


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
    for point in points:
        if point["target_percent"]:
            name = point["label"].replace(f" k={point['budget_tokens']}", "")
            series.setdefault(name, {})[point["target_percent"]] = point
        elif point["budget_tokens"] is None:
            notes.append(f"{point['label'].capitalize()}, {point['formats']}: {eval_cell(point)}.")
    rows = [[name, *(eval_cell(by_aim[aim]) if aim in by_aim else "–" for aim in aims)]
            for name, by_aim in series.items()]
    return " ".join(notes) + "\n\n" + table(["policy", *(f"{aim:g} %" for aim in aims)], rows)


def half_interval(values: list[float]) -> float:
    """Half of Student's 95 % interval of the mean."""
    freedom = len(values) - 1
    student = 1.96 + 2.37 / freedom + 2.8 / freedom**2
    return student * statistics.stdev(values) / math.sqrt(len(values))


def is_lowest(point: dict, rivals: list[dict]) -> bool:
    """None of the rivals is lower, but for what the texts they share leave open."""
    for rival in rivals:
        pairs = [(a, b) for a, b in zip(point["kl_by_text"], rival["kl_by_text"])
                 if a is not None and b is not None]
        apart = [a - b for a, b in pairs]
        if len(apart) > 1 and any(apart) and statistics.mean(apart) > half_interval(apart):
            return False
    return True


def likelihood_cell(point: dict | None, rivals: list[dict]) -> str:
    if point is None:
        return "–"
    kl = f"{point['kl_mean']:.3f}"
    return (f"{f'**{kl}**' if is_lowest(point, rivals) else kl} ± "
            f"{point['kl_high'] - point['kl_mean']:.3f} · {point['agreement'] * 100:.1f} % "
            f"at {point['bytes_percent_mean']:.3g} %")


def likelihood_origin(header: dict) -> str:
    return (f"{header['model']}, {len(header['texts'])} texts of {header['tokens']:,} tokens "
            f"together, every {header['every']}th position; {header['device']}, "
            f"commit {header['commit']}.\n\n")


SAME = "nvfp4, keys rotated"  # the precision in which all policies were run


def likelihood_table(lines: list[dict], wanted) -> str:
    """KL ± half of its 95 % interval · same first choice, at the bytes held."""
    points = [point for point in lines[1:] if point["target_percent"] and wanted(point)]
    aims = sorted({point["target_percent"] for point in points})
    series: dict[str, dict[float, dict]] = {}
    for point in points:
        series.setdefault(point["name"], {})[point["target_percent"]] = point
    columns = {aim: [by_aim[aim] for by_aim in series.values() if aim in by_aim] for aim in aims}
    shared = [aim for aim in aims if all(aim in by_aim for by_aim in series.values())]
    order = sorted(series, key=lambda name: sum(
        math.log(series[name][aim]["kl_mean"]) for aim in shared))
    rows = [[name, *(likelihood_cell(series[name].get(aim), columns[aim]) for aim in aims)]
            for name in order]
    return likelihood_origin(lines[0]) + table(["policy", *(f"{aim:g} %" for aim in aims)], rows)


def formats_table(lines: list[dict]) -> str:
    rows = [[point["formats"], f"{point['bytes_percent_mean']:.1f}", f"{point['kl_mean']:.4f}",
             f"{point['kl_high'] - point['kl_mean']:.4f}", f"{point['kl_p95']:.3f}",
             f"{point['agreement'] * 100:.1f}"]
            for point in lines[1:] if point["policy"] == "full"]
    return likelihood_origin(lines[0]) + table(
        ["K / V", "bytes %", "KL", "±", "p95", "top-1 %"], rows)


TABLES = {
    "attend": ("attend", attend_table),
    "attend-short": ("attend", lambda result: attend_table(result, SHORT_CASES)),
    "eval": ("eval", eval_table),
    "eval-long": ("eval-long", eval_table),
    "likelihood-bf16": ("likelihood", lambda lines: likelihood_table(
        lines, lambda point: point["formats"] == "bf16")),
    "likelihood-formats": ("likelihood", formats_table),
    "likelihood-published": ("likelihood", lambda lines: likelihood_table(
        lines, lambda point: point["name"].split(",")[0] == point["policy"])),
    "likelihood-same": ("likelihood", lambda lines: likelihood_table(
        lines, lambda point: point["formats"] == SAME)),
    "step": ("step", step_table),
    "throughput": ("throughput", throughput_table),
}


def rendered(name: str, where: str) -> str:
    if name not in TABLES:
        sys.exit(f"make_table: {where}: no table {name}; there are {', '.join(TABLES)}")
    bench, render = TABLES[name]
    path = ROOT / "bench" / "results" / f"{bench}.json"
    if path.exists():
        return render(json.loads(path.read_text()))
    path = path.with_suffix(".jsonl")
    if path.exists():
        return render([json.loads(line) for line in path.read_text().splitlines()])
    return ""


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
