// SPDX-License-Identifier: Apache-2.0
// What a calibration and its settings may hold, whether computed here or read from a file.
#include <algorithm>
#include <functional>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/policy/calibration.h"

namespace palimpsest {
namespace {

constexpr uint32_t kGridIntervalsMax = 1u << 16;
constexpr uint32_t kPromptsMax = 1u << 20;
constexpr size_t kLayersMax = 1024;

// False for NaN.
bool IsShare(double value) { return value >= 0.0 && value <= 1.0; }

template <typename T>
absl::Status Refuse(absl::string_view field, const T& value, absl::string_view allowed) {
  return absl::InvalidArgumentError(absl::StrCat(field, " ", value, ": expected ", allowed));
}

absl::Status ValidateChoice(const Calibration& calibration) {
  const auto& chosen = calibration.sparsity_layers;
  const auto& theta = calibration.theta;
  const bool rising =
      std::adjacent_find(chosen.begin(), chosen.end(), std::greater_equal<>()) == chosen.end();
  const bool inside = chosen.empty() || chosen.back() < calibration.layers.size();
  if (!rising || !inside || chosen.size() > calibration.settings.layer_count) {
    return Refuse("sparsity_layers", absl::StrCat("[", absl::StrJoin(chosen, ", "), "]"),
                  absl::StrCat("at most ", calibration.settings.layer_count,
                               " strictly rising layers below ", calibration.layers.size()));
  }
  const bool ordered =
      theta.size() == 2 && theta[0] >= 0.0f && theta[0] < theta[1] && theta[1] <= 1.0f;
  if (chosen.empty() ? !theta.empty() : !ordered) {
    return Refuse("theta", absl::StrCat("[", absl::StrJoin(theta, ", "), "]"),
                  "two strictly rising values in [0, 1], or none where sparsity_layers is empty");
  }
  return absl::OkStatus();
}

absl::Status ValidateLayer(const LayerCalibration& layer, size_t index,
                           const Calibration& calibration) {
  const auto field = [index](absl::string_view name) {
    return absl::StrCat("layers[", index, "].", name);
  };
  const size_t bins = calibration.settings.histogram_bins;
  if (!IsShare(layer.score)) return Refuse(field("score"), layer.score, "0 to 1");
  if (!IsShare(layer.three_mode_share)) {
    return Refuse(field("three_mode_share"), layer.three_mode_share, "0 to 1");
  }
  if (!IsShare(layer.valley_depth)) {
    return Refuse(field("valley_depth"), layer.valley_depth, "0 to 1");
  }
  const auto& counts = layer.prompts_by_modes;
  const uint64_t prompts = std::accumulate(counts.begin(), counts.end(), uint64_t{0});
  if (prompts != calibration.prompt_count) {
    return Refuse(field("prompts_by_modes sum"), prompts,
                  absl::StrCat("prompt_count ", calibration.prompt_count));
  }
  if (layer.histogram.size() != bins) {
    return Refuse(field("histogram size"), layer.histogram.size(), absl::StrCat(bins));
  }
  if (layer.density.size() != bins + 1) {
    return Refuse(field("density size"), layer.density.size(), absl::StrCat(bins + 1));
  }
  for (const double value : layer.density) {
    if (!(value >= 0.0 && value < 1e9)) return Refuse(field("density"), value, "0 to 1e9");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Validate(const CalibrationSettings& s) {
  if (s.layer_count < 1 || s.layer_count > limits::kSparsityLayersMax) {
    return Refuse("layer_count", s.layer_count, absl::StrCat("1 to ", limits::kSparsityLayersMax));
  }
  if (!IsShare(s.prominence)) return Refuse("prominence", s.prominence, "0 to 1");
  if (!IsShare(s.share_min)) return Refuse("share_min", s.share_min, "0 to 1");
  if (s.grid_points < 3 || s.grid_points - 1 > kGridIntervalsMax) {
    return Refuse("grid_points", s.grid_points, absl::StrCat("3 to ", kGridIntervalsMax + 1));
  }
  if (s.histogram_bins < 2 || (s.grid_points - 1) % s.histogram_bins != 0) {
    return Refuse("histogram_bins", s.histogram_bins, "a divisor of grid_points - 1, 2 or more");
  }
  if (s.steps_min < 2 || s.steps_min > limits::kPositionMax) {
    return Refuse("steps_min", s.steps_min, absl::StrCat("2 to ", limits::kPositionMax));
  }
  return absl::OkStatus();
}

absl::Status Validate(const Calibration& calibration) {
  KV_RETURN_IF_ERROR(Validate(calibration.settings));
  if (calibration.prompt_count < 1 || calibration.prompt_count > kPromptsMax) {
    return Refuse("prompt_count", calibration.prompt_count, absl::StrCat("1 to ", kPromptsMax));
  }
  if (calibration.layers.empty() || calibration.layers.size() > kLayersMax) {
    return Refuse("layers size", calibration.layers.size(), absl::StrCat("1 to ", kLayersMax));
  }
  for (size_t i = 0; i < calibration.layers.size(); ++i) {
    KV_RETURN_IF_ERROR(ValidateLayer(calibration.layers[i], i, calibration));
  }
  return ValidateChoice(calibration);
}

}  // namespace palimpsest
