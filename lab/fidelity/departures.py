# SPDX-License-Identifier: Apache-2.0
"""What the engine does otherwise than a paper or its code says, on purpose, and how much it
matters: the share of survivors that each policy's literal rules would exchange, on a recording.

Usage, from lab/:  python3 -m fidelity.departures RECORDING...
"""
import sys

import numpy as np

from . import POLICIES
from .recording import Recording, read


def exchanged(recording: Recording, rules: dict[str, bool]) -> float:
    """Of the engine's survivors after the prompt, at all steps that evicted some, those that the
    rules would not have kept. What follows from a choice counts: the rules go on with theirs."""
    follower = POLICIES[recording.spec["policy"]](recording, **rules)
    lost = survivors = 0
    before = recording.live[0]
    for step, count in enumerate(recording.step_tokens):
        follower.step(count)
        theirs = recording.live[step]
        if (before & ~theirs).any():
            generated = np.s_[..., recording.prompt_tokens:]
            survivors += int(theirs[generated].sum())
            lost += int((theirs & ~follower.live)[generated].sum())
        before = theirs
    return lost / survivors


def cases(policy: str) -> dict[str, dict[str, bool]]:
    """Literal rules one by one, and all of them."""
    literal = POLICIES[policy].LITERAL
    each = {rule: {rule: value} for rule, value in literal.items()}
    return {**each, "all of them": literal} if len(literal) > 1 else each


def main() -> None:
    shares: dict[tuple[str, str], dict[str, float]] = {}  # of each policy and rule, by source
    sources: dict[str, None] = {}  # in order
    for path in sys.argv[1:]:
        recording = read(path)
        policy, source = recording.spec["policy"], recording.spec["source"]
        sources[source] = None
        for case, rules in cases(policy).items():
            shares.setdefault((policy, case), {})[source] = exchanged(recording, rules)
    print(f"| policy | literal rule | {' | '.join(sources)} |\n|---|---|{'---|' * len(sources)}")
    for (policy, case), of_source in shares.items():
        cells = (f"{of_source[s]:.1%}" if s in of_source else "" for s in sources)
        print(f"| {policy} | {case} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
