// SPDX-License-Identifier: Apache-2.0
#include "common/policy/classifier.h"

namespace palimpsest {

bool IsCalibrated(const PolicySpec& spec) {
  return spec.theta.size() == 2 && !spec.sparsity_layers.empty();
}

Thought Classify(const PolicySpec& spec, absl::Span<const float> sparsity) {
  if (!IsCalibrated(spec) || sparsity.size() != spec.sparsity_layers.size()) {
    return Thought::kReasoning;
  }
  double sum = 0.0;
  for (const float value : sparsity) {
    // Written so that NaN fails too.
    if (!(value >= 0.0f && value <= 1.0f)) return Thought::kReasoning;
    sum += value;
  }
  const double mean = sum / static_cast<double>(sparsity.size());
  if (mean < spec.theta[0]) return Thought::kExecution;
  if (mean < spec.theta[1]) return Thought::kReasoning;
  return Thought::kTransition;
}

}  // namespace palimpsest
