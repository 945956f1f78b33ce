# SPDX-License-Identifier: Apache-2.0
"""lab/simulation's budgets that differ by layer or lane: who gets how many, and what is then held."""
from __future__ import annotations

import dataclasses
import pathlib
import sys

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

LAB = pathlib.Path(__file__).resolve().parents[2] / "lab"
sys.path.insert(0, str(LAB))

from reasoner import countdown  # noqa: E402
from simulation.budgets import (UnevenRun, apportion, fixed_counts, lost_on,  # noqa: E402
                                pooled_counts)
from simulation.codebook import FileCodebook  # noqa: E402
from simulation.network import Network  # noqa: E402
from simulation.run import Run  # noqa: E402
from simulation.spec import Spec  # noqa: E402
from simulation.uneven import UnevenLanes  # noqa: E402

MODEL = LAB / "reasoner" / "model"
PINNED = 10


def spec(**fields) -> Spec:
    return Spec("x", "anticipate", **{"budget": 48, "interval": 32, "residue": 1, **fields})


def random(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def reasoner() -> tuple[Network, list[torch.Tensor], torch.Tensor]:
    torch.set_grad_enabled(False)
    network = Network(MODEL, "cpu")
    tokens = [list(countdown.solve(numbers, goal).tokens)[:224]
              for numbers, goal in (([23, 18, 16], 80), ([3, 4, 5, 6], 24))]
    shortest = min(map(len, tokens)) // 32 * 32
    book = FileCodebook(MODEL / "queries.safetensors", network).of(256)
    return network, book, torch.tensor([own[:shortest] for own in tokens])


def read(run: Run, tokens: torch.Tensor) -> torch.Tensor:
    return torch.cat([run.step(part) for part in tokens.split(32, 1)], 1)


def test_whole_numbers_add_up_and_follow_the_weights():
    weights = random(7, 3)
    counts = apportion(weights, 1000)
    assert counts.sum() == 1000
    assert (counts - weights / weights.sum() * 1000).abs().max() < 1


def test_a_pyramid_falls_evenly():
    counts = fixed_counts(spec(shares="pyramid", slope=0.5, budget=64), 5, 2, None)
    assert counts.T.tolist() == [[96, 80, 64, 48, 32]] * 2


def test_measured_shares_are_a_floor_and_a_part_in_proportion():
    lost = torch.tensor([[3.0, 1], [0, 0]])
    by_lane = spec(shares="measured", shares_by="lane", floor=0.5, budget=64)
    assert fixed_counts(by_lane, 2, 2, lost).tolist() == [[128, 64], [32, 32]]
    by_layer = spec(shares="measured", floor=0.5, budget=64)
    assert fixed_counts(by_layer, 2, 2, lost).tolist() == [[96, 96], [32, 32]]


def test_less_than_in_proportion_and_the_first_tokens_of_each():
    lost = torch.tensor([[9.0, 1], [4, 4]])
    root = spec(shares="measured", shares_by="lane", floor=0, power=0.5, budget=64)
    assert fixed_counts(root, 2, 2, lost).tolist() == [[96, 32], [64, 64]]
    first = dataclasses.replace(root, each_first=16)
    assert fixed_counts(first, 2, 2, lost).tolist() == [[88, 40], [64, 64]]


def test_pooled_counts_are_one_threshold_above_a_floor():
    scores = [random(3, 2, 40), 3 * random(3, 2, 50)]
    counts = pooled_counts(scores, 5, 2 * 2 * 20, by_layer=False)
    assert (counts.sum((1, 2)) == 80).all() and counts.min() >= 5
    for row, of_row in enumerate(counts):
        kept = [score[row, head].sort(descending=True).values
                for layer, score in enumerate(scores) for head in range(2)]
        least = min(own[n - 1] for own, n in zip(kept, of_row.flatten()) if n > 5)
        assert all(own[n] <= least for own, n in zip(kept, of_row.flatten()) if n < len(own))
    by_layer = pooled_counts(scores, 5, 2 * 2 * 20, by_layer=True)
    assert (by_layer[..., 0] == by_layer[..., 1]).all() and (by_layer.sum((1, 2)) == 80).all()


def test_a_lane_keeps_its_best_and_the_rest_becomes_residue():
    lanes, score = UnevenLanes(), random(2, 2, 12)
    keys, values = random(2, 2, 12, 4), random(2, 2, 12, 4) + 1
    lanes.append(keys, values, torch.arange(12).expand(2, 2, 12))
    counts = torch.tensor([[3, 12], [5, 0]])
    lanes.keep_best_of_each(score, counts, True)
    lanes.append(keys[:, :, :2], values[:, :, :2], torch.arange(12, 14).expand(2, 2, 2))
    assert ((~lanes.dead).sum(-1) == counts + 2).all()
    best = score[1, 0].topk(5).indices.sort().values.tolist()
    own = lanes.positions[1, 0]
    assert own[own >= 0].tolist() == [*best, 12, 13]
    gone = [i for i in range(12) if i not in best]
    assert torch.allclose(lanes.residue.value[1, 0, 0], values[1, 0, gone].mean(0))
    logits = lanes.residue.logits(random(2, 2, 1, 4), 0.5)
    assert logits[0, 1].item() == float("-inf") and logits[0, 0].isfinite().all()


def test_equal_shares_are_what_equal_lanes_do(reasoner):
    network, book, tokens = reasoner
    wanted, run = Run(network, spec(), PINNED, book), \
        UnevenRun(network, spec(shares="pyramid", slope=0.0), PINNED, book)
    assert torch.allclose(read(run, tokens), read(wanted, tokens), atol=1e-4)
    assert run.figures() == {**wanted.figures(), "lane_least": 48, "lane_largest": 48}
    for own, lanes in zip(run.lanes, wanted.lanes):
        assert torch.equal(own.positions, lanes.positions)


@pytest.mark.parametrize("by", ["layer", "lane"])
@pytest.mark.parametrize("shares", ["pyramid", "measured", "pooled"])
def test_all_hold_as_much_as_equal_shares_do(reasoner, shares, by):
    network, book, tokens = reasoner
    own = spec(shares=shares, shares_by=by)
    lost = lost_on(network, own, PINNED, book, tokens, torch.full((2,), tokens.shape[1]))
    assert lost.shape == (network.layers, network.kv_heads) and (lost > 0).all()
    run = UnevenRun(network, own, PINNED, book, lost=lost)
    assert read(run, tokens).isfinite().all()
    counts = torch.stack([(~lanes.dead).sum(-1) for lanes in run.lanes], 1)
    assert (counts.sum((1, 2)) == network.layers * network.kv_heads * (48 + PINNED)).all()
    assert counts.min() >= PINNED + 24 and len(counts.unique()) > 1
    assert by == "lane" or (counts[..., 0] == counts[..., 1]).all()
    end = tokens.shape[1]
    for lanes in run.lanes:
        assert (lanes.positions[..., :PINNED] == torch.arange(PINNED)).all()
        recent = (lanes.positions >= end - own.recent).sum(-1)
        assert (recent == own.recent).all()


def test_of_a_full_cache_what_would_go_is_noted_and_stays(reasoner):
    network, book, tokens = reasoner
    own = spec(budget=16, shares="measured", shares_by="lane", shares_from="full", shares_every=32,
               recent=8)
    lengths = torch.tensor([tokens.shape[1], 70])
    all_of_it = spec(shares="pyramid", slope=0.0, budget=4096, recent=8)
    full = UnevenRun(network, all_of_it, PINNED, book)
    wanted = torch.zeros(network.layers, network.kv_heads)
    for part in tokens.split(32, 1):
        full.step(part)
        for layer, lost in enumerate(wanted):
            ranked = full.scores(layer).sort(-1, descending=True).values[lengths >= full.next]
            lost += ranked[..., 16 + PINNED:].sum((0, 2))
    lost = lost_on(network, own, PINNED, book, tokens, lengths)
    assert torch.allclose(lost, wanted, rtol=1e-4)
    with_less = dataclasses.replace(own, shares_at=12)
    assert (lost_on(network, with_less, PINNED, book, tokens, lengths) > lost).all()


def test_an_eager_lane_starts_as_soon_as_it_has_more_than_its_own(reasoner):
    network, book, tokens = reasoner
    lost = torch.ones(network.layers, network.kv_heads)
    lost[0, 0] = 9
    own = spec(budget=96, shares="measured", shares_by="lane", floor=0.25)
    late, eager = (UnevenRun(network, dataclasses.replace(own, eager=eager), PINNED, book,
                             lost=lost) for eager in (False, True))
    read(late, tokens[:, :96]), read(eager, tokens[:, :96])
    counts = [[(~lanes.dead).sum(-1)[0].tolist() for lanes in run.lanes] for run in (late, eager)]
    assert counts[0] == [[96, 96]] * network.layers
    least = eager.spread()["lane_least"] + PINNED
    assert counts[1] == [[96, least], *[[least, least]] * (network.layers - 1)]


def test_a_larger_lane_keeps_more_of_the_newest(reasoner):
    network, book, tokens = reasoner
    lost = torch.ones(network.layers, network.kv_heads)
    lost[0, 0] = 100
    own = spec(budget=48, shares="measured", shares_by="lane", recent_share=0.5)
    run = UnevenRun(network, own, PINNED, book, lost=lost)
    spread = run.spread()
    assert run.newest(0).tolist() == [[(spread["lane_largest"] - 128) // 2], [16]]
    assert Run(network, spec(budget=228, recent_share=0.5), PINNED, book).newest(0) == 50
    assert Run(network, spec(recent_share=0.5), PINNED, book).newest(0) == 16


def test_shares_that_cannot_be_are_refused(reasoner):
    network, book, tokens = reasoner
    with pytest.raises(ValueError, match="recent"):
        UnevenRun(network, spec(shares="pyramid", slope=0.9), PINNED, book)
    with pytest.raises(ValueError, match="nothing goes"):
        lost_on(network, spec(shares="measured", shares_from="full"), PINNED, book, tokens,
                torch.full((2,), tokens.shape[1]))
    with pytest.raises(ValueError, match="pooled"):
        spec(shares="pooled", eager=True)
    with pytest.raises(ValueError, match="shares_from"):
        spec(shares="measured", shares_from="elsewhere")
    with pytest.raises(ValueError, match="of anticipate alone"):
        Spec("x", "h2o", budget=64, shares="pooled")
