# SPDX-License-Identifier: Apache-2.0
"""Holds a policy, as the engine and the CPU backend carry it out, against its transcription in
lab/fidelity: after every step the same tokens are live in every (layer, KV head).

Usage: fidelity_test.py ROOT RECORDER POLICY

Where the survivors differ, the scores of the exchanged tokens must be a tie in fp32; the
transcription then goes on with the engine's. Ties are counted, and bounded.
"""
import os
import pathlib
import subprocess
import sys
import tempfile

try:
    import numpy as np
except ImportError:
    # The first python3 may be a private one that does not see Debian's packages.
    if sys.executable != "/usr/bin/python3" and os.access("/usr/bin/python3", os.X_OK):
        os.execv("/usr/bin/python3", ["/usr/bin/python3", "-B", *sys.argv])
    print("SKIPPED: no python3 with numpy on this machine")
    sys.exit()

ROOT, RECORDER, POLICY = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2], sys.argv[3]
sys.path.insert(0, str(ROOT / "lab"))
from fidelity import POLICIES  # noqa: E402: found by the line above
from fidelity.recording import Recording, read  # noqa: E402

SOURCES = ("random", "quantised", "reasoner")
if POLICY == "anticipate":
    SOURCES += ("uneven",)
TIES_MAX = 0.001  # of the tokens evicted
FAILURES_SHOWN = 5


class Comparison:
    def __init__(self, recording: Recording):
        self.recording = recording
        self.follower = POLICIES[recording.spec["policy"]](recording)
        self.ties = 0
        self.differences: list[str] = []

    def run(self) -> None:
        for step, count in enumerate(self.recording.step_tokens):
            self.follower.step(count)
            theirs = self.recording.live[step]
            for layer, head in np.argwhere((self.follower.live != theirs).any(axis=-1)):
                self.judge(step, int(layer), int(head), theirs[layer, head])

    def judge(self, step: int, layer: int, head: int, theirs: np.ndarray) -> None:
        mine = self.follower.live[layer, head]
        gap = self.follower.gap(layer, head, theirs)
        if gap <= self.follower.TOLERANCE:
            self.ties += int((mine & ~theirs).sum())
        else:
            self.differences.append(
                f"step {step}, {self.follower.tokens} tokens, layer {layer}, KV head {head}: "
                f"{np.flatnonzero(mine & ~theirs).tolist()} should live, "
                f"{np.flatnonzero(theirs & ~mine).tolist()} should not; gap {gap:.2g}")
        self.follower.adopt(layer, head, theirs)

    def evicted(self) -> int:
        """Tokens, summed over lanes."""
        last = self.recording.live[-1]
        return int(last.size - last.sum())

    def complaints(self) -> list[str]:
        """What is wrong besides survivors, or makes the comparison worth little."""
        found = []
        if self.ties > TIES_MAX * self.evicted():
            found.append(f"more ties than {TIES_MAX:.1%} of the tokens evicted")
        if self.evicted() < self.recording.live[-1].size / 2:
            found.append("too little was evicted")
        stored = len(self.recording.k)
        exact = all(np.array_equal(a, b[:stored]) for a, b in (
            (self.recording.k, self.recording.new_k), (self.recording.v, self.recording.new_v)))
        if exact == (self.recording.spec["source"] in ("quantised", "uneven")):
            found.append("pages hold what was appended" if exact else "bf16 pages are not exact")
        if self.recording.spec["source"] == "uneven":
            found += self.complaints_of_lanes()
        if POLICY == "thinkv":
            found += self.complaints_of_thoughts()
        return found

    def complaints_of_lanes(self) -> list[str]:
        """By shares that differ as much as these, lanes first choose at different steps."""
        live = self.recording.live
        present = np.cumsum(self.recording.step_tokens)[:, None, None]
        begun = (live.sum(axis=-1) < present).argmax(axis=0)
        return [] if len(np.unique(begun)) > 2 else ["all lanes begin to choose together"]

    def complaints_of_thoughts(self) -> list[str]:
        mine, theirs = np.array(self.follower.sparsity), self.recording.sparsity
        # A key more or less at the limit, of some hundred, is rounding.
        if mine.shape != theirs.shape or not np.allclose(mine, theirs, rtol=0, atol=0.015):
            return [f"sparsity {theirs.tolist()}, should be {mine.tolist()}"]
        if set(self.follower.labels) != set("RET"):
            return [f"labels {self.follower.labels}: not all kinds"]
        return []


def check(source: str, folder: str) -> bool:
    path = pathlib.Path(folder) / f"{POLICY}-{source}.rec"
    subprocess.run([RECORDER, POLICY, source, str(path)], check=True, cwd=ROOT)
    comparison = Comparison(read(path))
    comparison.run()
    wrong = comparison.differences[:FAILURES_SHOWN] + comparison.complaints()
    print(f"{POLICY}, {source}: {len(comparison.recording.step_tokens)} steps, "
          f"{comparison.evicted()} tokens evicted, {comparison.ties} ties, "
          f"{len(comparison.differences)} differences", *wrong, sep="\n  ")
    return not wrong


with tempfile.TemporaryDirectory() as scratch:
    results = [check(source, scratch) for source in SOURCES]
sys.exit(0 if all(results) else 1)
