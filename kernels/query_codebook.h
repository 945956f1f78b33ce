// SPDX-License-Identifier: Apache-2.0
// Typical queries of a model, for selectors that ask which tokens future queries will want. Made
// once per model by `palimpsest calibrate`, read by every backend.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace palimpsest {

inline constexpr uint32_t kCodebookQueriesMax = 1024;
inline constexpr float kLaneShareMin = 1.0f / 16;
inline constexpr float kLaneShareMax = 64.0f;

struct QueryCodebook {
  int layers = 0;
  int query_heads = 0;
  int head_dim = 0;
  uint32_t queries = 0;  // of each (layer, query head): a multiple of 16
  // [layers][query_heads][queries][head_dim] bf16, before RoPE: what they ask for does not depend
  // on where they stand.
  std::vector<uint16_t> data;
  // How the model turns a query that stands at position p: pair (c, c + head_dim / 2) by the angle
  // p * inverse_frequencies[c], times attention_factor.
  std::vector<float> inverse_frequencies;  // [head_dim / 2]
  float attention_factor = 1.0f;

  // [layers][KV heads]: what of a budget each lane gets, as a multiple of the mean; their mean
  // is 1. Empty: all lanes get the same. Measured with the queries (docs/calibration.md).
  std::vector<float> lane_shares = {};
};

// OK for none, and for one of each of `lanes` lanes that are finite, within kLaneShareMin and
// kLaneShareMax and of mean 1 (to 1 %). Else InvalidArgument that says what is wrong.
absl::Status CheckLaneShares(absl::Span<const float> shares, size_t lanes);

}  // namespace palimpsest
