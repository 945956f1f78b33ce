# SPDX-License-Identifier: Apache-2.0
"""Tables of what `palimpsest likelihood` reports as JSON lines: facts, then a line a point."""
from __future__ import annotations

import collections
import itertools
import math
import statistics

from markdown_table import table

ROTATED = ", keys rotated"
OURS = "anticipate"
LENGTH_AIMS = (5, 10, 20)  # per cent of the bytes, at all lengths


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


def divergence(point: dict, rivals: list[dict]) -> str:
    kl = f"{point['kl_mean']:.3f}"
    return (f"{f'**{kl}**' if is_lowest(point, rivals) else kl} ± "
            f"{point['kl_high'] - point['kl_mean']:.3f}")


def origin(*headers: dict) -> str:
    """Of the results of one or, where a table has several, of all of them."""
    def of_all(fact) -> str:
        return ", ".join(dict.fromkeys(str(fact(header)) for header in headers))

    compared = of_all(lambda header: f"{header['every']}th")
    return (f"{of_all(lambda header: header['model'])}, "
            f"{of_all(lambda header: len(header['texts']))} texts of "
            f"{of_all(lambda header: format(header['tokens'], ','))} tokens together, "
            f"every {compared} position; {of_all(lambda header: header['device'])}, "
            f"commit {of_all(lambda header: header['commit'])}.")


def bounded(lines: list[dict]) -> list[dict]:
    return [point for point in lines[1:] if point["target_percent"]]


def in_own_formats(point: dict) -> bool:
    """Those of the policy's paper; ours has those that were tried with rotated keys."""
    if point["policy"] == OURS:
        return point["formats"].endswith(ROTATED)
    return point["name"] == point["policy"]


def same_formats(lines: list[dict]) -> str:
    """Those with rotated keys that the most policies were run in."""
    policies = collections.defaultdict(set)
    for point in bounded(lines):
        if point["formats"].endswith(ROTATED):
            policies[point["formats"]].add(point["policy"])
    return max(policies, key=lambda formats: len(policies[formats]))


def row_name(point: dict) -> str:
    """With the formats of ours, also where they are its default."""
    if point["policy"] != OURS or point["formats"] in point["name"]:
        return point["name"]
    return f"{point['name'].removesuffix(ROTATED)} {point['formats']}"


def cell(point: dict | None, rivals: list[dict]) -> str:
    if point is None:
        return "–"
    return (f"{divergence(point, rivals)} · {point['agreement'] * 100:.1f} % "
            f"at {point['bytes_percent_mean']:.3g} %")


def policies_table(lines: list[dict], wanted, note: str = "") -> str:
    """KL ± half of its 95 % interval · same first choice, at the bytes held."""
    points = [point for point in bounded(lines) if wanted(point)]
    aims = sorted({point["target_percent"] for point in points})
    series: dict[str, dict[float, dict]] = {}
    for point in points:
        series.setdefault(row_name(point), {})[point["target_percent"]] = point
    columns = {aim: [by_aim[aim] for by_aim in series.values() if aim in by_aim] for aim in aims}
    shared = [aim for aim in aims if all(aim in by_aim for by_aim in series.values())]
    order = sorted(series, key=lambda name: sum(
        math.log(series[name][aim]["kl_mean"]) for aim in shared))
    rows = [[name, *(cell(series[name].get(aim), columns[aim]) for aim in aims)]
            for name in order]
    return f"{note}{origin(lines[0])}\n\n" + table(["policy", *(f"{aim:g} %" for aim in aims)], rows)


def own_table(lines: list[dict]) -> str:
    return policies_table(lines, in_own_formats)


def same_table(lines: list[dict]) -> str:
    same = same_formats(lines)
    return policies_table(lines, lambda point: point["formats"] == same, f"All in {same}. ")


def bf16_table(lines: list[dict]) -> str:
    return policies_table(lines, lambda point: point["formats"] == "bf16")


def formats_table(lines: list[dict]) -> str:
    points = [point for point in lines[1:] if point["policy"] == "full"]
    points.sort(key=lambda point: (point["formats"].endswith(ROTATED), -point["bytes_percent_mean"]))
    rows = [[point["formats"], f"{point['bytes_percent_mean']:.1f}", f"{point['kl_mean']:.4f}",
             f"{point['kl_high'] - point['kl_mean']:.4f}", f"{point['kl_p95']:.3f}",
             f"{point['agreement'] * 100:.1f}"] for point in points]
    return f"{origin(lines[0])}\n\n" + table(
        ["K / V", "bytes %", "KL", "±", "p95", "top-1 %"], rows)


def length_cells(lines: list[dict], aim: float) -> list[str]:
    """Ours, the best other in its own formats, the best other in ours."""
    same = same_formats(lines)
    points = [point for point in bounded(lines) if point["target_percent"] == aim]
    others = [point for point in points if point["policy"] != OURS]
    groups = ([point for point in points if point["policy"] == OURS and point["formats"] == same],
              [point for point in others if in_own_formats(point)],
              [point for point in others if point["formats"] == same])
    rivals = list(itertools.chain(*groups))
    cells = []
    for group in groups:
        best = min(group, key=lambda point: point["kl_mean"], default=None)
        name = "" if best is None or best["policy"] == OURS else f" {best['policy']}"
        cells.append("–" if best is None else divergence(best, rivals) + name)
    return cells


def lengths_table(*lengths: list[dict] | None) -> str:
    """KL at several lengths of the texts: ours against the best other."""
    known = [lines for lines in lengths if lines]
    same = same_formats(known[0])
    head = ["bytes", "", *(f"{lines[0]['tokens'] // len(lines[0]['texts']):,} tokens"
                           for lines in known)]
    names = [f"{OURS} {same}", "best other, own formats", f"best other, {same}"]
    rows = []
    for aim in LENGTH_AIMS:
        columns = [length_cells(lines, aim) for lines in known]
        rows += [[f"{aim} %" if name == names[0] else "", name, *cells]
                 for name, *cells in zip(names, *columns)]
    return f"{origin(*(lines[0] for lines in known))}\n\n" + table(head, rows)
