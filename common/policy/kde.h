// SPDX-License-Identifier: Apache-2.0
// Gaussian kernel density over [0, 1] and its modes, as calibration needs them: the numbers are
// those of scipy's gaussian_kde (Scott) and find_peaks (prominence), against which they are tested.
#pragma once

#include <cstddef>
#include <vector>

#include "absl/types/span.h"

namespace palimpsest {

// Scott's rule: the sample standard deviation (n - 1) times n^(-1/5). 0 below two samples.
double ScottBandwidth(absl::Span<const float> samples);

// The density at i / (grid_points - 1). A bandwidth below one grid step is raised to it: what is
// narrower could fall between two points. REQUIRES: samples in [0, 1], at least one;
// grid_points >= 2.
std::vector<double> EstimateDensity(absl::Span<const float> samples, double bandwidth,
                                    size_t grid_points);

struct Modes {
  std::vector<size_t> peaks;    // grid indices, rising
  std::vector<size_t> valleys;  // the lowest point between adjacent peaks; one fewer than peaks
};

// Peaks whose prominence is at least `prominence` times the maximum. The density counts as 0
// outside the grid, so a peak may lie on its edge (sparsity piles up at 1).
Modes FindModes(absl::Span<const double> density, double prominence);

// How deep the valleys cut: the mean over valleys of 1 - valley / lower neighbouring peak. 0
// without a valley.
double ValleyDepth(absl::Span<const double> density, const Modes& modes);

}  // namespace palimpsest
