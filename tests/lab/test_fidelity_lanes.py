# SPDX-License-Identifier: Apache-2.0
"""lab/fidelity's anticipate, where lanes have shares: what each keeps, and from when on."""
from __future__ import annotations

import pathlib
import sys

import pytest

np = pytest.importorskip("numpy")

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lab"))

from fidelity.anticipate import Anticipate, lane_budgets  # noqa: E402
from fidelity.recording import Recording  # noqa: E402

LAYERS, KV_HEADS, GROUP, DIM = 3, 2, 2, 8
PROMPT, TOKENS, BUDGET, WINDOW = 21, 320, 96, 16
SHARES = np.array([[1.92, 0.35], [0.81, 0.62], [0.62, 1.68]])
BUDGETS = [[176, 48], [80, 64], [64, 144]]  # 16 and, of 30 steps, 10, 2; 4, 3; 3, 8


def recording(shares: np.ndarray) -> Recording:
    random = np.random.default_rng(5)

    def drawn(heads: int) -> np.ndarray:
        return random.normal(size=(TOKENS, LAYERS, heads, DIM))

    k, v = drawn(KV_HEADS), drawn(KV_HEADS)
    return Recording(
        spec={"budget_tokens": BUDGET, "window_tokens": WINDOW}, prompt_tokens=PROMPT,
        step_tokens=[16, 5] + [1] * (TOKENS - PROMPT), q=drawn(KV_HEADS * GROUP), new_k=k, new_v=v,
        k=k, v=v, live=np.zeros(0, bool), sparsity=np.zeros(0),
        inverse_frequencies=np.full(DIM // 2, 0.1),
        codebook=random.normal(size=(LAYERS, KV_HEADS * GROUP, 16, DIM)), lane_shares=shares)


def followed(shares: np.ndarray) -> tuple[Anticipate, list[tuple[int, np.ndarray]]]:
    """And the tokens read, and how many live after the prompt in each lane, at windows' ends."""
    seen = []

    class Watched(Anticipate):
        def act(self, window_ended: bool) -> None:
            super().act(window_ended)
            if window_ended:
                seen.append((self.tokens, self.live[:, :, PROMPT:].sum(-1)))

    follower = Watched(recording(shares))
    for count in follower.recording.step_tokens:
        follower.step(count)
    return follower, seen


def test_each_lane_has_the_least_and_its_share_of_the_rest():
    assert lane_budgets(SHARES, BUDGET).tolist() == BUDGETS
    assert lane_budgets(np.ones((2, 3)), 96).tolist() == [[96] * 3] * 2
    assert lane_budgets(np.array([[2, 0.5, 0.5]]), 33).tolist() == [[49, 33, 17]]
    assert lane_budgets(np.array([[2, 0.5, 0.5]]), 17).tolist() == [[17, 17, 17]]
    assert lane_budgets(np.array([[2, 0.5, 0.5]]), 9).tolist() == [[9, 9, 9]]


@pytest.mark.parametrize("mean", [32, 100, 577, 4096])
def test_no_token_is_lost_and_a_larger_share_never_keeps_less(mean):
    shares = np.random.default_rng(mean).lognormal(sigma=1.2, size=(30, 3))
    shares /= shares.mean()
    budgets = lane_budgets(shares, mean)
    assert budgets.sum() == mean * shares.size
    assert (np.diff(budgets.ravel()[np.argsort(shares, axis=None)]) >= 0).all()


def test_a_lane_chooses_from_the_first_window_on_that_leaves_it_more_than_its_own():
    follower, seen = followed(SHARES)
    assert len(seen) > 15
    for tokens, live in seen:
        assert (live == np.minimum(BUDGETS, tokens - PROMPT)).all()
    assert follower.live[:, :, :PROMPT].all()


def test_the_newest_that_stay_follow_from_the_lanes_own_budget():
    follower, _ = followed(SHARES)
    end = follower.window_start
    chosen = ~np.isnan(follower.scores)
    for layer, head, newest in ((0, 0, 24), (2, 1, 16), (0, 1, 16)):
        assert np.flatnonzero(chosen[layer, head]).max() == end - newest - 1


def test_equal_shares_are_one_budget_for_all():
    _, seen = followed(np.ones((LAYERS, KV_HEADS)))
    assert all((live == min(BUDGET, tokens - PROMPT)).all() for tokens, live in seen)
