# SPDX-License-Identifier: Apache-2.0
"""Runs a list of policies in the simulation and prints a JSON line for each.

    cd lab && python3 -m simulation.sweep simulation/sweeps/check.json
    python3 -m simulation.sweep simulation/sweeps/score.json --only removal_error
    python3 -m simulation.sweep simulation/sweeps/texts.json --model ../build/smollm2-135m
    python3 -m simulation.sweep my.json --codebook reasoner/model/queries.safetensors --device cpu

A sweep is a JSON object:

    {"judge": "chains" or "texts",
     "set": {"tokens": [4096, 6000], "count": 96},      of lab/reasoner/problems/heldout.jsonl
     "codebook": {"tokens": [400, 16385], "count": 64, "read": 8192, "per_block": 6},
     "common": {"interval": 64, ...},                   fields of every run that doesn't say else
     "runs": [{"name": "ours", "policy": "anticipate", "budget": [96, 128]}, ...]}

For texts: "set": {"read": 4096, "pinned": 4}, "codebook": {"read": 4096, "per_block": 24}, of
lab/likelihood; with "every": 4 in the set, every fourth text. A list, of budgets or formats, makes
a run of each; several lists, of each with each. The fields of a run: spec.py. The first line printed
tells what the others have in common. Paths in the command are taken from where it is run.
"""
from __future__ import annotations

import argparse
import dataclasses
import datetime
import itertools
import json
import pathlib
import sys
from typing import Callable

import torch

from . import chains, labels, texts, thinkv
from .budgets import UnevenRun, lost_on
from .centres import mean_keys
from .codebook import Codebooks, FileCodebook, sample_queries
from .network import Network
from .run import Run
from .side_by_side import SideBySide
from .spec import BLOCK, Spec, read_spec, to_line

_LAB = pathlib.Path(__file__).resolve().parents[1]
_REASONER = _LAB / "reasoner" / "model"
_PROBLEMS = _LAB / "reasoner" / "problems"
_TEXTS = _LAB / "likelihood"
_SIDE_BY_SIDE = 6  # full caches of all texts: 6 GB each
_LISTS = [f.name for f in dataclasses.fields(Spec) if isinstance(f.default, tuple)]


def read_runs(sweep: dict, only: str | None) -> list[Spec]:
    specs = []
    for run in sweep["runs"]:
        fields = {**sweep.get("common", {}), **run}
        listed = [name for name, value in fields.items()
                  if isinstance(value, list) and name not in _LISTS]
        for chosen in itertools.product(*(fields[name] for name in listed)):
            specs.append(read_spec({**fields, **dict(zip(listed, chosen))}))
    return [spec for spec in specs if only is None or only in spec.name]


def rounded(figures: dict[str, float | list[float]]) -> dict[str, float | list[float]]:
    digits = {"live": None, "lane_bytes": None, "bytes_percent": 2, "seconds": 1}
    return {name: [round(one, 4) for one in value] if isinstance(value, list)
            else round(value, digits.get(name, 4)) for name, value in figures.items()}


def show(line: dict) -> None:
    print(json.dumps(line), flush=True)


def groups_of(specs: list[Spec]) -> list[list[Spec]]:
    """As many full caches as go side by side; what evicts, alone."""
    groups: list[list[Spec]] = []
    for spec in specs:
        if groups and spec.policy == groups[-1][-1].policy == "full" and \
                len(groups[-1]) < _SIDE_BY_SIDE:
            groups[-1].append(spec)
        else:
            groups.append([spec])
    return groups


class Calibration:
    """What runs need that is learnt from other texts, made when the first one asks for it."""

    def __init__(self, network: Network, file: pathlib.Path | None, per_block: int,
                 read: Callable[[], tuple[torch.Tensor, torch.Tensor]]):
        """file: a codebook, instead of sampling. read: tokens [texts, n] and their lengths."""
        self._network, self._file, self._per_block, self._read = network, file, per_block, read
        self._books: Codebooks | FileCodebook | None = None
        self._centres: list[torch.Tensor] | None = None
        self._lost: dict[Spec, torch.Tensor] = {}

    def codebook(self, spec: Spec) -> list[torch.Tensor] | None:
        if spec.policy != "anticipate" and spec.pick != "removal_error":
            return None
        if self._books is None and self._file is not None:
            self._books = FileCodebook(self._file, self._network)
        elif self._books is None:
            self._books = Codebooks(sample_queries(self._network, *self._read(), self._per_block))
        return self._books.of(spec.queries)

    def centres(self, spec: Spec) -> list[torch.Tensor] | None:
        if spec.centre_keys and self._centres is None:
            self._centres = mean_keys(self._network, *self._read())
        return self._centres

    def run(self, spec: Spec, pinned: int) -> Run:
        codebook, centres = self.codebook(spec), self.centres(spec)
        if spec.shares == "equal":
            return Run(self._network, spec, pinned, codebook, centres)
        lost = None
        if spec.shares == "measured":
            alike = self._measured_alike(spec)
            if alike not in self._lost:
                self._lost[alike] = lost_on(self._network, spec, pinned, codebook, *self._read())
            lost = self._lost[alike]
        return UnevenRun(self._network, spec, pinned, codebook, centres, lost)

    @staticmethod
    def _measured_alike(spec: Spec) -> Spec:
        """Equal for specs that what is lost does not tell apart."""
        alike = dataclasses.replace(spec, name="", shares_by="layer", floor=0, power=1,
                                    each_first=0, eager=False)
        if spec.shares_from == "full":
            alike = dataclasses.replace(alike, budget=spec.shares_at or spec.budget, shares_at=0,
                                        interval=BLOCK)
        return alike


def run_chains(network: Network, sweep: dict, specs: list[Spec], file: pathlib.Path | None) -> None:
    how = sweep["codebook"]

    def read() -> tuple[torch.Tensor, torch.Tensor]:
        tokens, lengths = chains.pack(
            chains.load(_PROBLEMS / "calibration.jsonl", *how["tokens"], how["count"]),
            network.device)
        return tokens[:, :how["read"]], lengths.clamp(max=how["read"])

    learnt = Calibration(network, file, how["per_block"], read)
    held_out = chains.load(_PROBLEMS / "heldout.jsonl", *sweep["set"]["tokens"],
                           sweep["set"]["count"])
    tokens, lengths = chains.pack(held_out, network.device)
    pinned = chains.prompt_tokens(held_out)
    show({"chains": len(held_out), "tokens_mean": round(lengths.double().mean().item()),
          "tokens_max": int(lengths.max()), "pinned": pinned})
    kinds = labels.kinds_of_all(held_out)
    specs = thinkv.with_budgets(specs, kinds, network.head_dim, pinned)
    for group in thinkv.groups_of(specs, len(held_out)):
        if group[0].labels is None:
            run = learnt.run(group[0], pinned)
        else:
            run = thinkv.labelled_run(network, group, pinned, learnt.codebook(group[0]), kinds)
        for spec, figures in zip(group, chains.judge(network, tokens, lengths, run)):
            show({**to_line(spec), **rounded(figures)})


def run_texts(network: Network, sweep: dict, specs: list[Spec], model: pathlib.Path,
              file: pathlib.Path | None) -> None:
    def load(folder: str, count: int, every: int = 1) -> torch.Tensor:
        files = sorted((_TEXTS / folder).glob("*.txt"))[::every]
        return texts.load(files, model / "tokenizer.json", count).to(network.device)

    def read() -> tuple[torch.Tensor, torch.Tensor]:
        tokens = load("calibration", sweep["codebook"]["read"])
        return tokens, torch.full((len(tokens),), tokens.shape[1], device=network.device)

    learnt = Calibration(network, file, sweep["codebook"]["per_block"], read)
    tokens = load("texts", sweep["set"]["read"], sweep["set"].get("every", 1))
    pinned = sweep["set"]["pinned"]
    show({"texts": len(tokens), "tokens": tokens.shape[1], "pinned": pinned})
    truth = texts.full_states(network, tokens, pinned)
    for group in groups_of(specs):
        if len(group) == 1:
            run = learnt.run(group[0], pinned)
        else:
            centres = next(filter(None, map(learnt.centres, group)), None)
            run = SideBySide(network, group, pinned, centres)
        for spec, figures in zip(group, texts.judge(network, tokens, run, truth)):
            show({**to_line(spec), **rounded(figures)})


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulation.sweep", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=pathlib.Path)
    parser.add_argument("--model", type=pathlib.Path, default=_REASONER,
                        help="a Hugging Face folder; by default the reasoner")
    parser.add_argument("--codebook", type=pathlib.Path,
                        help="a file of `palimpsest calibrate`, instead of sampling")
    parser.add_argument("--only", help="runs whose name contains this")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    torch.set_grad_enabled(False)
    torch.backends.cuda.matmul.allow_tf32 = True  # as the recorded results were taken
    sweep = json.loads(args.sweep.read_text())
    specs = read_runs(sweep, args.only)
    if not specs:
        print("no such runs", file=sys.stderr)
        return 2
    network = Network(args.model, args.device)
    device = torch.cuda.get_device_name() if args.device == "cuda" else args.device
    model = "reasoner" if args.model == _REASONER else args.model.name
    show({"sweep": args.sweep.name, "simulation": "teacher-forced", "model": model,
          "device": device, "torch": torch.__version__, "taken": str(datetime.date.today())})
    if sweep["judge"] == "chains":
        run_chains(network, sweep, specs, args.codebook)
    else:
        run_texts(network, sweep, specs, args.model, args.codebook)
    return 0


if __name__ == "__main__":
    sys.exit(main())
