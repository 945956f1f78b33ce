# SPDX-License-Identifier: Apache-2.0
"""lab/thoughts: windows, thresholds and pictures, on sparsities made up here."""
from __future__ import annotations

import pathlib
import sys
import xml.etree.ElementTree

import pytest

np = pytest.importorskip("numpy")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lab"))

from simulation.labels import E, R, T  # noqa: E402
from thoughts import matrices, picture  # noqa: E402
from thoughts.thresholds import accuracy, confusion, fit, fit_linear  # noqa: E402
from thoughts.windows import Measured, cut  # noqa: E402


def test_a_window_is_read_where_it_ends_and_asked_for_the_next():
    kinds = np.repeat([-1, R, E, T], [4, 8, 8, 8])
    sparsity = np.arange(28, dtype=np.float32)[None] / 28
    samples = cut([Measured(sparsity, kinds, 4)], 8)
    assert samples.before.tolist() == [R, E] and samples.after.tolist() == [E, T]
    assert (samples.readings["step"][:, 0] * 28).round().tolist() == [11, 19]
    assert (samples.readings["last4"][:, 0] * 28).tolist() == pytest.approx([9.5, 17.5])
    assert (samples.readings["window"][:, 0] * 28).tolist() == pytest.approx([7.5, 15.5])
    assert samples.purity == 1.0


def test_thresholds_tell_what_can_be_told():
    random = np.random.default_rng(0)
    kinds = random.integers(0, 3, 3000)
    apart = kinds + random.uniform(0, 0.9, 3000)
    assert fit(apart, kinds, ordered=True).fitted > 0.98
    assert fit(-apart, kinds, ordered=False).fitted > 0.98
    assert fit(-apart, kinds, ordered=True).fitted < 0.6  # the order is ThinKV's
    nothing = random.uniform(0, 1, 3000)
    assert fit(nothing, kinds, ordered=False).fitted < 0.4


def test_regression_needs_no_order():
    random = np.random.default_rng(0)
    kinds = random.integers(0, 3, 3000)
    x = np.stack([kinds == E, kinds == T], 1) + random.normal(0, 0.1, (3000, 2))
    answer = fit_linear(x, kinds)(x)
    assert accuracy(kinds, answer) > 0.98
    assert confusion(kinds, answer).sum(1).tolist() == np.bincount(kinds).tolist()


def test_a_picture_is_xml_with_a_line_for_each_name():
    axes = picture.Axes(np.linspace(0, 1, 5), {0: "0", 1: "1"}, 0, 1, "x")
    lines = np.array([[0, 0.5, np.nan, 1, 2], [1, 1, 1, 1, 1]])
    text = picture.draw("title", {"a": lines, "b": lines}, {"one": "#000", "two": "#111"}, axes)
    found = xml.etree.ElementTree.fromstring(text)
    assert len(found.findall("{*}polyline")) == 4


def test_a_matrix_shows_shares_of_the_true_kind():
    text = matrices.draw("title", {"row": {"a": np.array([[30, 10], [0, 5]])}}, "XY")
    cells = [one.text for one in xml.etree.ElementTree.fromstring(text).findall("{*}text")]
    assert cells[-4:] == ["75", "25", "0", "100"]
