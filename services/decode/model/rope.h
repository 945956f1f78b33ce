// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding as Hugging Face computes it: channel i of a head turns together with
// channel i + head_dim / 2 (half-split), by position * inverse_frequency[i].
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "services/decode/model/model_config.h"

namespace palimpsest {

// Radians a token, one for each of head_dim / 2 channel pairs, after the config's scaling.
std::vector<float> InverseFrequencies(const RopeConfig& rope, int head_dim);

// Cosines and sines of a step's rows: computed once a step, used by every layer.
class RotaryTable {
 public:
  // Holds up to `rows_max` rows; allocates here and never again.
  RotaryTable(const RopeConfig& rope, int head_dim, int rows_max);

  // Computes row `row` for `position`. The angle is rounded to float before the cosine is taken,
  // because transformers does so and models are trained with it: at position 16,000 that rounding
  // is worth about 1e-3 radians. REQUIRES: row < rows_max.
  void Set(int row, uint32_t position);

  // What Set computed for `row`: [head_dim / 2] each.
  absl::Span<const float> cosines(int row) const;
  absl::Span<const float> sines(int row) const;

  // Rotates `heads` heads of one row in place. `x` is [heads, head_dim].
  void Rotate(int row, int heads, float* x) const;

  // Takes Rotate back, the attention factor too.
  void Unrotate(int row, int heads, float* x) const;

 private:
  const int half_dim_;
  const float attention_factor_;
  const std::vector<float> inverse_frequencies_;
  std::vector<float> cos_;  // [rows_max, head_dim / 2]
  std::vector<float> sin_;
};

}  // namespace palimpsest
