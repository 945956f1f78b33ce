// SPDX-License-Identifier: Apache-2.0
// From attention sparsity to a kind of thought (ThinKV section 3): the denser, the more exact.
#pragma once

#include "absl/types/span.h"
#include "common/base/thought.h"
#include "common/policy/policy.h"

namespace palimpsest {

// Whether `spec` carries a calibration; without one every window is R.
bool IsCalibrated(const PolicySpec& spec);

// The label for a window: with s the mean of `sparsity`, E below theta[0], R below theta[1], else
// T. R as well when `sparsity` is not one value in [0, 1] per calibrated layer: what cannot be
// judged keeps its precision.
Thought Classify(const PolicySpec& spec, absl::Span<const float> sparsity);

}  // namespace palimpsest
