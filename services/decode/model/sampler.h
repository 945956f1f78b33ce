// SPDX-License-Identifier: Apache-2.0
// Picks the next token from logits. A pure function: the same logits, settings, seed and position
// give the same token, whatever else is in the batch and however often a sequence was moved.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace palimpsest {

// Filters apply in this order: temperature, top-k, top-p, min-p; each to what the one before left,
// as in transformers.
struct SamplingParams {
  float temperature = 0.0f;  // 0: greedy, and nothing below matters
  int top_k = 0;             // keep the k likeliest; 0: all
  float top_p = 1.0f;        // keep the likeliest whose probabilities reach p together; 1: all
  float min_p = 0.0f;        // keep those at least this share as likely as the likeliest; 0: all
  uint64_t seed = 0;         // of the request
};

// InvalidArgument names the parameter, what was found and what is allowed.
absl::Status CheckSamplingParams(const SamplingParams& params);

// The token for `position` (the number of tokens before it). Ties go to the lower id. DataLoss
// when a logit is NaN or the largest is infinite: the model or its cache is broken, and any token
// would hide it. REQUIRES: params pass CheckSamplingParams, logits are not empty.
absl::StatusOr<int32_t> SampleToken(absl::Span<const float> logits, const SamplingParams& params,
                                    uint32_t position);

}  // namespace palimpsest
