# SPDX-License-Identifier: Apache-2.0
"""lab/simulation's ThinKV: its plan, its labels, and which tokens of a segment stay."""
from __future__ import annotations

import pathlib
import sys

import pytest

np = pytest.importorskip("numpy")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lab"))

from simulation.labels import E, R, T, make, of_windows  # noqa: E402
from simulation.segments import Planner, Rules, follow  # noqa: E402

STEPS = (64, 32, 16, 8, 4)


def planner_of(labels: list[int], rules: Rules, tokens: int = 128) -> Planner:
    planner = Planner(rules)
    for label in labels:
        planner.start(label)
        planner.write(tokens)
    return planner


def counts(planner: Planner) -> list[int]:
    return [segment.count for segment in planner.segments]


def test_a_transition_lowers_every_older_segment_one_step():
    planner = planner_of([R, E, T, R, T], Rules(budget=10_000))
    planner.plan()
    assert counts(planner) == [32, 32, 64, 64, 128]


def test_without_transitions_nothing_goes_below_the_budget():
    planner = planner_of([R, E, T, R, T], Rules(budget=10_000, transitions=False))
    assert planner.plan() == [] and counts(planner) == [128] * 5


def test_over_budget_the_least_important_go_to_the_floor_oldest_first():
    planner = planner_of([R, T, E, T, R], Rules(budget=300, transitions=False))
    planner.plan()
    assert counts(planner) == [128, 4, 32, 4, 128] and planner.live <= 300


def test_importance_is_a_setting():
    planner = planner_of([R, T, E, T, R], Rules(300, transitions=False, importance="RTE"))
    planner.plan()
    assert counts(planner) == [4, 4, 128, 32, 128]


def test_without_importance_the_oldest_goes_whatever_it_is():
    planner = planner_of([R, T, E, T, R], Rules(300, transitions=False, importance=""))
    planner.plan()
    assert counts(planner) == [4, 4, 32, 128, 128]


def test_at_the_floor_T_and_E_go_whole_and_R_stays():
    planner = planner_of([R, T, E, R, R], Rules(budget=10, transitions=False))
    planner.plan()
    assert counts(planner) == [4, 0, 0, 4, 128]


def test_a_level_fits_the_budget_and_heeds_shares():
    rules = Rules(256, transitions=False, importance="", fit="level", shares=(1, 2, 1))
    planner = planner_of([E, R, E, R], rules)
    planner.plan()
    e, r = counts(planner)[:2]
    assert planner.live <= 256 and 2 * e == r == 64


@pytest.mark.parametrize("fit", ["oldest", "level"])
def test_lowerings_say_where_segments_lie_and_counts_add_up(fit):
    random = np.random.default_rng(0)
    planner, laid_out = Planner(Rules(200, STEPS, fit=fit)), []
    for label in random.integers(0, 3, 60):
        planner.start(int(label))
        laid_out.append(0)
        for tokens in (32, 32, 32):
            planner.write(tokens)
            laid_out[-1] += tokens
            firsts = [sum(laid_out[:i]) for i in range(len(laid_out))]
            for order in planner.plan():
                assert (order.first, order.count) in zip(firsts, laid_out)
                assert order.keep < order.count
            laid_out = counts(planner)
            assert sum(planner.live_by_label) == planner.live == sum(laid_out)
            assert min(laid_out) >= 0


def test_a_segment_opens_when_the_one_before_has_ended():
    labels, starts = np.full(300, R), np.zeros(300, bool)
    starts[[10, 128, 256]] = True
    planner = Planner(Rules(10_000))
    opened = []
    for first in range(0, 288, 32):
        follow(planner, labels, starts, first, first + 32)
        opened.append(counts(planner))
    assert opened[0] == [22] and opened[3] == [118, 0] and opened[-1] == [118, 128, 32]


def test_labels_of_windows():
    kinds = np.repeat([-1, R, E, T, E], [8, 30, 60, 40, 22])
    assert of_windows(kinds, 8, 32).tolist() == [R, E, E, T, E]
    for source, wanted in (("R", [R, R, R, R]), ("true", [R, E, E, T]), ("before", [R, R, E, E])):
        labels = make(source, [kinds], 160, 8, 32)
        assert labels.of_token[0, 8:128:32].tolist() == wanted
        assert np.flatnonzero(labels.starts[0])[:3].tolist() == [8, 32, 64]
    shuffled = make("shuffled", [kinds], 160, 8, 32)
    assert sorted(shuffled.of_token[0, 16::32]) == sorted([R, E, E, T, E])
    assert make("thoughts", [kinds], 160, 8, 32).starts[0].nonzero()[0].tolist() == [8, 38, 98, 138]


def test_medoids_are_those_of_the_transcription():
    torch = pytest.importorskip("torch")
    from fidelity.thinkv import medoids
    from simulation import picks
    random = np.random.default_rng(1)
    points = random.normal(size=(6, 40, 8)).astype(np.float32)
    count, keep = [40, 40, 32, 17, 9, 3], [4, 16, 32, 8, 1, 0]
    found = picks.medoids(torch.tensor(points), torch.tensor(count), torch.tensor(keep))
    for chosen, own, n, k in zip(found, points, count, keep):
        wanted = medoids(own[:n].astype(np.float64), k)[0].tolist() if k else []
        assert chosen.nonzero()[:, 0].tolist() == wanted
    none = torch.zeros(6, dtype=torch.long)
    assert not picks.medoids(torch.tensor(points), torch.tensor(count), none).any()


def test_every_pick_keeps_as_many_as_it_should_and_members_only():
    torch = pytest.importorskip("torch")
    from simulation import picks
    count, keep = torch.tensor([20, 12, 5, 1]), torch.tensor([7, 12, 0, 1])
    valid = (torch.arange(20) < count[:, None])[:, None]
    score = torch.rand(3, 4, 2, 20)
    for found in (picks.best(score, valid, keep), picks.spaced(valid, count, keep)):
        assert (found.sum(-1) == keep[:, None]).all() and not (found & ~valid).any()
    spaced = picks.spaced(valid, count, keep)[0, 0].nonzero()[:, 0].tolist()
    assert spaced == [j * 20 // 7 for j in range(7)]


def test_runs_side_by_side_hold_what_was_foreseen_in_every_lane():
    torch = pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    if not hasattr(torch, "float8_e4m3fn"):
        pytest.skip("PyTorch before 2.1: scales are fp8")
    from simulation import chains, thinkv
    from simulation.labels import kinds_of
    from simulation.network import Network
    from simulation.spec import Spec
    torch.set_grad_enabled(False)
    lab = pathlib.Path(__file__).resolve().parents[2] / "lab" / "reasoner"
    found = chains.load(lab / "problems" / "short.jsonl", 200, 420, 2)
    kinds, pinned = [kinds_of(chain) for chain in found], chains.prompt_tokens(found)
    common = {"policy": "thinkv", "interval": 32, "tau": 64}
    specs = [Spec("by label", budget=96, labels="true", key_precision="R4E4T2",
                  value_precision="R4E8T2", **common),
             Spec("level", budget=72, labels="R", fit="level", **common)]
    network = Network(lab / "model", "cpu")
    run = thinkv.labelled_run(network, specs, pinned, None, kinds)
    alone = thinkv.labelled_run(network, specs[1:], pinned, None, kinds)
    tokens, _ = chains.pack(found, "cpu")
    for first in range(0, tokens.shape[1], 32):
        block = tokens[:, first:first + 32]
        run.step(block.repeat(2, 1))
        alone.step(block)
        for lanes, own in zip(run.lanes, alone.lanes):
            alive = lanes.positions >= 0
            assert (alive.sum(-1) == lanes.live[:, None]).all()
            assert (lanes.positions[..., :pinned] == torch.arange(pinned)).all()
            assert (lanes.positions.diff(dim=-1)[alive[..., 1:]] > 0).all()
            assert (lanes.live[2:] == own.live).all()
    for spec, figures in zip(specs, run.figures_of_each()):
        labels = thinkv.labels_of(spec, kinds, pinned)
        foreseen = thinkv.foresee(spec, labels, network.head_dim, pinned)
        assert figures["bytes_percent"] == pytest.approx(foreseen)


def test_only_runs_that_choose_alike_go_side_by_side():
    pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    from simulation import thinkv
    from simulation.spec import Spec
    common = {"policy": "thinkv", "interval": 32, "labels": "R"}
    specs = [Spec("a", budget=64, **common), Spec("b", budget=64, pick="newest", **common),
             Spec("c", budget=96, **common), Spec("d", "anticipate", budget=64),
             Spec("d", "anticipate", budget=96)]
    groups = [sorted(spec.name for spec in group) for group in thinkv.groups_of(specs, 100)]
    assert sorted(groups) == [["a", "c"], ["b"], ["d"], ["d"]]
    assert len(thinkv.groups_of(specs, 10_000)) == len(specs)
