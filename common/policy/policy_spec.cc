// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/policy/policies.h"

namespace palimpsest {
namespace {

template <typename... Parts>
absl::Status Refuse(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

absl::Status ValidateTokens(const PolicySpec& spec) {
  if (spec.budget_tokens < kWindowTokensMin || spec.budget_tokens > limits::kPositionMax) {
    return Refuse("budget_tokens ", spec.budget_tokens, ": expected ", kWindowTokensMin, " to ",
                  limits::kPositionMax);
  }
  if (spec.window_tokens > kWindowTokensMax || spec.window_tokens % kWindowTokensMin != 0) {
    return Refuse("window_tokens ", spec.window_tokens, ": expected a multiple of ",
                  kWindowTokensMin, " up to ", kWindowTokensMax,
                  ", or 0 for what suits the budget");
  }
  return absl::OkStatus();
}

absl::Status ValidateRetention(const PolicySpec& spec) {
  const auto& steps = spec.retention;
  const auto refuse = [&steps] {
    return Refuse("retention [", absl::StrJoin(steps, ", "), "]: expected 1 to ",
                  kRetentionStepsMax, " strictly falling counts from ", kWindowTokensMax, " to 1");
  };
  if (steps.empty() || steps.size() > kRetentionStepsMax) return refuse();
  // 0 is no floor: models loop when whole thoughts vanish (ThinKV, ablation of the minimum).
  if (steps.front() > kWindowTokensMax || steps.back() == 0) return refuse();
  for (size_t i = 1; i < steps.size(); ++i) {
    if (steps[i] >= steps[i - 1]) return refuse();
  }
  return absl::OkStatus();
}

absl::Status ValidateFormats(const PolicySpec& spec) {
  for (const Thought thought : kThoughts) {
    const PageFormat& format = spec.formats.of(thought);
    for (const int value : {static_cast<int>(format.k), static_cast<int>(format.v)}) {
      if (value < 0 || value >= kFormatCount) {
        return Refuse("formats ", Letter(thought), "=", value, ": expected 0 to ",
                      kFormatCount - 1);
      }
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateCalibration(const PolicySpec& spec) {
  const auto& layers = spec.sparsity_layers;
  const auto& theta = spec.theta;
  const auto refuse_layers = [&layers] {
    return Refuse("sparsity_layers [", absl::StrJoin(layers, ", "), "]: expected at most ",
                  limits::kSparsityLayersMax, " strictly rising layers from 0 to ",
                  kSparsityLayerMax);
  };
  if (layers.size() > limits::kSparsityLayersMax) return refuse_layers();
  if (!layers.empty() && layers.back() > kSparsityLayerMax) return refuse_layers();
  for (size_t i = 1; i < layers.size(); ++i) {
    if (layers[i] <= layers[i - 1]) return refuse_layers();
  }
  if (theta.empty() && layers.empty()) return absl::OkStatus();
  // The comparison is false for NaN, so NaN is refused.
  const bool ordered =
      theta.size() == 2 && theta[0] >= 0.0f && theta[0] < theta[1] && theta[1] <= 1.0f;
  if (!ordered) {
    return Refuse("theta [", absl::StrJoin(theta, ", "),
                  "]: expected two strictly rising values in [0, 1], as sparsity_layers is set");
  }
  if (layers.empty()) {
    return Refuse("sparsity_layers []: expected at least one layer, as theta is set");
  }
  return absl::OkStatus();
}

}  // namespace

uint32_t WindowTokensOf(const PolicySpec& spec) {
  if (spec.window_tokens > 0) return spec.window_tokens;
  constexpr uint32_t kLongest = 128;
  const uint32_t eighth = spec.budget_tokens / 8 / kWindowTokensMin * kWindowTokensMin;
  return std::clamp(eighth, kWindowTokensMin, kLongest);
}

absl::Status Validate(const PolicySpec& spec) {
  KV_RETURN_IF_ERROR(ValidateTokens(spec));
  KV_RETURN_IF_ERROR(ValidateRetention(spec));
  KV_RETURN_IF_ERROR(ValidateFormats(spec));
  return ValidateCalibration(spec);
}

}  // namespace palimpsest
