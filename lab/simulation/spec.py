# SPDX-License-Identifier: Apache-2.0
"""One run's settings: the fields of a sweep's lines, and of the results'."""
from __future__ import annotations

import dataclasses
import re
from typing import Any

from .formats import SCALES, is_format
from .labels import KINDS, SOURCES
from .picks import PICKS
from .segments import FITS

BLOCK = 32  # tokens a step reads; selection happens between steps
RECENT_BEYOND = 128  # tokens of a budget that are not shared with more newest ones

POLICIES = ("full", "anticipate", "rkv", "h2o", "longflow", "window", "random", "thinkv")
SCORES = ("probability", "value_norm", "distance", "removal_error", "residue_distance")
_PRECISION = re.compile("R(2|4|8|16)E(2|4|8|16)T(2|4|8|16)")
SHARES = ("equal", "pyramid", "measured", "pooled")
LOSSES = ("selecting", "full")
REDUCTIONS = ("max", "top4", "square_sum", "sum")


@dataclasses.dataclass(frozen=True)
class Spec:
    name: str
    policy: str  # POLICIES
    budget: int = 0  # tokens of a lane that stay when one selects, without the prompt
    interval: int = 64  # tokens between two selections; a multiple of BLOCK
    recent: int = 16  # newest tokens that always stay, within the budget
    recent_share: float = 0  # or this share of what a lane keeps beyond RECENT_BEYOND, if more
    key_format: str = "bf16"
    value_format: str = "bf16"
    key_scales: str = "token"  # SCALES: whose 16 elements share a scale
    value_scales: str = "token"
    centre_keys: bool = False  # less their mean over other texts, see centres.py
    rotate_keys: bool = False  # Hadamard, before they are quantised
    rotate_values: bool = False  # and back again, when they have been read
    residue: float | None = None  # logit = q.mean + residue * ln(evicted); 1 is the project's
    window: int = 8  # rkv: the newest queries that score
    # anticipate:
    queries: int = 256  # of the codebook; 0: none
    score: str = "removal_error"  # SCORES, see policies.py
    reduce: str = "max"  # over queries, REDUCTIONS
    ahead: tuple[int, ...] = (0,)  # the codebook is turned to the present position plus these
    last_queries: int = 0  # also the newest queries, as they are
    online_queries: int = 0  # also this many of the chain's own, turned to the present position
    online_stride: int = 4  # every n-th is kept
    online_thin: bool = True  # the older half loses every other; else the oldest go
    share_layer: bool = False  # the KV heads of a layer keep the same tokens (largest score)
    score_prompt: bool = True  # the prompt takes its share of attention when tokens are scored
    shares: str = "equal"  # of lanes in the budget of all: SHARES, see budgets.py
    shares_by: str = "layer"  # whose lanes keep the same number; or "lane": each its own
    floor: float = 0.5  # measured, pooled: what of the budget every lane has
    power: float = 1  # measured: the rest goes by what was lost to this power
    each_first: int = 0  # pyramid, measured: tokens that every lane gets before others are shared
    shares_from: str = "selecting"  # measured: LOSSES, what counts as lost, see budgets.py
    shares_at: int = 0  # measured: with this budget; 0: the run's own
    shares_every: int = 1024  # measured from "full": after every so many tokens
    eager: bool = False  # select when any lane has more than its own; else when all together have
    slope: float = 0.5  # pyramid

    # any policy, with kinds of thought (labels.py), chains alone:
    labels: str | None = None  # SOURCES
    tau: int = 128  # tokens of a window
    key_precision: str = ""  # formats by label, as R4E4T2, instead of key_format
    value_precision: str = ""
    # Factors for E, R, T: of scores, or of what a segment keeps where fit is "level".
    label_shares: tuple[float, float, float] = (1, 1, 1)
    # thinkv, whose parts can each be switched off (segments.py):
    bytes: float = 0  # per cent of a full cache: chooses the budget, with labels as they are known
    retention: tuple[int, ...] = (64, 32, 16, 8, 4)
    transitions: bool = True
    importance: str = "TER"  # which kinds go first; "": none
    fit: str = "oldest"  # FITS
    pick: str = "medoids"  # PICKS
    sparsity_layers: tuple[int, ...] = ()  # whose mean tells labels "sparsity"
    theta: tuple[float, ...] = ()  # E below the first, T from the second on

    def __post_init__(self) -> None:
        def need(good: bool, what: str) -> None:
            if not good:
                raise ValueError(f"{self.name}: {what}")
        need(self.policy in POLICIES, f"policy {self.policy!r}: one of {POLICIES}")
        need(self.score in SCORES, f"score {self.score!r}: one of {SCORES}")
        need(self.reduce in REDUCTIONS, f"reduce {self.reduce!r}: one of {REDUCTIONS}")
        need(is_format(self.key_format), f"key_format {self.key_format!r}")
        need(is_format(self.value_format), f"value_format {self.value_format!r}")
        need(self.key_scales in SCALES, f"key_scales {self.key_scales!r}: one of {SCALES}")
        need(self.value_scales in SCALES, f"value_scales {self.value_scales!r}: one of {SCALES}")
        need(self.policy in ("full", "thinkv") or self.budget > self.recent,
             f"a budget of {self.budget} must be above recent = {self.recent}")
        need(0 <= self.recent_share <= 1, "recent_share in [0, 1]")
        need(self.interval > 0 and self.interval % BLOCK == 0,
             f"interval {self.interval}: a multiple of {BLOCK}")
        need(self.policy != "anticipate"
             or self.queries + self.last_queries + self.online_queries > 0, "nothing to score by")
        need(self.labels is None or self.labels in SOURCES,
             f"labels {self.labels!r}: one of {SOURCES}")
        need(self.labels != "sparsity" or len(self.theta) == 2 and len(self.sparsity_layers) > 0,
             "labels by sparsity want sparsity_layers and two values of theta")
        need(all(not precision or _PRECISION.fullmatch(precision)
                 for precision in (self.key_precision, self.value_precision)),
             "key_precision, value_precision: as R4E4T2, with 2, 4, 8 or 16 bits")
        need(self.importance == "" or sorted(self.importance) == sorted(KINDS),
             f"importance {self.importance!r}: {KINDS} in some order, or none")
        need(self.tau > 0 and self.tau % BLOCK == 0, f"tau {self.tau}: a multiple of {BLOCK}")
        need(self.pick in PICKS, f"pick {self.pick!r}: one of {PICKS}")
        need(self.fit in FITS, f"fit {self.fit!r}: one of {FITS}")
        need(self.policy != "thinkv" or self.labels is not None and self.interval == BLOCK,
             f"thinkv wants labels, and an interval of {BLOCK}")
        need(self.score != "residue_distance" or self.residue is not None,
             "residue_distance without a residue")
        need(self.shares in SHARES, f"shares {self.shares!r}: one of {SHARES}")
        need(self.shares_by in ("layer", "lane"), f"shares_by {self.shares_by!r}: layer or lane")
        need(self.shares_from in LOSSES, f"shares_from {self.shares_from!r}: one of {LOSSES}")
        need(self.shares_at >= 0 and 0 <= self.each_first <= self.budget,
             "shares_at from 0 on, each_first in [0, budget]")
        need(self.shares_every > 0 and self.shares_every % BLOCK == 0,
             f"shares_every {self.shares_every}: a multiple of {BLOCK}")
        need(0 <= self.floor <= 1 and -1 < self.slope < 1 and 0 < self.power <= 2,
             "floor in [0, 1], slope in (-1, 1), power in (0, 2]")
        need(not self.eager or self.shares != "pooled", "eager: not of shares that are pooled")
        need(self.shares == "equal" or self.policy == "anticipate" and self.labels is None
             and self.key_scales == self.value_scales == "token",
             "shares: of anticipate alone, without labels, scales by token")


def read_spec(fields: dict[str, Any]) -> Spec:
    """From a JSON object; raises ValueError for what it doesn't know."""
    known = {field.name for field in dataclasses.fields(Spec)}
    unknown = sorted(set(fields) - known)
    if unknown:
        raise ValueError(f"{fields.get('name', '?')}: unknown fields {', '.join(unknown)}")
    return Spec(**{name: tuple(value) if isinstance(value, list) else value
                   for name, value in fields.items()})


def to_line(spec: Spec) -> dict[str, Any]:
    """What says this run: name, policy, budget, and every field that is not its default."""
    line = {"name": spec.name, "policy": spec.policy}
    if spec.policy != "full":
        line.update(budget=spec.budget, interval=spec.interval)
        if spec.policy != "thinkv":
            line["recent"] = spec.recent
    for field in dataclasses.fields(Spec):
        value = getattr(spec, field.name)
        if field.name not in line and field.default != value and field.name != "budget":
            line[field.name] = list(value) if isinstance(value, tuple) else value
    if spec.policy == "anticipate":
        line.update(score=spec.score, queries=spec.queries)
    return line
