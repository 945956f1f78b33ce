# SPDX-License-Identifier: Apache-2.0
"""Do thoughts show? Sparsity against the reasoner's known kinds of thought; JSON lines.

    cd lab && python3 -m thoughts.measure --out thoughts/results.jsonl --pictures ../docs/pictures
    python3 -m thoughts.measure --save sparsity.npz          where the GPU is: seconds
    python3 -m thoughts.measure --read sparsity.npz          elsewhere, with NumPy alone: a minute
    python3 -m thoughts.measure --tokens 400 800 --count 6 --device cpu

Lines: first what was measured; then one for every window length (tau 1 is a token), reading and
target; then one for every layer and stretch of positions. README.md says what the fields mean.
"""
from __future__ import annotations

import argparse
import datetime
import itertools
import json
import pathlib
import sys
from typing import Iterator

import numpy as np

from simulation.labels import kinds_of

from . import matrices, picture
from .thresholds import accuracy, confusion, fit, fit_linear
from .windows import KINDS, READINGS, Measured, Samples, cut

_LAB = pathlib.Path(__file__).resolve().parents[1]
_WINDOWS = (1, 8, 16, 32, 64, 128)
_TOGETHER = 4  # layers, as ThinKV takes
_STRETCH = 512  # tokens
_EVERY = 8  # tau 1: tokens of which one is looked at
_POINTS = 101  # of a picture's axis


def describe(chains: list[Measured]) -> dict:
    """Shares of the kinds, and how long a thought (a run of one kind) is."""
    lengths: dict[str, list[int]] = {kind: [] for kind in KINDS}
    for chain in chains:
        for kind, run in itertools.groupby(chain.kinds[chain.prompt:]):
            lengths[KINDS[kind]].append(len(list(run)))
    tokens = sum(map(sum, lengths.values()))
    return {kind: {"share": round(sum(runs) / tokens, 4), "tokens_mean": round(np.mean(runs), 1),
                   "tokens_5_95": [int(np.quantile(runs, q)) for q in (0.05, 0.95)]}
            for kind, runs in lengths.items()}


def judge(samples: Samples, reading: str, target: str) -> dict:
    """Fitted on the chains of even number (by length), judged on the odd ones."""
    x = samples.readings[reading]
    kinds = samples.after if target == "next" else samples.before
    own, other = samples.chain % 2 == 0, samples.chain % 2 == 1
    truth = kinds[other]
    most = np.bincount(kinds[own], minlength=len(KINDS)).argmax()
    line = {"windows": int(other.sum()), "purity": round(samples.purity, 4),
            "most_frequent": round(accuracy(truth, np.full(len(truth), most)), 4)}
    if target == "next":
        line["kind_before"] = round(accuracy(truth, samples.before[other]), 4)
    for how in ("ordered", "free"):
        fits = [fit(column[own], kinds[own], how == "ordered") for column in x.T]
        answers = [f.answer(column[other]) for f, column in zip(fits, x.T)]
        line[how] = {"layers": [round(accuracy(truth, answer), 4) for answer in answers],
                     "best_layer": int(np.argmax([f.fitted for f in fits])),
                     "confusions": [confusion(truth, answer).tolist() for answer in answers]}
        groups = list(itertools.combinations(range(x.shape[1]), _TOGETHER))
        means = [x[:, group].mean(1) for group in groups]
        fits = [fit(mean[own], kinds[own], how == "ordered") for mean in means]
        best = int(np.argmax([f.fitted for f in fits]))
        answer = fits[best].answer(means[best][other])
        line[how]["four"] = {
            "layers": list(groups[best]), "accuracy": round(accuracy(truth, answer), 4),
            "thresholds": [round(t, 4) if np.isfinite(t) else None
                           for t in (fits[best].low, fits[best].high)],
            "answers": "".join(KINDS[k] for k in fits[best].answers),
            "confusion": confusion(truth, answer).tolist()}
    answer = fit_linear(x[own], kinds[own])(x[other])
    line["all_layers"] = {"accuracy": round(accuracy(truth, answer), 4),
                          "confusion": confusion(truth, answer).tolist()}
    return line


def judged(chains: list[Measured]) -> Iterator[dict]:
    for tau in _WINDOWS:
        samples = cut(chains, tau, every=_EVERY if tau == 1 else 1)
        for target, reading in itertools.product(("next", "same"), READINGS):
            if tau > 1 or reading != "window":
                yield {"tau": tau, "target": target, "reading": reading,
                       **judge(samples, reading, target)}


def of_next_token(chains: list[Measured]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sparsity [layers, steps], position and the kind of the token that is chosen next."""
    parts = [(c.sparsity[:, c.prompt:-1], np.arange(c.prompt, len(c.kinds) - 1),
              c.kinds[c.prompt + 1:]) for c in chains]
    values, positions, kinds = zip(*parts)
    return np.concatenate(values, 1), np.concatenate(positions), np.concatenate(kinds)


def drift(values: np.ndarray, positions: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Mean sparsity [layers, kinds, stretches]; NaN where there are fewer than 20 steps."""
    stretches = int(positions.max()) // _STRETCH + 1
    means = np.full((len(values), len(KINDS), stretches), np.nan)
    for kind, stretch in itertools.product(range(len(KINDS)), range(stretches)):
        chosen = (kinds == kind) & (positions // _STRETCH == stretch)
        if chosen.sum() >= 20:
            means[:, kind, stretch] = values[:, chosen].mean(1)
    return means


def draw_sparsity(values: np.ndarray, kinds: np.ndarray) -> str:
    x = np.linspace(0, 1, _POINTS)
    panels = {f"layer {i}": np.array([(layer[kinds == kind, None] > x).mean(0)
                                      for kind in range(len(KINDS))])
              for i, layer in enumerate(values)}
    return picture.draw("Share of steps whose attention is sparser than this", panels,
                        {"E next": "#2b6cb0", "R next": "#c05621", "T next": "#2f855a"},
                        picture.Axes(x, {0: "0", 0.5: "0.5", 1: "1"}, 0, 1, "sparsity"))


def draw_confusions(lines: list[dict]) -> str:
    """By window length; and of the longest window by layer."""
    found = {(one["tau"], one["target"], one["reading"]): one for one in lines if "tau" in one}
    matrix = {(tau, target): np.array(one["ordered"]["four"]["confusion"] if target == "next"
                                      else one["all_layers"]["confusion"])
              for (tau, target, reading), one in found.items()
              if reading == ("step" if target == "next" else "window")}
    label, own = "ThinKV's label (last step) and the next window's kind", \
        "The window's mean sparsity and its own kind"
    tau = _WINDOWS[-1]
    rows = {f"{label}; best four layers, by window length":
            {f"tau = {tau}": matrix[tau, "next"] for tau in _WINDOWS[1:]},
            f"{own}; regression on all layers, by window length":
            {f"tau = {tau}": matrix[tau, "same"] for tau in _WINDOWS[1:]}}
    for heading, key in ((label, (tau, "next", "step")), (own, (tau, "same", "window"))):
        rows[f"{heading}; two thresholds, windows of {tau}, by layer"] = {
            f"layer {i}": np.array(counts)
            for i, counts in enumerate(found[key]["ordered"]["confusions"])}
    return matrices.draw("What is said (columns) of each kind (rows), in per cent", rows, KINDS)


def draw_windows(lines: list[dict]) -> str:
    """Right answers by window length."""
    def line(target: str, reading: str, *path: str) -> list[float]:
        found = []
        for tau in _WINDOWS[1:]:
            value = next(one for one in lines if (one.get("tau"), one.get("target"),
                                                  one.get("reading")) == (tau, target, reading))
            for name in path:
                value = value.get(name, np.nan) if isinstance(value, dict) else np.nan
            found.append(value)
        return found

    panels = {title: np.array([line(target, "step", "kind_before"),
                               line(target, "window", "all_layers", "accuracy"),
                               line(target, "step", "ordered", "four", "accuracy"),
                               line(target, "step", "most_frequent")])
              for title, target in (("of the next window", "next"),
                                    ("of the window that has ended", "same"))}
    legend = {"who knows the kind of the window that has ended": "#2f855a",
              "regression on the window's mean sparsity in all layers": "#2b6cb0",
              "two thresholds on the last step's sparsity, best four layers (ThinKV)": "#c05621",
              "who always says the most frequent kind": "#4a5568"}
    axes = picture.Axes(np.log2(_WINDOWS[1:]), {np.log2(tau): str(tau) for tau in _WINDOWS[1:]},
                        0, 1, "tokens a window")
    return picture.draw("Kinds told right, share of windows", panels, legend, axes, columns=2)


def measure(tokens: tuple[int, int], count: int, device: str | None
            ) -> tuple[dict, list[Measured]]:
    import torch

    from simulation import chains as chain_files
    from simulation.network import Network

    from . import sparsity

    torch.set_grad_enabled(False)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    network = Network(_LAB / "reasoner" / "model", device)
    found = chain_files.load(_LAB / "reasoner" / "problems" / "heldout.jsonl", *tokens, count)
    kinds = [kinds_of(chain) for chain in found]
    chains = [Measured(sparsity.of_chain(network, chain), own, int((own < 0).sum()))
              for chain, own in zip(found, kinds)]
    about = {"device": torch.cuda.get_device_name() if device == "cuda" else device,
             "taken": str(datetime.date.today())}
    return about, chains


def save(file: pathlib.Path, about: dict, chains: list[Measured]) -> None:
    np.savez_compressed(file, about=json.dumps(about), prompts=[c.prompt for c in chains],
                        lengths=[len(c.kinds) for c in chains],
                        kinds=np.concatenate([c.kinds for c in chains]).astype(np.int8),
                        sparsity=np.concatenate([c.sparsity for c in chains], 1))


def read(file: pathlib.Path) -> tuple[dict, list[Measured]]:
    with np.load(file) as data:
        ends = data["lengths"].cumsum()[:-1]
        parts = zip(np.split(data["sparsity"], ends, 1), np.split(data["kinds"].astype(int), ends),
                    data["prompts"])
        return json.loads(str(data["about"])), [Measured(s, k, int(p)) for s, k, p in parts]


def report(about: dict, chains: list[Measured], out: pathlib.Path | None,
           pictures: pathlib.Path | None) -> None:
    lengths = [len(c.kinds) for c in chains]
    lines = [{"chains": len(chains), "tokens_mean": round(float(np.mean(lengths))),
              "tokens_min": min(lengths), "tokens_max": max(lengths), "kinds": KINDS,
              "thoughts": describe(chains), **about}]
    lines += judged(chains)
    values, positions, kinds = of_next_token(chains)
    means = drift(values, positions, kinds)
    for layer, stretch in itertools.product(range(len(means)), range(means.shape[2])):
        lines.append({"layer": layer, "from": stretch * _STRETCH, "mean_sparsity": {
            kind: None if np.isnan(mean) else round(float(mean), 4)
            for kind, mean in zip(KINDS, means[layer, :, stretch])}})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    if out:
        out.write_text(text)
    else:
        sys.stdout.write(text)
    if pictures:
        (pictures / "thoughts-sparsity.svg").write_text(draw_sparsity(values, kinds))
        (pictures / "thoughts-windows.svg").write_text(draw_windows(lines))
        (pictures / "thoughts-confusions.svg").write_text(draw_confusions(lines))


def main() -> int:
    parser = argparse.ArgumentParser(prog="thoughts.measure", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, help="JSON lines; by default to stdout")
    parser.add_argument("--pictures", type=pathlib.Path, help="a folder for three SVG files")
    parser.add_argument("--save", type=pathlib.Path, help="measure into this file, and no more")
    parser.add_argument("--read", type=pathlib.Path, help="judge what --save has written")
    parser.add_argument("--tokens", type=int, nargs=2, default=(2000, 6000), metavar="N",
                        help="chains of so many tokens: from, below (2000 6000)")
    parser.add_argument("--count", type=int, default=64, help="chains (64)")
    parser.add_argument("--device", help="cuda where there is one, else cpu")
    args = parser.parse_args()

    if args.read:
        about, chains = read(args.read)
    else:
        about, chains = measure(args.tokens, args.count, args.device)
    if args.save:
        save(args.save, about, chains)
    else:
        report(about, chains, args.out, args.pictures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
