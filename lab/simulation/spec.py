# SPDX-License-Identifier: Apache-2.0
"""One run's settings: the fields of a sweep's lines, and of the results'."""
from __future__ import annotations

import dataclasses
from typing import Any

from .formats import SCALES, is_format

BLOCK = 32  # tokens a step reads; selection happens between steps

POLICIES = ("full", "anticipate", "rkv", "h2o", "longflow", "window", "random")
SCORES = ("probability", "value_norm", "distance", "removal_error", "residue_distance")
REDUCTIONS = ("max", "top4", "square_sum", "sum")


@dataclasses.dataclass(frozen=True)
class Spec:
    name: str
    policy: str  # POLICIES
    budget: int = 0  # tokens of a lane that stay when one selects, without the prompt
    interval: int = 64  # tokens between two selections; a multiple of BLOCK
    recent: int = 16  # newest tokens that always stay, within the budget
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
        need(self.policy == "full" or self.budget > self.recent,
             f"a budget of {self.budget} must be above recent = {self.recent}")
        need(self.interval > 0 and self.interval % BLOCK == 0,
             f"interval {self.interval}: a multiple of {BLOCK}")
        need(self.policy != "anticipate"
             or self.queries + self.last_queries + self.online_queries > 0, "nothing to score by")
        need(self.score != "residue_distance" or self.residue is not None,
             "residue_distance without a residue")


def read_spec(fields: dict[str, Any]) -> Spec:
    """From a JSON object; raises ValueError for what it doesn't know."""
    known = {field.name for field in dataclasses.fields(Spec)}
    unknown = sorted(set(fields) - known)
    if unknown:
        raise ValueError(f"{fields.get('name', '?')}: unknown fields {', '.join(unknown)}")
    fields = dict(fields)
    if "ahead" in fields:
        fields["ahead"] = tuple(fields["ahead"])
    return Spec(**fields)


def to_line(spec: Spec) -> dict[str, Any]:
    """What says this run: name, policy, budget, and every field that is not its default."""
    line = {"name": spec.name, "policy": spec.policy}
    if spec.policy != "full":
        line.update(budget=spec.budget, interval=spec.interval, recent=spec.recent)
    for field in dataclasses.fields(Spec):
        value = getattr(spec, field.name)
        if field.name not in line and field.default != value and field.name != "budget":
            line[field.name] = list(value) if isinstance(value, tuple) else value
    if spec.policy == "anticipate":
        line.update(score=spec.score, queries=spec.queries)
    return line
