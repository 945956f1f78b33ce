// SPDX-License-Identifier: Apache-2.0
// The numbers below are scipy 1.17.1's, printed by this program:
//
// import numpy as np
// from scipy.stats import gaussian_kde
// from scipy.signal import find_peaks
//
// def samples(parts, n, seed=1):           # parts: (mean, deviation), taken in turn
//     x, out = seed, []
//     for i in range(n):
//         total = 0
//         for _ in range(12):              # Irwin-Hall: close to a normal, and the same in C++
//             x = (1664525 * x + 1013904223) % 2**32
//             total += x / 2**32
//         mean, deviation = parts[i % len(parts)]
//         out.append(np.float32(min(max(mean + deviation * (total - 6), 0), 1)))
//     return np.array(out, dtype=np.float64)
//
// def report(parts, n):
//     s = samples(parts, n)
//     kde = gaussian_kde(s, 'scott')
//     grid = np.linspace(0, 1, 513)
//     d = kde(grid)
//     p = np.pad(d, 1)
//     peaks = find_peaks(p, prominence=0.05 * d.max())[0] - 1
//     valleys = [a + int(np.argmin(d[a:b + 1])) for a, b in zip(peaks, peaks[1:])]
//     depth = np.mean([1 - d[v] / min(d[a], d[b]) for v, a, b in zip(valleys, peaks, peaks[1:])])
//     if valleys else 0 print(parts, n, repr(float(np.sqrt(kde.covariance[0, 0]))),
//     list(map(int,peaks)), valleys, repr(float(depth)),
//           [float(f'{d[i]:.10g}') for i in (64, 256, 307, 410, 500)])
//
// report([(.6, .05)], 400)
// report([(.4, .05), (.8, .05)], 400)
// report([(.5, .03), (.7, .03), (.9, .03)], 600)
// report([(.5, .03), (.7, .03), (.98, .03)], 600)
// report([(.5, .08), (.7, .08), (.9, .08)], 600)
#include "common/policy/kde.h"

#include <cmath>
#include <numeric>
#include <ostream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/policy/sparsity_samples.h"

namespace palimpsest {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr size_t kGrid = 513;
constexpr double kProminence = 0.05;
constexpr size_t kProbes[] = {64, 256, 307, 410, 500};

struct Recorded {
  const char* name;
  std::vector<Part> parts;
  size_t count;
  double bandwidth;
  std::vector<size_t> peaks;
  std::vector<size_t> valleys;
  double depth;
  std::vector<double> density;  // at kProbes
};

class LikeScipy : public testing::TestWithParam<Recorded> {};

TEST_P(LikeScipy, GivesTheSameBandwidthDensityPeaksAndValleys) {
  const Recorded& recorded = GetParam();
  const std::vector<float> samples = MixtureSamples(recorded.parts, recorded.count);
  const double bandwidth = ScottBandwidth(samples);
  EXPECT_NEAR(bandwidth, recorded.bandwidth, 1e-12);
  const std::vector<double> density = EstimateDensity(samples, bandwidth, kGrid);
  for (size_t i = 0; i < recorded.density.size(); ++i) {
    EXPECT_NEAR(density[kProbes[i]], recorded.density[i], 1e-9) << "at " << kProbes[i];
  }
  const Modes modes = FindModes(density, kProminence);
  EXPECT_EQ(modes.peaks, recorded.peaks);
  EXPECT_EQ(modes.valleys, recorded.valleys);
  EXPECT_NEAR(ValleyDepth(density, modes), recorded.depth, 1e-9);
}

INSTANTIATE_TEST_SUITE_P(
    Mixtures, LikeScipy,
    testing::Values(
        Recorded{"OneMode",
                 {{.6, .05}},
                 400,
                 0.01534783866809675,
                 {314},
                 {},
                 0.0,
                 {8.789219145e-119, 1.590979768, 6.631691311, 2.376667335e-06, 2.194468201e-57}},
        Recorded{"TwoModes",
                 {{.4, .05}, {.8, .05}},
                 400,
                 0.06253643150543203,
                 {203, 409},
                 {306},
                 0.9110823757940429,
                 {0.005506913663, 1.123735066, 0.2168957629, 2.436301751, 0.2228295713}},
        Recorded{"ThreeModes",
                 {{.5, .03}, {.7, .03}, {.9, .03}},
                 600,
                 0.0468064296841997,
                 {254, 358, 462},
                 {306, 410},
                 0.606465488628923,
                 {4.226564513e-11, 2.373147396, 0.9356578789, 0.9302773671, 0.9685932022}},
        Recorded{"ThreeModesOneAtTheEdge",
                 {{.5, .03}, {.7, .03}, {.98, .03}},
                 600,
                 0.05534165137123517,
                 {254, 357, 501},
                 {306, 429},
                 0.6399027807270503,
                 {2.054554744e-08, 2.11445793, 1.172869508, 0.6060347239, 2.194153118}},
        Recorded{"ThreeKindsThatRunIntoOne",
                 {{.5, .08}, {.7, .08}, {.9, .08}},
                 600,
                 0.05144188795916296,
                 {378},
                 {},
                 0.0,
                 {6.661562015e-05, 1.533260444, 1.532826428, 1.616088843, 1.200888163}}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(Density, IntegratesToOneAwayFromTheEdges) {
  const std::vector<float> samples = MixtureSamples({{.3, .05}, {.7, .05}}, 300);
  const auto density = EstimateDensity(samples, ScottBandwidth(samples), kGrid);
  EXPECT_NEAR(std::accumulate(density.begin(), density.end(), 0.0) / (kGrid - 1), 1.0, 1e-3);
}

TEST(Density, OfOneRepeatedValueIsOneModeNotADivisionByZero) {
  for (const float value : {0.0f, 0.4321f, 1.0f}) {
    const std::vector<float> samples(100, value);
    EXPECT_NEAR(ScottBandwidth(samples), 0.0, 1e-12);
    const auto density = EstimateDensity(samples, ScottBandwidth(samples), kGrid);
    for (const double d : density) EXPECT_TRUE(std::isfinite(d));
    const Modes modes = FindModes(density, kProminence);
    ASSERT_EQ(modes.peaks.size(), 1u);
    EXPECT_NEAR(static_cast<double>(modes.peaks[0]) / (kGrid - 1), value, 1e-3);
  }
}

TEST(Density, TinyAndHugeBandwidthsStayFinite) {
  const std::vector<float> samples = {0.0f, 0.5f, 1.0f};
  for (const double bandwidth : {0.0, 1e-300, 1e-3, 1.0, 1e6}) {
    for (const double d : EstimateDensity(samples, bandwidth, kGrid)) {
      EXPECT_TRUE(std::isfinite(d) && d >= 0.0) << bandwidth;
    }
  }
}

TEST(FindModes, TakesTheMiddleOfAFlatTopAndOfAnEmptyValley) {
  const Modes modes = FindModes(std::vector<double>{0, 2, 2, 2, 0, 0, 0, 3, 0}, kProminence);
  EXPECT_THAT(modes.peaks, ElementsAre(2, 7));
  EXPECT_THAT(modes.valleys, ElementsAre(5));
}

TEST(FindModes, SeesPeaksOnBothEdges) {
  const Modes modes = FindModes(std::vector<double>{3, 1, 2}, kProminence);
  EXPECT_THAT(modes.peaks, ElementsAre(0, 2));
  EXPECT_THAT(modes.valleys, ElementsAre(1));
}

TEST(FindModes, LeavesOutWhatStandsOutLessThanItsShareOfTheMaximum) {
  const std::vector<double> density = {0, 10, 5, 5.4, 5, 8, 0};
  EXPECT_THAT(FindModes(density, 0.05).peaks, ElementsAre(1, 5));
  EXPECT_THAT(FindModes(density, 0.03).peaks, ElementsAre(1, 3, 5));
}

TEST(FindModes, FlatNothingHasNoMode) {
  EXPECT_THAT(FindModes(std::vector<double>(9, 0.0), kProminence).peaks, IsEmpty());
  EXPECT_THAT(FindModes({}, kProminence).peaks, IsEmpty());
}

}  // namespace
}  // namespace palimpsest
