# SPDX-License-Identifier: Apache-2.0
"""lab/simulation's formats: what comes back, whose elements share a scale, what it takes."""
from __future__ import annotations

import pathlib
import sys

import pytest

torch = pytest.importorskip("torch")
if not hasattr(torch, "float8_e4m3fn"):
    pytest.skip("this PyTorch has no float8_e4m3fn", allow_module_level=True)

LAB = pathlib.Path(__file__).resolve().parents[2] / "lab"
sys.path.insert(0, str(LAB))

from reasoner import countdown  # noqa: E402
from simulation.centres import mean_keys  # noqa: E402
from simulation.formats import FORMATS, SCALES, bytes_of, stored  # noqa: E402
from simulation.lanes import Lanes  # noqa: E402
from simulation.network import Network, hadamard  # noqa: E402
from simulation.run import Run  # noqa: E402
from simulation.side_by_side import SideBySide  # noqa: E402
from simulation.spec import Spec  # noqa: E402
from simulation.storage import Storage  # noqa: E402

SCALED = [name for name in FORMATS if name != "bf16"]
# Half of the widest gap between levels, in shares of the block's largest element; with what E4M3
# makes of the scale (a sixteenth), which may also cut the largest element.
WORST = {"fp8": 1 / 16, "nvfp4": 1 / 6, "int4": 0.5 / 7, "int3": 0.5 / 3, "int2": 0.5,
         "even3": 0.2, "even2": 0.4, "offset3": 1 / 7, "offset2": 1 / 3}
# Squared error of normal elements, of theirs; rounded up.
SPREAD = {"fp8": 0.001, "nvfp4": 0.010, "int4": 0.008, "offset3": 0.024, "even3": 0.028,
          "int3": 0.042, "even2": 0.11, "offset2": 0.13, "ternary": 0.18, "int2": 0.36}
BITS = {"bf16": 16, "fp8": 8.5, "nvfp4": 4.5, "int4": 4.5, "int3": 3.5, "even3": 3.5,
        "offset3": 4, "ternary": 2.5, "int2": 2.5, "even2": 2.5, "offset2": 3}


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("name", WORST)
def test_no_element_is_off_by_more_than_half_a_step(name, scales):
    x = normal(64, 16)
    back = stored(x, name, scales)
    largest = x.unflatten(0, (-1, 16)).abs().amax(1) if scales == "channel" else x.abs().amax(1)
    largest = largest.repeat_interleave(16, 0) if scales == "channel" else largest[:, None]
    assert ((back - x).abs() <= largest * (WORST[name] + 1 / 16)).all()


@pytest.mark.parametrize("name", SPREAD)
def test_the_squared_error_of_normal_elements(name):
    x = normal(1024, 64)
    assert (stored(x, name) - x).pow(2).mean() <= SPREAD[name] * x.pow(2).mean()


@pytest.mark.parametrize("name", SCALED)
def test_a_scale_of_the_channel_is_a_scale_of_the_token_turned_round(name):
    x = normal(2, 16, 16)
    assert torch.equal(stored(x, name, "channel"), stored(x.mT, name, "token").mT)


@pytest.mark.parametrize("name", SCALED)
def test_tokens_of_other_groups_do_not_matter(name):
    x = normal(2, 48, 64)
    for scales in SCALES:
        whole = stored(x, name, scales)
        parts = [stored(part, name, scales) for part in x.split(16, -2)]
        assert torch.equal(whole, torch.cat(parts, -2))


def test_an_outlier_channel_spoils_its_neighbours_only_where_they_share_its_scale():
    x = normal(64, 64)
    x[:, 5] *= 30
    others = torch.arange(16) != 5  # of the same 16 channels

    def error(scales: str) -> float:
        return (stored(x, "int3", scales) - x)[:, :16][:, others].pow(2).mean().item()

    assert error("token") > 10 * error("channel")


def test_an_outlier_token_spoils_its_neighbours_only_where_they_share_its_scale():
    x = normal(64, 64)
    x[5] *= 30
    others = torch.arange(16) != 5

    def error(scales: str) -> float:
        return (stored(x, "int3", scales) - x)[:16][others].pow(2).mean().item()

    assert error("channel") > 10 * error("token")


@pytest.mark.parametrize("name", SCALED)
def test_zeros_and_constants_come_back_finite(name):
    for value in (0.0, 1e-9, -3.0, 400.0):
        back = stored(torch.full((16, 16), value), name)
        assert back.isfinite().all()
        assert value != 0 or (back == 0).all()


def test_a_block_far_from_zero_keeps_its_differences_where_it_has_an_offset():
    x = 20 + normal(64, 16)
    error = (stored(x, "offset3") - x).pow(2).mean()
    assert error < 0.1 * (stored(x, "int3") - x).pow(2).mean()


@pytest.mark.parametrize("name", BITS)
def test_bits_of_an_element_with_all_that_lies_beside_it(name):
    assert sum(bytes_of(name, 64)) * 8 / 64 == BITS[name]
    few_levels = len(stored(normal(1, 16), name).unique())
    assert few_levels <= 2 ** int(BITS[name])


def held(positions: list[int], **fields) -> float:
    lanes = Lanes()
    lanes.append(normal(1, 1, len(positions), 64), normal(1, 1, len(positions), 64),
                 torch.tensor(positions)[None, None])
    return float(Storage(Spec("x", "full", **fields), 64).held([lanes]))


def test_bytes_of_a_lane_are_those_of_the_page_layout():
    open_group, slot = 2 * 16 * 64 * 2, 4 + 1 / 8
    assert held(range(32), key_format="nvfp4", value_format="ternary") == \
        open_group + 32 * (36 + 20 + slot)
    assert held(range(32), residue=1) == open_group + 4 * (2 * 64 + 4) + 32 * (256 + slot)


def test_scales_of_a_channel_cost_no_more_until_tokens_are_evicted():
    def more(positions) -> float:
        return held(positions, key_format="int3", key_scales="channel") - \
            held(positions, key_format="int3")

    assert more(range(64)) == 0
    assert more([0, 16, 32, 48]) == 4 * (64 - 4)  # each token keeps its group's, 64 bytes


def test_percent_is_of_all_tokens_in_bf16():
    storage = Storage(Spec("x", "full", key_format="nvfp4", value_format="nvfp4"), 64)
    lanes = Lanes()
    for first in range(0, 4096, 32):
        block = torch.zeros(1, 1, 32, 64)
        lanes.append(block, block, torch.arange(first, first + 32)[None, None])
        storage.see([lanes], 32)
    found = storage.figures()["bytes_percent"]
    assert abs(found - 100 * (4096 + 2048 * (72 + 4.125)) / (2048 * 256)) < 0.01


@pytest.mark.parametrize("dim", [64, 128])
def test_the_rotation_is_its_own_inverse(dim):
    h = hadamard(dim, "cpu")
    assert torch.allclose(h @ h, torch.eye(dim), atol=1e-6)


def test_centring_and_rotating_change_no_prediction_but_by_rounding():
    torch.set_grad_enabled(False)
    network = Network(LAB / "reasoner" / "model", "cpu")
    tokens = torch.tensor([list(countdown.solve([23, 18, 16], 80).tokens)[:96]])
    centres = mean_keys(network, tokens, torch.tensor([90]))

    def read(**fields) -> torch.Tensor:
        run = Run(network, Spec("x", "full", **fields), 0, centres=centres)
        return torch.cat([run.step(part) for part in tokens.split(32, 1)], 1)

    plain = read()

    def change(**fields) -> float:
        return ((read(**fields) - plain).norm() / plain.norm()).item()

    all_three = {"centre_keys": True, "rotate_keys": True, "rotate_values": True}
    for name in all_three:
        assert change(**{name: True}) < 0.01
    assert change(**all_three) < 0.01 < change(key_format="int2")


def test_formats_side_by_side_are_what_they_are_alone():
    torch.set_grad_enabled(False)
    network = Network(LAB / "reasoner" / "model", "cpu")
    tokens = torch.tensor([list(countdown.solve([23, 18, 16], 80).tokens)[:64]])
    centres = mean_keys(network, tokens, torch.tensor([64]))
    specs = [Spec("plain", "full"),
             Spec("keys", "full", key_format="int3", key_scales="channel", rotate_keys=True),
             Spec("both", "full", key_format="even2", value_format="ternary", centre_keys=True,
                  rotate_values=True)]
    together = SideBySide(network, specs, 0, centres)
    parts = torch.cat([together.step(part) for part in tokens.split(32, 1)], 1)
    for spec, part, one in zip(specs, parts, together.each):
        run = Run(network, spec, 0, centres=centres)
        alone = torch.cat([run.step(part) for part in tokens.split(32, 1)], 1)
        assert torch.allclose(part, alone[0], atol=1e-4)
        assert one.storage.figures() == run.storage.figures()
