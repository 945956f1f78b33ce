# SPDX-License-Identifier: Apache-2.0
"""What was aimed at beside what was reached, computed from bench/results."""
from __future__ import annotations

import dataclasses

from markdown_table import table

HOLES = 1.33  # a quarter of the slots dead: so many times the bytes of a live token
POLICY = "thinkv k=1024"


@dataclasses.dataclass
class Target:
    what: str
    where: str
    limit: float
    at_least: bool  # else at most
    cases: list[tuple[str, float]]  # (name, value)
    unit: str = "x"  # or "%", of which 1 is 100

    def text(self, value: float) -> str:
        if self.unit == "x":
            return f"{value:.2f}x" if value < 10 else f"{value:.1f}x"
        return f"{value * 100:.3g} %"

    def wanted(self) -> str:
        limit = f"{self.limit:.3g}x" if self.unit == "x" else self.text(self.limit)
        return ("at least " if self.at_least else "at most ") + limit

    def meets(self, value: float) -> bool:
        if self.unit == "x":  # as shown
            return round(value, 2) >= self.limit if self.at_least else round(value, 2) <= self.limit
        return value >= self.limit if self.at_least else value <= self.limit

    def row(self) -> list[str]:
        row = [self.what, self.where, self.wanted()]
        if not self.cases:
            return row + ["–", "not measured"]
        ranked = sorted(self.cases, key=lambda case: case[1], reverse=not self.at_least)
        (worst, low), (_, high) = ranked[0], ranked[-1]
        reached = self.text(low)
        if len(ranked) > 1:
            reached += f" ({worst}) to {self.text(high)}"
        met = sum(self.meets(value) for _, value in ranked)
        verdict = "met" if met == len(ranked) else "**missed**"
        if 0 < met < len(ranked):
            verdict += f"; met by {met} of {len(ranked)}"
        return row + [reached, verdict]


def name(case: dict) -> str:
    return f"{case['shape']}, {case['batch']} x {case['live']:,}"


def attend_targets(attend: dict) -> list[Target]:
    large = [case for case in attend["cases"] if case["batch"] >= 64 and case["live"] >= 1024]

    def shares(format: str) -> list[tuple[str, float]]:
        times = [(name(case), case["palimpsest"].get(format, {})) for case in large]
        return [(at, time["share_of_copy"]) for at, time in times if "us" in time]

    def against_flashinfer(format: str) -> list[tuple[str, float]]:
        pairs = [(name(case), case["palimpsest"].get(format, {}),
                  case.get("flashinfer", {}).get("bf16", {})) for case in large]
        return [(at, rival["us"] / ours["us"]) for at, ours, rival in pairs
                if "us" in ours and "us" in rival]

    holes = []
    for case in large:
        times = case["palimpsest"]
        for format in times:
            whole, with_holes = times[format], times.get(f"{format} holes", {})
            if "us" in whole and "us" in with_holes:
                holes.append((f"{format}, {name(case)}", with_holes["us"] / whole["us"]))
    where = "batch from 64, live tokens from 1,024"
    return [
        Target("bf16 attention, of the copy ceiling", where, 0.9, True, shares("bf16"), "%"),
        Target("bf16 attention, times FlashInfer bf16's speed", where, 1, True,
               against_flashinfer("bf16")),
        Target("nvfp4 attention, of the copy ceiling in its own bytes", where, 0.7, True,
               shares("nvfp4"), "%"),
        Target("nvfp4 attention, times FlashInfer bf16's speed", where, 2.5, True,
               against_flashinfer("nvfp4")),
        Target("time with 25 % holes over without", where + ", all formats", HOLES, False, holes)]


def step_case(step: dict) -> dict | None:
    return next((case for case in step["cases"] if case["policy"] == POLICY
                 and case["batch"] == 64 and "step_ms" in case), None)


def step_targets(step: dict) -> list[Target]:
    case = step_case(step)
    where = f"{POLICY}, batch 64"
    own = [] if case is None else [
        (where, sum(case["ms"][part] for part in ("quantise", "sparsity", "anneal"))
         / case["step_ms"])]
    roofline = [] if case is None else [(where, case["step_ms"] / case["roofline_ms"])]
    return [Target("quantising, sparsity and annealing, of a step", where, 0.03, False, own, "%"),
            Target("a step over its roofline", where, 1.25, False, roofline)]


def throughput_targets(throughput: dict) -> list[Target]:
    def ratio(rival: str, kind: str, batch: int | None = None) -> list[tuple[str, float]]:
        rates = {case["policy"]: case["tokens_per_s"] for case in throughput["cases"]
                 if case["kind"] == kind and batch in (None, case.get("batch"))
                 and "tokens_per_s" in case}
        return [(rival, rates[POLICY] / rates[rival])] if {POLICY, rival} <= set(rates) else []

    largest = "the largest batch of each"
    return [
        Target(f"tokens/s of {POLICY} over full bf16", largest, 15, True,
               ratio("full bf16", "largest")),
        Target(f"tokens/s of {POLICY} over full fp8", largest, 8, True,
               ratio("full fp8", "largest")),
        Target(f"tokens/s of {POLICY} over full bf16", "batch 16", 2.5, True,
               ratio("full bf16", "equal", 16))]


def score_targets(slot_score: dict) -> list[Target]:
    cases = [(f"{case['format']}, {name(case)}", case["longflow_costs"])
             for case in slot_score["cases"] if "longflow_costs" in case]
    return [Target("LongFlow's scores, of attention", "batch 64", 0.03, False, cases, "%")]


def select_targets(select: dict, step: dict) -> list[Target]:
    whole = step_case(step)
    targets = []
    for method, title in (("rkv", "R-KV"), ("anticipate", "anticipate")):
        cases = []
        for case in select["cases"]:
            # 128 tokens between two choices, as both policies have with this budget.
            wanted = {"shape": "llama-3-8b", "method": method, "batch": 64, "budget": 1024,
                      "window": 128, **({"queries": 256} if method == "anticipate" else {})}
            if whole is None or any(case.get(key) != value for key, value in wanted.items()):
                continue
            label = case["format"] + (f", keys {case['keys']}" if "keys" in case else "")
            cases.append((label, case["us_per_step"] / 1e3 / whole["step_ms"]))
        targets.append(Target(f"{title}'s choice of tokens, of a step", "k = 1,024, batch 64",
                              0.05, False, cases, "%"))
    return targets


def targets_table(*results: dict | None) -> str:
    """Of attend, step, throughput, slot_score and select; nothing while one of them is not there."""
    if None in results:
        return ""
    attend, step, throughput, slot_score, select = results
    targets = [*attend_targets(attend), *step_targets(step), *throughput_targets(throughput),
               *score_targets(slot_score), *select_targets(select, step)]
    commits = {result["commit"] for result in results}
    origin = (f"{attend['device']}, commit{'s' if len(commits) > 1 else ''} "
              f"{', '.join(sorted(commits))}. Where there are several cases: the worst, by name, "
              "to the best.\n\n")
    return origin + table(["what", "where", "wanted", "reached", "verdict"],
                          [target.row() for target in targets])
