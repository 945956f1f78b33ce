// SPDX-License-Identifier: Apache-2.0
#include "common/policy/kde.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "common/base/check.h"

namespace palimpsest {
namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr double kReach = 8.5;  // bandwidths; beyond it a kernel is below 1e-15 of its peak

// Adds one kernel, walking outwards from the grid point nearest to `center`. With x = x0 + i h the
// Gaussian obeys g(i+1) = g(i) r(i), r(i+1) = r(i) q, so two exponentials serve the whole kernel;
// a run has millions of them. The rounding error grows with i^2 and stays below 1e-10.
void AddKernel(std::vector<double>& density, double center, double bandwidth) {
  const double step = 1.0 / static_cast<double>(density.size() - 1);
  const auto last = static_cast<int64_t>(density.size()) - 1;
  const auto nearest = static_cast<int64_t>(std::lround(center / step));
  const auto reach = static_cast<int64_t>(kReach * bandwidth / step) + 1;
  const double offset = (static_cast<double>(nearest) * step - center) / bandwidth;
  const double h = step / bandwidth;
  const double q = std::exp(-h * h);
  const double at_nearest = std::exp(-0.5 * offset * offset);
  const auto walk = [&](int64_t direction) {
    double value = at_nearest;
    double ratio = std::exp(-h * (static_cast<double>(direction) * offset + 0.5 * h));
    const int64_t steps = std::min(reach, direction > 0 ? last - nearest : nearest);
    for (int64_t i = 1; i <= steps; ++i) {
      value *= ratio;
      ratio *= q;
      density[static_cast<size_t>(nearest + direction * i)] += value;
    }
  };
  density[static_cast<size_t>(nearest)] += at_nearest;
  walk(1);
  walk(-1);
}

// The lower of the two saddles a climber from `peak` to higher ground, or out, must cross.
double Prominence(absl::Span<const double> density, size_t peak) {
  const double height = density[peak];
  double left = height;
  size_t i = peak;
  while (i > 0 && density[i] <= height) left = std::min(left, density[--i]);
  if (i == 0 && density[0] <= height) left = 0.0;
  double right = height;
  size_t j = peak;
  while (j + 1 < density.size() && density[j] <= height) right = std::min(right, density[++j]);
  if (j + 1 == density.size() && density[j] <= height) right = 0.0;
  return height - std::max(left, right);
}

// Where the density is lowest between two peaks: the middle, if it is flat there (empty, say).
size_t Valley(absl::Span<const double> density, size_t from, size_t to) {
  size_t first = from;
  for (size_t i = from; i <= to; ++i) {
    if (density[i] < density[first]) first = i;
  }
  size_t last = first;
  while (last < to && density[last + 1] == density[first]) ++last;
  return (first + last) / 2;
}

}  // namespace

double ScottBandwidth(absl::Span<const float> samples) {
  if (samples.size() < 2) return 0.0;
  const auto count = static_cast<double>(samples.size());
  double sum = 0.0;
  for (const float sample : samples) sum += sample;
  const double mean = sum / count;
  double squares = 0.0;
  for (const float sample : samples) squares += (sample - mean) * (sample - mean);
  return std::sqrt(squares / (count - 1.0)) * std::pow(count, -0.2);
}

std::vector<double> EstimateDensity(absl::Span<const float> samples, double bandwidth,
                                    size_t grid_points) {
  KV_CHECK(!samples.empty() && grid_points >= 2);
  bandwidth = std::max(bandwidth, 1.0 / static_cast<double>(grid_points - 1));
  std::vector<double> density(grid_points, 0.0);
  for (const float sample : samples) {
    KV_CHECK(sample >= 0.0f && sample <= 1.0f);
    AddKernel(density, sample, bandwidth);
  }
  const double norm =
      1.0 / (static_cast<double>(samples.size()) * bandwidth * std::sqrt(2.0 * kPi));
  for (double& value : density) value *= norm;
  return density;
}

Modes FindModes(absl::Span<const double> density, double prominence) {
  Modes modes;
  if (density.empty()) return modes;
  const double least = prominence * *std::max_element(density.begin(), density.end());
  for (size_t i = 0; i < density.size();) {
    size_t end = i;  // the last point of a flat top
    while (end + 1 < density.size() && density[end + 1] == density[i]) ++end;
    const double before = i == 0 ? 0.0 : density[i - 1];
    const double after = end + 1 == density.size() ? 0.0 : density[end + 1];
    if (density[i] > before && density[i] > after && Prominence(density, i) >= least) {
      modes.peaks.push_back((i + end) / 2);
    }
    i = end + 1;
  }
  for (size_t i = 1; i < modes.peaks.size(); ++i) {
    modes.valleys.push_back(Valley(density, modes.peaks[i - 1], modes.peaks[i]));
  }
  return modes;
}

double ValleyDepth(absl::Span<const double> density, const Modes& modes) {
  double sum = 0.0;
  for (size_t i = 0; i < modes.valleys.size(); ++i) {
    const double lower = std::min(density[modes.peaks[i]], density[modes.peaks[i + 1]]);
    sum += 1.0 - density[modes.valleys[i]] / lower;
  }
  return modes.valleys.empty() ? 0.0 : sum / static_cast<double>(modes.valleys.size());
}

}  // namespace palimpsest
