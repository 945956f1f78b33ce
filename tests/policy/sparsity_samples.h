// SPDX-License-Identifier: Apache-2.0
// Samples that Python makes to the bit as well, so that scipy's answers can be recorded.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace palimpsest {

struct Part {
  double mean = 0.0;
  double deviation = 0.0;
};

// `count` samples, the parts taken in turn; the sum of twelve uniforms is close to a normal.
inline std::vector<float> MixtureSamples(const std::vector<Part>& parts, size_t count,
                                         uint32_t seed = 1) {
  std::vector<float> samples;
  for (size_t i = 0; i < count; ++i) {
    double total = 0.0;
    for (int draw = 0; draw < 12; ++draw) {
      seed = 1664525u * seed + 1013904223u;
      total += static_cast<double>(seed) / 4294967296.0;
    }
    const Part& part = parts[i % parts.size()];
    const double value = part.mean + part.deviation * (total - 6.0);
    samples.push_back(static_cast<float>(std::clamp(value, 0.0, 1.0)));
  }
  return samples;
}

}  // namespace palimpsest
