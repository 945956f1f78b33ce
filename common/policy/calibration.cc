// SPDX-License-Identifier: Apache-2.0
#include "common/policy/calibration.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"
#include "common/policy/kde.h"

namespace palimpsest {
namespace {

constexpr size_t kThreeModes = 2;  // its index in ModeCounts

// What the three-mode prompts of a layer add up to.
struct LayerSums {
  double valley_depth = 0.0;
  double theta[2] = {0.0, 0.0};
};

absl::Status ValidateRuns(absl::Span<const SparsityRun> runs, const CalibrationSettings& settings) {
  if (runs.empty()) return absl::InvalidArgumentError("no prompts: expected at least one run");
  const size_t layers = runs[0].by_layer.size();
  if (layers == 0) return absl::InvalidArgumentError("prompt 0: no layers");
  for (size_t prompt = 0; prompt < runs.size(); ++prompt) {
    if (runs[prompt].by_layer.size() != layers) {
      return absl::InvalidArgumentError(absl::StrCat(
          "prompt ", prompt, ": ", runs[prompt].by_layer.size(), " layers, prompt 0 has ", layers));
    }
    for (size_t layer = 0; layer < layers; ++layer) {
      const std::vector<float>& values = runs[prompt].by_layer[layer];
      const auto place = [&] { return absl::StrCat("prompt ", prompt, ", layer ", layer); };
      if (values.size() < settings.steps_min) {
        return absl::InvalidArgumentError(absl::StrCat(
            place(), ": ", values.size(), " steps, expected at least ", settings.steps_min));
      }
      const auto bad = std::find_if(values.begin(), values.end(),
                                    [](float value) { return !(value >= 0.0f && value <= 1.0f); });
      if (bad != values.end()) {
        return absl::InvalidArgumentError(absl::StrCat(place(), ", step ", bad - values.begin(),
                                                       ": sparsity ", *bad, ", expected 0 to 1"));
      }
    }
  }
  return absl::OkStatus();
}

void AddPrompt(absl::Span<const float> values, const CalibrationSettings& settings,
               LayerCalibration& layer, LayerSums& sums) {
  const uint32_t bins = settings.histogram_bins;
  for (const float value : values) {
    const auto bin = static_cast<uint32_t>(value * static_cast<float>(bins));
    ++layer.histogram[std::min(bin, bins - 1)];
  }
  const std::vector<double> density =
      EstimateDensity(values, ScottBandwidth(values), settings.grid_points);
  const size_t stride = (settings.grid_points - 1) / bins;
  for (size_t i = 0; i <= bins; ++i) layer.density[i] += density[i * stride];

  const Modes modes = FindModes(density, settings.prominence);
  const size_t seen = std::min(modes.peaks.size(), layer.prompts_by_modes.size()) - 1;
  ++layer.prompts_by_modes[seen];
  if (seen != kThreeModes) return;
  sums.valley_depth += ValleyDepth(density, modes);
  for (size_t i = 0; i < 2; ++i) {
    sums.theta[i] += static_cast<double>(modes.valleys[i]) / (settings.grid_points - 1);
  }
}

void Finish(uint32_t prompt_count, LayerCalibration& layer, const LayerSums& sums) {
  const uint32_t three = layer.prompts_by_modes[kThreeModes];
  layer.three_mode_share = static_cast<double>(three) / prompt_count;
  layer.valley_depth = three == 0 ? 0.0 : sums.valley_depth / three;
  layer.score = layer.three_mode_share * layer.valley_depth;
  for (double& value : layer.density) value = std::round(value / prompt_count * 1e4) / 1e4;
}

// The best three-mode layers, rising. Of equals the lower layer wins.
std::vector<uint32_t> ChooseLayers(const Calibration& result) {
  std::vector<uint32_t> chosen;
  for (uint32_t i = 0; i < result.layers.size(); ++i) {
    const LayerCalibration& layer = result.layers[i];
    if (layer.score > 0.0 && layer.three_mode_share >= result.settings.share_min) {
      chosen.push_back(i);
    }
  }
  std::stable_sort(chosen.begin(), chosen.end(), [&result](uint32_t a, uint32_t b) {
    return result.layers[a].score > result.layers[b].score;
  });
  chosen.resize(std::min<size_t>(chosen.size(), result.settings.layer_count));
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

// Averages the valleys over every (prompt, layer of L*) that has three modes.
std::vector<float> AverageTheta(const Calibration& result, absl::Span<const LayerSums> sums) {
  double total[2] = {0.0, 0.0};
  double pairs = 0.0;
  for (const uint32_t layer : result.sparsity_layers) {
    pairs += result.layers[layer].prompts_by_modes[kThreeModes];
    for (size_t i = 0; i < 2; ++i) total[i] += sums[layer].theta[i];
  }
  return {static_cast<float>(total[0] / pairs), static_cast<float>(total[1] / pairs)};
}

std::string Percent(double share) { return absl::StrCat(std::lround(share * 100.0), " %"); }

// What was seen instead of three modes, so that the user knows which case this is.
std::string DescribeModes(const Calibration& result) {
  ModeCounts counts = {};
  for (const LayerCalibration& layer : result.layers) {
    for (size_t i = 0; i < counts.size(); ++i) counts[i] += layer.prompts_by_modes[i];
  }
  const double pairs = std::accumulate(counts.begin(), counts.end(), 0.0);
  const auto most = std::max_element(counts.begin(), counts.end()) - counts.begin();
  constexpr absl::string_view kMostly[] = {
      "Mostly one mode: sparsity does not tell kinds of thought apart here.",
      "Mostly two modes: sparsity tells dense from sparse steps here, but no third kind.",
      "Three modes are the most frequent, but not in the same layers throughout.",
      "Mostly four or more modes: the runs may be too short or too mixed."};
  return absl::StrCat("Modes seen over all prompts and layers: one ", Percent(counts[0] / pairs),
                      ", two ", Percent(counts[1] / pairs), ", three ", Percent(counts[2] / pairs),
                      ", more ", Percent(counts[3] / pairs), ". ", kMostly[most]);
}

std::string Warn(const Calibration& result) {
  const size_t found = result.sparsity_layers.size();
  if (found == result.settings.layer_count) return "";
  if (found > 0) {
    return absl::StrCat("Only ", found, " of the ", result.settings.layer_count,
                        " wanted layers have three modes in at least ",
                        Percent(result.settings.share_min), " of the prompts: layer ",
                        absl::StrJoin(result.sparsity_layers, ", "), ".");
  }
  const auto best = std::max_element(
      result.layers.begin(), result.layers.end(),
      [](const auto& a, const auto& b) { return a.three_mode_share < b.three_mode_share; });
  const std::string nearest = best->three_mode_share == 0.0
                                  ? std::string()
                                  : absl::StrCat(" (best: layer ", best - result.layers.begin(),
                                                 " with ", Percent(best->three_mode_share), ")");
  return absl::StrCat("No layer has three modes in at least ", Percent(result.settings.share_min),
                      " of the prompts", nearest, ", so thoughts are not told apart: every token ",
                      "is class R and eviction follows the budget alone. ", DescribeModes(result));
}

}  // namespace

absl::StatusOr<Calibration> Calibrate(absl::Span<const SparsityRun> runs,
                                      const CalibrationSettings& settings) {
  KV_RETURN_IF_ERROR(Validate(settings));
  KV_RETURN_IF_ERROR(ValidateRuns(runs, settings));
  Calibration result;
  result.settings = settings;
  result.prompt_count = static_cast<uint32_t>(runs.size());
  result.layers.resize(runs[0].by_layer.size());
  std::vector<LayerSums> sums(result.layers.size());
  for (size_t i = 0; i < result.layers.size(); ++i) {
    LayerCalibration& layer = result.layers[i];
    layer.histogram.resize(settings.histogram_bins);
    layer.density.resize(settings.histogram_bins + 1);
    for (const SparsityRun& run : runs) AddPrompt(run.by_layer[i], settings, layer, sums[i]);
    Finish(result.prompt_count, layer, sums[i]);
  }
  result.sparsity_layers = ChooseLayers(result);
  if (!result.sparsity_layers.empty()) result.theta = AverageTheta(result, sums);
  result.warning = Warn(result);
  return result;
}

}  // namespace palimpsest
